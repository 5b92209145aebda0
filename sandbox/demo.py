"""The demo: annotation, admission, injected elector, leader as JSON, fail-over, on a real API server.

There is no kubelet here, so the demo plays one: it runs exactly what was injected into each pod, as local processes.
"""

import contextlib
import json
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sandbox import kubelet
from sandbox._errors import SandboxError
from sandbox._keeper_client import Program
from sandbox._ports import hold_port
from sandbox._sandbox import Sandbox
from sandbox._screen import Leaders, say
from sandbox.injection import start_webhook

__all__ = ["NAME", "interruptible", "run_demo"]

NAME = "demo"
"""Of the kept sandbox, for `status` and `down`; the namespace and the election have it too."""

_TTL = "5s"
_FIRST_PORT = 4140
_CONTAINER = "leader-elector"
_RECORD = "control-plane.alpha.kubernetes.io/leader"
_AGREE_WITHIN = 40.0
_NOTICED_WITHIN = 2.0
"""Seconds from the end of a process until the keeper has told us."""
_POLL = 0.02
_DAY = 86400


@dataclass
class Candidate:
    """One annotated pod: what the API server stored, and the process that runs what was injected."""

    pod: str
    port: int
    program: Program

    def leader(self) -> str | None:
        """Who leads, by this pod's elector, as its application would ask; None when it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=1) as answer:
                return str(json.loads(answer.read())["name"])
        except (urllib.error.URLError, OSError, ValueError):
            return None


def run_demo(*, keep: bool) -> int:
    """Run the demo; with `keep` it leaves everything running. Raises `SandboxError` when anything in it fails."""
    with interruptible(), contextlib.ExitStack() as stack:
        say(f"Starting a real Kubernetes API server{'' if keep else ', which goes away with this demo'}.")
        sandbox = stack.enter_context(Sandbox.start(name=NAME if keep else None))
        alive = stack.enter_context(_Watched(sandbox))
        say(f"It is ready after {sandbox.ready_seconds:.1f} s: {sandbox.url}")
        webhook = alive.watch(start_webhook(sandbox))
        say(f"The webhook serves (pid {webhook.pid}) and is registered, for annotated pods only.")
        ports = stack.enter_context(_reserved_ports(3))
        candidates = _create_pods(sandbox, ports, alive, token_seconds=_DAY if keep else 3607)
        leader = _show_failover(sandbox, candidates, alive)
        if keep:
            _say_what_to_try(sandbox, candidates, leader)
            sandbox.keep()
    if not keep:
        say("Everything is cleaned up.")
    return 0


class _Watched:
    """Notices when a process ends that should not: the demo is over then, and cleans up.

    As a context it turns what the API's client raises into a `SandboxError` that names the process that ended, when that is why.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._programs: list[Program] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        import kubernetes.client
        import urllib3

        if isinstance(error, (kubernetes.client.ApiException, urllib3.exceptions.HTTPError)):
            deadline = time.monotonic() + _NOTICED_WITHIN
            while time.monotonic() < deadline:
                self.check()
                time.sleep(_POLL)
            raise SandboxError(f"the API server: {error}") from error

    def watch(self, program: Program) -> Program:
        self._programs.append(program)
        return program

    def forget(self, program: Program) -> None:
        self._programs.remove(program)

    def check(self) -> None:
        self._sandbox.check()
        for program in self._programs:
            if not program.running:
                tail = program.log.read_text()[-500:]
                raise SandboxError(f"{program.name} (pid {program.pid}) ended with exit code {program.exit_code}: {tail}")


def _create_pods(sandbox: Sandbox, ports: list[int], alive: _Watched, *, token_seconds: int) -> list[Candidate]:
    """Namespace, the three verbs on endpoints and nothing else, three annotated pods and a plain one."""
    import kubernetes.client

    core: Any = kubernetes.client.CoreV1Api(sandbox.api)
    rbac: Any = kubernetes.client.RbacAuthorizationV1Api(sandbox.api)
    core.create_namespace({"metadata": {"name": NAME}})
    rules = [{"apiGroups": [""], "resources": ["endpoints"], "verbs": ["get", "create", "update"]}]
    rbac.create_namespaced_role(NAME, {"metadata": {"name": "candidate"}, "rules": rules})
    binding = {
        "metadata": {"name": "candidate"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "candidate"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": NAME}],
    }
    rbac.create_namespaced_role_binding(NAME, binding)
    _wait_for_account(core)

    candidates = []
    for number, port in enumerate(ports):
        annotations = {
            "leader-election/enabled": "true",
            "leader-election/name": NAME,
            "leader-election/ttl": _TTL,
            "leader-election/port": str(port),  # one each, since they share this machine's network
        }
        stored = _create_pod(core, sandbox, f"pod-{'abc'[number]}", annotations)
        name = stored["metadata"]["name"]
        container = kubelet.prepare(sandbox, stored, _CONTAINER, sandbox.directory, token_seconds=token_seconds)
        command = [sys.executable, "-m", "elector", *container.args]
        program = alive.watch(sandbox.run(name, command, env=container.env, cwd=Path(__file__).parent.parent))
        candidates.append(Candidate(name, port, program))
        if number == 0:
            say()
            say(f"The pod {name} is created, annotated")
            for key, value in annotations.items():
                say(f"{key}: {value}", indent="  ")
            say("The API server has stored it with this container added, a native sidecar:")
            say(_CONTAINER, indent="  ")
            for argument in container.args:
                say(argument, indent="    ")
            say()
    say(
        "Three such pods are created; what was injected into each runs as a process of its own, with a token that the API"
        " server issued for that pod, under a Role with get, create, update on endpoints and nothing else."
    )
    plain = _create_pod(core, sandbox, "plain", {})
    added = [one["name"] for one in plain["spec"].get("initContainers") or []]
    say(f"The plain pod, without the annotation, got: {', '.join(added) or 'nothing'}.")
    return candidates


@contextlib.contextmanager
def _reserved_ports(count: int) -> Iterator[list[int]]:
    """Ports for that many electors: each takes the next one too, for its probes. No other demo takes them meanwhile."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in range(_FIRST_PORT, _FIRST_PORT + 400, 2):
            with contextlib.ExitStack() as pair:
                try:
                    for one in (port, port + 1):
                        pair.enter_context(hold_port("", one))
                except OSError:
                    continue
                held.enter_context(pair.pop_all())
            found.append(port)
            if len(found) == count:
                yield found
                return
    raise SandboxError(f"the ports from {_FIRST_PORT} to {_FIRST_PORT + 399} are taken: {count} pairs are needed")


def _create_pod(core: Any, sandbox: Sandbox, name: str, annotations: dict[str, str]) -> dict[str, Any]:
    """Create a pod through the API and return it as it was stored."""
    spec = {"containers": [{"name": "app", "image": "app"}]}
    core.create_namespaced_pod(NAME, {"metadata": {"name": name, "annotations": annotations}, "spec": spec})
    stored: dict[str, Any] = sandbox.api.sanitize_for_serialization(core.read_namespaced_pod(name, NAME))
    return stored


def _wait_for_account(core: Any) -> None:
    import kubernetes.client

    deadline = time.monotonic() + _AGREE_WITHIN
    while True:
        try:
            core.read_namespaced_service_account("default", NAME)
            return
        except kubernetes.client.ApiException as error:
            if error.status != 404 or time.monotonic() > deadline:
                raise
        time.sleep(_POLL)


def _show_failover(sandbox: Sandbox, candidates: list[Candidate], alive: _Watched) -> str:
    """Returns who leads at the end."""
    pods = [candidate.pod for candidate in candidates]
    say()
    ports = ", ".join(f":{candidate.port}" for candidate in candidates[1:])
    say(f"Who leads, by what each pod answers at http://localhost:{candidates[0].port}/, {ports} (* says so of itself).")
    say(f"Nobody, at first: a new lock is waited out for one ttl, {_TTL}.")
    began = time.monotonic()
    with Leaders(pods) as leaders:
        leader = _wait_for_agreement(candidates, alive, leaders, lambda name: bool(name))
    say(f"All agree on {leader}, {time.monotonic() - began:.2f} s after the start.")
    say()
    say("The lock, an Endpoints object, holds the original's record:")
    _show_record(sandbox)
    say()
    former = next(candidate for candidate in candidates if candidate.pod == leader)
    say(f"Ending {leader} as the kubelet does after its application has ended (SIGTERM).")
    others = [candidate for candidate in candidates if candidate is not former]
    alive.forget(former.program)
    with Leaders(pods) as leaders:
        ended = time.monotonic()
        former.program.signal(signal.SIGTERM)
        successor = _wait_for_agreement(others, alive, leaders, lambda name: name not in ("", leader))
        took = time.monotonic() - ended
    say(f"{successor} has taken over, {took:.2f} s after that: both others agree.")
    _show_record(sandbox)
    code = former.program.wait(_AGREE_WITHIN)
    if code != 0:
        tail = former.program.log.read_text()[-500:]
        raise SandboxError(f"{leader}: its elector ended with exit code {code}, expected 0: {tail}")
    say()
    return successor


def _wait_for_agreement(candidates: list[Candidate], alive: _Watched, leaders: Leaders, wanted: Callable[[str], bool]) -> str:
    """Ask every candidate until all name the same leader, one that is wanted."""
    deadline = time.monotonic() + _AGREE_WITHIN
    while True:
        names = {candidate.pod: candidate.leader() for candidate in candidates}
        alive.check()
        leaders.show(names)
        agreed = set(names.values())
        if len(agreed) == 1 and (name := agreed.pop()) and wanted(name):
            return name
        if time.monotonic() > deadline:
            raise SandboxError(f"no leader that all agree on after {_AGREE_WITHIN:g} s: {names}")
        time.sleep(_POLL)


def _show_record(sandbox: Sandbox) -> None:
    import kubernetes.client

    core: Any = kubernetes.client.CoreV1Api(sandbox.api)
    endpoints = core.read_namespaced_endpoints(NAME, NAME)
    record = json.loads(endpoints.metadata.annotations[_RECORD])
    for line in json.dumps(record, indent=2).splitlines():
        say(line, indent="  ")


def _say_what_to_try(sandbox: Sandbox, candidates: list[Candidate], leader: str) -> None:
    """Commands are each a line of their own, whatever the terminal's width, so that they can be copied."""
    kubeconfig = sandbox.kubeconfig
    running = [candidate for candidate in candidates if candidate.program.running]
    certificate, key = sandbox.admin_files
    lock = f"{sandbox.url}/api/v1/namespaces/{NAME}/endpoints/{NAME}"
    say(f"It goes on running. kubeconfig: {kubeconfig}")
    say("To try:")
    for candidate in running:
        _command(f"the leader, by {candidate.pod}", f"curl http://localhost:{candidate.port}/")
    _command(f"all that {running[0].pod} knows of it", f"curl http://localhost:{running[0].port}/v1/leader")
    if shutil.which("kubectl"):
        _command("the lock", f"kubectl --kubeconfig {kubeconfig} -n {NAME} get endpoints {NAME} -o yaml")
        _command("the pods", f"kubectl --kubeconfig {kubeconfig} -n {NAME} get pods -o yaml")
    _command("the lock, from the API server", f"curl --cacert {sandbox.ca_file} --cert {certificate} --key {key} {lock}")
    for candidate in running:
        _command(f"what {candidate.pod}'s elector says", f"tail {candidate.program.log}")
    killed = next(candidate for candidate in running if candidate.pod == leader)
    _command(f"kill the leader: the other one takes over after the ttl, {_TTL}", f"kill -KILL {killed.program.pid}")
    _command("end it all", "make demo-down")


def _command(what: str, command: str) -> None:
    print(f"  # {what}\n  {command}", flush=True)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP clean up as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
