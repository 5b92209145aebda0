"""The sandbox is a real cluster, and leaves nothing behind."""

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import textwrap
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes.client
import kubernetes.config
import pytest
from kubernetes.client import ApiException

from sandbox import Sandbox, SandboxError, _folders
from sandbox.kubelet import prepare
from tests.waiting import until

pytestmark = pytest.mark.api

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("etcd", "kube-apiserver", "kube-controller-manager")
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.fixture(scope="module", autouse=True)
def _heed_ctrl_c() -> Iterator[None]:
    """A background job ignores Ctrl-C, and so would all that these tests start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def processes_of(folder: Path) -> list[str]:
    """The command lines of all processes that have anything to do with a sandbox's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # ended meanwhile
        if str(folder) in command:
            found.append(command)
    return found


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temporary directory of its own for sandboxes started by other processes, so that all they leave would be seen."""
    folder = Path(tempfile.mkdtemp(prefix="sandbox-test-")).resolve()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def namespace(sandbox: Sandbox) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    core: Any = kubernetes.client.CoreV1Api(sandbox.api)
    core.create_namespace(kubernetes.client.V1Namespace(metadata=kubernetes.client.V1ObjectMeta(name=name)))

    def has_its_account() -> bool:
        return any(account.metadata.name == "default" for account in core.list_namespaced_service_account(name).items)

    until(has_its_account, "the account is there")
    yield name
    core.delete_namespace(name)


def client_with(kubeconfig: Path) -> Any:
    new_client: Any = kubernetes.config.new_client_from_config
    return new_client(str(kubeconfig))


def pod(sandbox: Sandbox, namespace: str) -> dict[str, Any]:
    body = {
        "metadata": {"name": "p", "annotations": {"a": "b"}},
        "spec": {
            "containers": [
                {
                    "name": "c",
                    "image": "localhost/none",
                    "args": ["--me=$(ME)"],
                    "env": [{"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                }
            ]
        },
    }
    core: Any = kubernetes.client.CoreV1Api(sandbox.api)
    stored: dict[str, Any] = sandbox.api.sanitize_for_serialization(core.create_namespaced_pod(namespace, body))
    return stored


def test_it_is_ready_in_seconds_and_says_how_long_it_took(sandbox: Sandbox) -> None:
    assert 0 < sandbox.ready_seconds < 60


def test_the_kubeconfig_verifies_the_server_and_is_for_its_owner_only(sandbox: Sandbox) -> None:
    cluster = json.loads(sandbox.kubeconfig.read_text())["clusters"][0]["cluster"]
    assert set(cluster) == {"server", "certificate-authority-data"}
    assert sandbox.kubeconfig.stat().st_mode & 0o077 == 0


def test_the_server_is_verifiable_by_name_and_by_address(sandbox: Sandbox) -> None:
    context = ssl.create_default_context(cafile=str(sandbox.ca_file))
    for url in (sandbox.url, sandbox.url.replace("127.0.0.1", "localhost")):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        with opener.open(f"{url}/readyz", timeout=10) as answer:
            assert answer.read() == b"ok"


def test_an_account_without_a_role_is_denied(sandbox: Sandbox, namespace: str, tmp_path: Path) -> None:
    token = sandbox.service_account_token(namespace, "default")
    with client_with(sandbox.kubeconfig_for(token, tmp_path / "kubeconfig")) as api:
        core = kubernetes.client.CoreV1Api(api)
        with pytest.raises(ApiException) as denied:
            core.list_namespaced_pod(namespace)
        api.rest_client.pool_manager.clear()
    assert denied.value.status == 403
    assert f"system:serviceaccount:{namespace}:default" in str(denied.value.body)


def test_a_pods_token_ends_with_the_pod(sandbox: Sandbox, namespace: str, tmp_path: Path) -> None:
    stored = pod(sandbox, namespace)
    token = sandbox.service_account_token(namespace, "default", pod="p", pod_uid=stored["metadata"]["uid"])
    with client_with(sandbox.kubeconfig_for(token, tmp_path / "kubeconfig")) as api:
        review: Any = kubernetes.client.AuthenticationV1Api(api)
        who = review.create_self_subject_review({}).status.user_info
        assert who.extra["authentication.kubernetes.io/pod-name"] == ["p"]
        kubernetes.client.CoreV1Api(sandbox.api).delete_namespaced_pod("p", namespace, grace_period_seconds=0)

        def refused() -> bool:
            try:
                review.create_self_subject_review({})
            except ApiException as error:
                return int(error.status or 0) == 401
            return False

        until(refused, "it is refused")
        api.rest_client.pool_manager.clear()


def test_a_container_is_given_what_a_kubelet_would_give_it(sandbox: Sandbox, namespace: str, tmp_path: Path) -> None:
    prepared = prepare(sandbox, pod(sandbox, namespace), "c", tmp_path)
    assert prepared.args == ["--me=p"]
    before = (prepared.service_account_folder / "token").read_text()
    assert prepared.refresh_token() == (prepared.service_account_folder / "token").read_text() != before
    assert (prepared.service_account_folder / "ca.crt").read_text() == sandbox.ca_file.read_text()
    assert (prepared.service_account_folder / "namespace").read_text() == namespace


def test_requests_are_in_the_audit_log(sandbox: Sandbox, namespace: str) -> None:
    lines = (sandbox.directory / "audit.log").read_text().splitlines()
    assert any(json.loads(line)["objectRef"].get("name") == namespace for line in lines if '"objectRef"' in line)


@linux
def test_two_run_side_by_side_and_parts_can_be_restarted(sandbox: Sandbox) -> None:
    with Sandbox.start() as other:
        assert other.url != sandbox.url
        core = kubernetes.client.CoreV1Api(other.api)
        core.create_namespace(kubernetes.client.V1Namespace(metadata=kubernetes.client.V1ObjectMeta(name="only-here")))
        with pytest.raises(ApiException, match="404"):
            kubernetes.client.CoreV1Api(sandbox.api).read_namespace("only-here")

        for part in PARTS:
            former = other.program(part)
            assert other.restart(part).pid != former.pid
            assert former.exit_code == -signal.SIGKILL
            core.read_namespace("only-here")

        folder = other.directory
        until(lambda: len(processes_of(folder)) == 4, "the sandbox's processes are there")
    assert processes_of(folder) == []
    assert not folder.exists()
    assert sandbox.program("etcd").running


@linux
def test_when_a_part_dies_everything_ends_and_says_so() -> None:
    with Sandbox.start() as sandbox:
        sandbox.program("etcd").signal(signal.SIGKILL)
        until(lambda: processes_of(sandbox.directory) == [], "none is left")
        with pytest.raises(SandboxError, match="etcd ended by itself with signal 9"):
            sandbox.run("x", ["true"])
        assert not sandbox.directory.exists()


CALLER = """
import json, sys
from sandbox import Sandbox
with Sandbox.start() as sandbox:
    sandbox.run("elector", [sys.executable, "-c", "import time; time.sleep(1000)", str(sandbox.directory)])
    print(json.dumps({"folder": str(sandbox.directory), "keeper": sandbox.keeper_pid}), flush=True)
    sys.stdin.read()
"""


@linux
@pytest.mark.parametrize(
    ("victim", "number"),
    [
        ("caller", signal.SIGINT),  # Ctrl-C; it does not reach the keeper
        *((victim, number) for victim in ("caller", "keeper", "both") for number in (signal.SIGKILL, signal.SIGTERM)),
    ],
)
def test_nothing_is_left_whoever_is_killed(temporary: Path, victim: str, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CALLER],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        folder = Path(told["folder"])
        # A look at all of /proc can miss one that starts another program just then.
        until(lambda: len(processes_of(folder)) == 5, "its processes are there")
        if victim != "caller":
            os.kill(told["keeper"], number)
        if victim != "keeper":
            process.send_signal(number)
        until(lambda: processes_of(folder) == [], "none is left")
        if victim == "keeper":
            until(lambda: list(temporary.iterdir()) == [], "its folder is gone")
            process.kill()
    if victim == "both" and number == signal.SIGKILL:
        # Nobody was left to remove it: the next one to ask does.
        run_cli(temporary, "status")
    assert list(temporary.iterdir()) == []


def run_cli(temporary: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@linux
def test_the_command_line_keeps_one_running_until_down(temporary: Path) -> None:
    up = run_cli(temporary, "up", "--name", "mine")
    kubeconfig = up.rpartition("export KUBECONFIG=")[2].strip()
    try:
        with client_with(Path(kubeconfig)) as api:
            kubernetes.client.CoreV1Api(api).read_namespace("default")
            api.rest_client.pool_manager.clear()
        again = run_cli(temporary, "up", "--name", "mine")
        assert "already running" in again
        assert kubeconfig in again
        assert "mine: https://127.0.0.1:" in run_cli(temporary, "status")
        assert "not running" in run_cli(temporary, "down")
    finally:
        down = run_cli(temporary, "down", "--name", "mine")
    assert "stopped 'mine'" in down
    assert "none is running" in run_cli(temporary, "status")
    assert processes_of(temporary) == []
    assert list(temporary.iterdir()) == []


@linux
def test_ctrl_c_while_starting_leaves_nothing(temporary: Path) -> None:
    command = [sys.executable, "-m", "sandbox", "up"]
    env = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: any("kube-apiserver" in line for line in processes_of(temporary)), "an API server runs")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert processes_of(temporary) == []
    assert list(temporary.iterdir()) == []


def test_a_wrong_name_is_one_clear_line(temporary: Path) -> None:
    for command in ("up", "down"):
        done = subprocess.run(
            [sys.executable, "-m", "sandbox", command, "--name", "No_Good"],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(temporary)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "'No_Good'" in done.stderr


def test_the_keeper_does_not_carry_the_clients() -> None:
    """It lives as long as a sandbox, and should not weigh what the API client weighs."""
    script = textwrap.dedent(
        """
        import sys
        import sandbox._keeper
        print([name for name in ("kubernetes", "cryptography") if name in sys.modules])
        """
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_names_of_programs_are_taken_while_they_run(sandbox: Sandbox) -> None:
    program = sandbox.run("taken", ["sleep", "1000"])
    with pytest.raises(SandboxError, match="'taken' is already running"):
        sandbox.run("taken", ["true"])
    program.stop()
    assert sandbox.run("taken", ["true"]).wait(20) == 0
    with pytest.raises(SandboxError, match="no program 'other'"):
        sandbox.stop("other")


def test_the_folder_above_is_for_its_owner_only(sandbox: Sandbox) -> None:
    assert sandbox.directory.parent == _folders.root()
    assert sandbox.directory.parent.stat().st_mode & 0o077 == 0
