"""The demo on a real node: images, chart, kubelet, Service; nothing in it is started by hand."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox._build import binaries
from sandbox._errors import SandboxError
from sandbox._images import REPOSITORY, RUNTIMES, TAG, project_images, runtime_image
from sandbox._recipes import CHART_TOOLS, NODE
from sandbox._sandbox import Sandbox
from sandbox._screen import Leaders, say
from sandbox.demo import NAME, interruptible

__all__ = ["run_node_demo"]

_ROOT = Path(__file__).resolve().parent.parent
_EXAMPLE = _ROOT / "examples" / "node.yaml"
_PODS = "app=node-example"
_LOCK = "node-example.leader"
_WITHIN = 120.0
_POLL = 0.05


def run_node_demo(*, keep: bool) -> int:
    """Run the demo; with `keep` it leaves everything running. Raises `SandboxError` when anything in it fails."""
    with interruptible(), contextlib.ExitStack() as stack:
        helm, kubectl = str(binaries(CHART_TOOLS) / "helm"), str(binaries(NODE) / "kubectl")
        images = project_images()
        runtime = runtime_image("scripts")
        say(f"Starting a real Kubernetes node{'' if keep else ', which goes away with this demo'}.")
        sandbox = stack.enter_context(Sandbox.start(name=NAME if keep else None, node=True))
        say(f"It is ready after {sandbox.ready_seconds:.1f} s: {sandbox.url}")
        for archive in images:
            sandbox.load_images(archive)
        sandbox.load_images(runtime, *RUNTIMES["scripts"].names)
        say("The images of elector and webhook, built from this checkout's Dockerfile, are on the node.")
        commands = _Commands(sandbox)
        commands.run(kubectl, "create", "namespace", NAME)
        say("helm installs the chart; the first certificate takes a moment.")
        commands.run(helm, *_install())
        say(f"kubectl applies {_EXAMPLE.relative_to(_ROOT)}: three pods whose only sign is an annotation.")
        commands.run(kubectl, "--namespace", NAME, "apply", "-f", str(_EXAMPLE))
        commands.run(kubectl, "--namespace", NAME, "rollout", "status", "deployment/node-example", "--timeout=120s")
        _show_failover(sandbox, commands, kubectl)
        if keep:
            _say_what_to_try(sandbox, kubectl)
            sandbox.keep()
    if not keep:
        say("Everything is cleaned up.")
    return 0


class _Commands:
    """Runs what a person would type."""

    def __init__(self, sandbox: Sandbox) -> None:
        home = str(sandbox.directory)
        helms = {f"HELM_{kind}_HOME": f"{home}/helm" for kind in ("CACHE", "CONFIG", "DATA")}
        self._env = {"PATH": os.defpath, "HOME": home, "KUBECONFIG": str(sandbox.kubeconfig), **helms}

    def run(self, *argv: str) -> str:
        """Its output; `SandboxError` with what it said when it fails."""
        done = subprocess.run(argv, env=self._env, capture_output=True, text=True, check=False, timeout=_WITHIN * 2)
        if done.returncode:
            raise SandboxError(f"{Path(argv[0]).name} {' '.join(argv[1:4])} ... failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout


def _install() -> list[str]:
    values = {
        "image.repository": REPOSITORY,
        "image.tag": TAG,
        "rbac.mode": "static",
        "rbac.static[0].namespace": NAME,
        "rbac.static[0].serviceAccounts[0]": "default",
    }
    command = ["install", "leader-election", str(_ROOT / "charts" / "leader-election"), "--namespace=leader-election"]
    command += ["--create-namespace", "--wait", "--timeout=120s"]
    return command + [f"--set={name}={value}" for name, value in values.items()]


def _show_failover(sandbox: Sandbox, commands: _Commands, kubectl: str) -> None:
    pods = _pods(sandbox)
    say()
    say("Who leads, by what each pod's application shows on port 8080 (* says so of itself).")
    began = time.monotonic()
    with Leaders(pods) as leaders:
        leader = _wait_for_agreement(sandbox, pods, leaders, lambda name: name in pods)
    say(f"All agree on {leader}, {time.monotonic() - began:.1f} s after they were ready: a new lock is waited out for one ttl.")
    say()
    say(f"kubectl delete pod {leader}")
    others = [pod for pod in pods if pod != leader]
    commands.run(kubectl, "--namespace", NAME, "delete", "pod", leader, "--wait=false")
    began = time.monotonic()
    with Leaders(others) as leaders:
        successor = _wait_for_agreement(sandbox, others, leaders, lambda name: name not in ("", leader))
    say(f"Both others show {successor}, {time.monotonic() - began:.1f} s later; they ask once a second.")
    say()
    say("The lock, an Endpoints object, holds the original's record:")
    say(_record(sandbox), indent="  ")
    say()


def _pods(sandbox: Sandbox) -> list[str]:
    import kubernetes.client

    core: Any = kubernetes.client.CoreV1Api(sandbox.api)
    return sorted(pod.metadata.name for pod in core.list_namespaced_pod(NAME, label_selector=_PODS).items)


def _master(sandbox: Sandbox, pod: str) -> str | None:
    """What the application shows, asked through the API server; None when it does not answer."""
    import urllib3

    url = f"{sandbox.url}/api/v1/namespaces/{NAME}/pods/{pod}:8080/proxy/"
    try:
        answer = sandbox.api.rest_client.pool_manager.request("GET", url, timeout=2, retries=False)
    except urllib3.exceptions.HTTPError:
        return None
    return answer.data.decode().removeprefix("Master is ").strip() if answer.status == 200 else None


def _wait_for_agreement(sandbox: Sandbox, pods: list[str], leaders: Leaders, wanted: Callable[[str], bool]) -> str:
    deadline = time.monotonic() + _WITHIN
    while True:
        sandbox.check()
        names = {pod: _master(sandbox, pod) for pod in pods}
        leaders.show(names)
        agreed = set(names.values())
        if len(agreed) == 1 and (name := agreed.pop()) and wanted(name):
            return name
        if time.monotonic() > deadline:
            raise SandboxError(f"no leader that all agree on after {_WITHIN:g} s: {names}")
        time.sleep(_POLL)


def _record(sandbox: Sandbox) -> str:
    import kubernetes.client

    core: Any = kubernetes.client.CoreV1Api(sandbox.api)
    annotations = core.read_namespaced_endpoints(_LOCK, NAME).metadata.annotations
    return json.dumps(json.loads(annotations["control-plane.alpha.kubernetes.io/leader"]))


def _say_what_to_try(sandbox: Sandbox, kubectl: str) -> None:
    say("It goes on running. To try:")
    for what, command in (
        ("first of all", f"export KUBECONFIG={sandbox.kubeconfig}; alias kubectl={kubectl}"),
        ("the pods", f"kubectl -n {NAME} get pods -o wide"),
        ("what an elector says", f"kubectl -n {NAME} logs deployment/node-example -c leader-elector"),
        ("the lock", f"kubectl -n {NAME} get endpoints {_LOCK} -o yaml"),
        ("a rolling update", f"kubectl -n {NAME} rollout restart deployment/node-example"),
        ("end it all", "make demo-down"),
    ):
        print(f"  # {what}\n  {command}", flush=True)
