"""`python -m sandbox demo` shows the whole way, and leaves nothing running whichever of its processes is killed.

Every demo is a program of its own, with a temporary directory of its own, so that all that it leaves would be seen. They wait
more than they work, so some run side by side.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import kubernetes.client
import kubernetes.config
import pytest

from tests.waiting import until

pytestmark = [
    pytest.mark.api,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
    pytest.mark.timeout(400),  # the first test waits for what runs beside it, too
]

ROOT = Path(__file__).resolve().parents[2]
AT_ONCE = 3
FIELDS = ["holderIdentity", "leaseDurationSeconds", "acquireTime", "renewTime", "leaderTransitions"]
RECORD = "control-plane.alpha.kubernetes.io/leader"
TTL = 5.0
PATIENCE = 90.0
"""Seconds for what takes some on a machine that does something else as well."""
ENDS_WITHIN = 20.0
"""Seconds from a kill until no process is left: three for programs that are asked to end, and a loaded machine's rest."""

READY = "It is ready after"
SERVING = "The webhook serves"
ELECTING = "Nobody, at first"
AGREED = "All agree on"

VICTIMS = {
    # what is killed: its command line, and the line of the demo after which it is
    "demo": (r"-m sandbox demo", ELECTING),
    "keeper": (r"-m sandbox\._keeper", ELECTING),
    "etcd": (r"/etcd --", READY),
    "kube-apiserver": (r"/kube-apiserver --", SERVING),
    "kube-controller-manager": (r"/kube-controller-manager --", ELECTING),
    "webhook": (r"-m webhook", SERVING),
    "webhook, later": (r"-m webhook", ELECTING),
    "elector": (r"-m elector .*--id=pod-b", ELECTING),
}


class Demo:
    """A demo in a temporary directory of its own, which all its processes carry in command line or environment."""

    def __init__(self, *options: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="demo-test-")).resolve()
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir()
        self._output = (self.folder / "output").open("wb")
        self._errors = (self.folder / "errors").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sandbox", "demo", *options],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._errors,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.cli("down", "--name", "demo")
            until(lambda: not self.processes(), "nothing runs any more")
        finally:
            self._output.close()
            self._errors.close()
            shutil.rmtree(self.folder)

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    @property
    def errors(self) -> str:
        return (self.folder / "errors").read_text()

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "TMPDIR": str(self.temporary)}

    def processes(self) -> dict[int, str]:
        """The command lines of all that belongs to it, by pid."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                environment = (process / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue  # ended meanwhile, or another user's
            if str(self.temporary) in command + environment:
                found[int(process.name)] = command
        return found

    def wait_for(self, line: str) -> None:
        def said() -> bool:
            assert self.process.poll() is None or line in self.output, f"it has ended: {self.output}{self.errors}"
            return line in self.output

        until(said, f"it says {line!r}")

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sandbox", *arguments],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def leaves_nothing(self) -> None:
        until(lambda: not self.processes(), "no process is left", ENDS_WITHIN)
        until(lambda: not list(self.temporary.iterdir()), "no folder is left", ENDS_WITHIN)


def whole() -> dict[str, Any]:
    with Demo() as demo:
        code = demo.process.wait(PATIENCE)
        left = list(demo.processes().values()), list(demo.temporary.iterdir())
        return {"code": code, "output": demo.output, "errors": demo.errors, "left": left}


def interrupted(number: signal.Signals) -> dict[str, Any]:
    """Ctrl-C, or a closed terminal: the signal goes to all of the foreground."""
    with Demo() as demo:
        demo.wait_for(ELECTING)
        os.killpg(demo.process.pid, number)
        code = demo.process.wait(ENDS_WITHIN)
        left = list(demo.processes().values()), list(demo.temporary.iterdir())
        return {"code": code, "errors": demo.errors, "left": left}


def killed(victim: str) -> dict[str, Any]:
    pattern, line = VICTIMS[victim]
    with Demo() as demo:
        demo.wait_for(line)
        pids = [pid for pid, command in demo.processes().items() if re.search(pattern, command)]
        assert len(pids) == 1, f"{victim}: {demo.processes()}"
        os.kill(pids[0], signal.SIGKILL)
        demo.leaves_nothing()
        code = demo.process.wait(ENDS_WITHIN)
        return {"code": code, "output": demo.output, "errors": demo.errors}


def killed_together() -> str:
    """The demo and its keeper at the same moment: nobody is left to remove the folder, so the next one to ask does."""
    with Demo() as demo:
        demo.wait_for(READY)
        pids = [pid for pid, command in demo.processes().items() if re.search(r"-m sandbox( |\._keeper)", command)]
        assert len(pids) == 2, demo.processes()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        demo.process.wait(ENDS_WITHIN)
        until(lambda: not demo.processes(), "no process is left", ENDS_WITHIN)
        said = demo.cli("status").stdout
        demo.leaves_nothing()
        return said


def kept() -> None:
    with Demo("--keep") as demo:
        assert demo.process.wait(PATIENCE) == 0, demo.errors
        kubeconfig = re.search(r"kubeconfig: (\S+)$", demo.output, re.MULTILINE)
        assert kubeconfig
        check_cluster(Path(kubeconfig[1]))
        assert "a sandbox named 'demo' is already running" in demo.cli("demo", "--keep").stderr

        commands = re.findall(r"^  # (.*)\n  (.*)$", demo.output, re.MULTILINE)
        tools = [shlex.split(command)[0] for _, command in commands]
        assert tools.count("curl") == 4
        assert ("kubectl" in tools) == (shutil.which("kubectl") is not None)
        assert (tools[-2], commands[-1][1]) == ("kill", "make demo-down")
        for what, command in commands[:-2]:
            done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, f"{command}: {done.stderr}"
            if what.startswith("the leader, by"):
                assert json.loads(done.stdout)["name"] in ("pod-a", "pod-b", "pod-c")
            if what.startswith("the lock"):
                assert RECORD in done.stdout
        subprocess.run(shlex.split(commands[-2][1]), timeout=60, check=True)
        check_takeover([command.split()[-1] for what, command in commands if what.startswith("the leader, by")])

        # What `make demo-down` runs.
        assert "stopped 'demo'" in demo.cli("down", "--name", "demo").stdout
        assert demo.processes() == {}
        assert list(demo.temporary.iterdir()) == []


def check_cluster(kubeconfig: Path) -> None:
    """The stored pods contain the sidecar, the plain one nothing, the lock the record with exactly the original's fields."""
    new_client: Any = kubernetes.config.new_client_from_config
    with new_client(str(kubeconfig)) as api:
        core: Any = kubernetes.client.CoreV1Api(api)
        pods = {pod.metadata.name: pod for pod in core.list_namespaced_pod("demo").items}
        record = json.loads(core.read_namespaced_endpoints("demo", "demo").metadata.annotations[RECORD])
        api.rest_client.pool_manager.clear()
    assert set(pods) == {"pod-a", "pod-b", "pod-c", "plain"}
    for name in ("pod-a", "pod-b", "pod-c"):
        (sidecar,) = pods[name].spec.init_containers
        assert (sidecar.name, sidecar.restart_policy) == ("leader-elector", "Always")
        assert "--election=demo" in sidecar.args
    assert pods["plain"].spec.init_containers is None
    assert pods["plain"].metadata.labels is None
    assert list(record) == FIELDS


def check_takeover(urls: list[str]) -> None:
    """Of two electors one was killed: the other leads after the ttl."""

    def answers(url: str) -> bool:
        return subprocess.run(["curl", "-sf", url], capture_output=True, timeout=60, check=False).returncode == 0

    (survivor,) = filter(answers, urls)
    until(lambda: answers(f"{survivor}v1/leading"), "the survivor leads", 8 * TTL)


def kept_and_killed() -> str:
    """Killing a part of the kept one ends all of it; the next command says why."""
    with Demo("--keep") as demo:
        assert demo.process.wait(PATIENCE) == 0, demo.errors
        (etcd,) = [pid for pid, command in demo.processes().items() if re.search(r"/etcd --", command)]
        os.kill(etcd, signal.SIGKILL)
        until(lambda: not demo.processes(), "no process is left", ENDS_WITHIN)
        said = demo.cli("status").stderr
        demo.leaves_nothing()
        return said


@pytest.fixture(scope="module")
def later() -> Iterator[dict[str, Future[Any]]]:
    """What each demo comes to, by name; they run side by side from here on."""
    # A background job ignores Ctrl-C, and so would all that it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running: dict[str, Future[Any]] = {"whole": pool.submit(whole), "kept": pool.submit(kept)}
        running["kept and killed"] = pool.submit(kept_and_killed)
        running["together"] = pool.submit(killed_together)
        for number in (signal.SIGINT, signal.SIGHUP):
            running[number.name] = pool.submit(interrupted, number)
        for victim in VICTIMS:
            running[victim] = pool.submit(killed, victim)
        yield running
        pool.shutdown(cancel_futures=True)
    signal.signal(signal.SIGINT, before)


def test_it_shows_a_failover_and_cleans_up(later: dict[str, Future[Any]]) -> None:
    done = later["whole"].result()
    output = done["output"]
    assert (done["code"], done["errors"]) == (0, "")
    assert done["left"] == ([], [])
    assert "\x1b" not in output  # no terminal
    assert re.search(r"^  leader-elector\n    --election=demo\n", output, re.MULTILINE)
    assert "The plain pod, without the annotation, got: nothing.\n" in output

    agreed = re.search(r"^All agree on (pod-[abc]), ", output, re.MULTILINE)
    taken = re.search(r"^(pod-[abc]) has taken over, (\d+\.\d\d) s after that", output, re.MULTILINE)
    assert agreed
    assert taken
    first, second = agreed[1], taken[1]
    assert first != second
    assert float(taken[2]) < TTL  # a hand-over: nobody has to wait for the ttl
    assert re.search(rf" {first}: {first} \*", output)
    assert any(f"{first}: ended" in line and f"{second}: {second} *" in line for line in output.splitlines())

    before, after = (json.loads(found) for found in re.findall(r"^  \{\n.*?\n  \}$", output, re.MULTILINE | re.DOTALL))
    assert list(before) == list(after) == FIELDS
    assert (before["holderIdentity"], after["holderIdentity"]) == (first, second)
    assert after["leaderTransitions"] == before["leaderTransitions"] + 1


def test_keep_leaves_it_running_and_every_command_it_prints_works(later: dict[str, Future[Any]]) -> None:
    later["kept"].result()


def test_a_kept_one_ends_with_any_of_its_parts_and_says_why(later: dict[str, Future[Any]]) -> None:
    assert "'demo' has ended by itself: etcd ended by itself with signal 9" in later["kept and killed"].result()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interruption_leaves_nothing(later: dict[str, Future[Any]], number: signal.Signals) -> None:
    done = later[number.name].result()
    assert done == {"code": 130, "errors": "sandbox: interrupted\n", "left": ([], [])}


@pytest.mark.parametrize("victim", VICTIMS)
def test_whichever_process_is_killed_nothing_is_left(later: dict[str, Future[Any]], victim: str) -> None:
    done = later[victim].result()
    if victim == "demo":
        assert done["code"] == -signal.SIGKILL
        return
    assert done["code"] == 1
    assert "Traceback" not in done["errors"]
    # It names the process that ended, and how.
    named = "pod-b" if victim == "elector" else victim.partition(",")[0]
    assert re.search(rf"^sandbox: .*{named}.* (ended|with) .*(signal 9|exit code -9)", done["errors"]), done["errors"]
    assert "cleaned up" not in done["output"]


def test_the_demo_and_its_keeper_killed_together_leave_a_folder_that_is_swept(later: dict[str, Future[Any]]) -> None:
    assert later["together"].result() == "none is running\n"
