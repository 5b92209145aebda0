"""A release on an API server without nodes: its pods run as processes, as the chart describes them.

Whoever plays the kubelet runs exactly a container's arguments and environment. Besides what `sandbox.kubelet` substitutes,
mounted Secrets are folders, which follow the Secret as a kubelet's do, and each pod listens on a port of its own: a `Service`
leads to those of the webhook that are ready.
"""

import base64
import contextlib
import shutil
import ssl
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes.client

from sandbox import Program, Sandbox
from sandbox.kubelet import prepare
from tests.chart.helm import CHART, helm
from tests.chart.service import Service
from tests.ports import free_port

__all__ = ["Kubelet", "Release"]

_ROOT = CHART.parents[1]
_POLL = 0.1


class Release:
    """One release of the chart, made by the real helm."""

    def __init__(self, sandbox: Sandbox, scratch: Path, name: str, namespace: str) -> None:
        self._sandbox = sandbox
        self._scratch = scratch
        self.name = name
        self.namespace = namespace
        self.core: Any = kubernetes.client.CoreV1Api(sandbox.api)
        self.admission: Any = kubernetes.client.AdmissionregistrationV1Api(sandbox.api)

    def helm(self, *arguments: str) -> str:
        """Run helm on this cluster and namespace."""
        return helm(*arguments, f"--namespace={self.namespace}", kubeconfig=self._sandbox.kubeconfig, home=self._scratch / "helm")

    def install(self, *options: str) -> str:
        """`helm install`; returns the notes."""
        return self.helm("install", self.name, str(CHART), "--create-namespace", *options)

    def secret(self) -> dict[str, bytes] | None:
        """The certificate's Secret, decoded."""
        try:
            found = self.core.read_namespaced_secret(f"{self.name}-webhook-tls", self.namespace)
        except kubernetes.client.ApiException as error:
            if error.status == 404:
                return None
            raise
        return {key: base64.b64decode(value) for key, value in found.data.items()}

    def bundle(self) -> bytes:
        """What the registration trusts."""
        found = self.admission.read_mutating_webhook_configuration(self.name)
        return base64.b64decode(found.webhooks[0].client_config.ca_bundle or "")

    def pods(self, component: str) -> list[dict[str, Any]]:
        """The pods of one component that are not being deleted, as the API server has them."""
        found = self.core.list_namespaced_pod(
            self.namespace, label_selector=f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component={component}"
        )
        pods = [self._sandbox.api.sanitize_for_serialization(pod) for pod in found.items]
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def create_pod(self, name: str, namespace: str = "default") -> dict[str, Any]:
        """Create an annotated pod, for real, and return what was stored. `ApiException` when it is refused."""
        pod = {
            "metadata": {
                "name": name,
                "annotations": {"leader-election/enabled": "true", "leader-election/name": "tested.leader"},
            },
            "spec": {"containers": [{"name": "main", "image": "none"}]},
        }
        return dict(self._sandbox.api.sanitize_for_serialization(self.core.create_namespaced_pod(namespace, pod)))


@dataclass
class _Running:
    """A pod that was started."""

    pod: dict[str, Any]
    component: str
    program: Program
    port: int
    """Where it really listens."""
    ready: bool = False


class Kubelet:
    """Runs a release's pods: starts new ones, ends deleted ones, tells which are ready, keeps mounted Secrets up to date.

    `service` leads to the webhook pods that are ready.
    """

    def __init__(self, sandbox: Sandbox, release: Release, scratch: Path) -> None:
        self._sandbox = sandbox
        self._release = release
        self._scratch = scratch
        self._running: dict[str, _Running] = {}
        self._mounts: dict[Path, dict[str, str]] = {}
        self._ending = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="kubelet")
        self.service = Service()

    def __enter__(self) -> "Kubelet":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self.service.close()
        for running in self._running.values():
            running.program.stop()
        if self._failure is not None:
            raise self._failure

    def programs(self, component: str) -> dict[str, Program]:
        """What runs of a component, by the pod's name."""
        return {
            name: running.program
            for name, running in list(self._running.items())
            if running.component == component and running.program.running
        }

    def _run(self) -> None:
        try:
            while not self._ending.wait(_POLL):
                self._turn()
        except BaseException as error:
            self._failure = error

    def _turn(self) -> None:
        pods = {pod["metadata"]["name"]: (pod, one) for one in ("webhook", "controller") for pod in self._release.pods(one)}
        secret = self._release.secret()
        if secret is not None:
            for folder, items in self._mounts.items():
                _publish(folder, {path: secret[key] for key, path in items.items()})
        for name, (pod, component) in pods.items():
            if name not in self._running:
                self._start(pod, component, secret)
        gone = [name for name in self._running if name not in pods]
        for name, running in self._running.items():
            if name not in gone and not running.ready and _answers(running):
                running.ready = True
                self._report(name)
        ready = [running for name, running in self._running.items() if name not in gone and running.component == "webhook"]
        self.service.backends = tuple(running.port for running in ready if running.ready)
        for name in gone:
            # The Service has forgotten it already, which is what the pod's preStop hook waits for.
            self._running.pop(name).program.stop()
        for pod in self._release.core.list_namespaced_pod(self._release.namespace).items:
            if pod.metadata.deletion_timestamp is not None:
                with contextlib.suppress(kubernetes.client.ApiException):
                    self._release.core.delete_namespaced_pod(pod.metadata.name, self._release.namespace, grace_period_seconds=0)

    def _report(self, name: str) -> None:
        conditions = [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady")]
        body = {"status": {"phase": "Running", "conditions": conditions}}
        with contextlib.suppress(kubernetes.client.ApiException):  # deleted meanwhile
            self._release.core.patch_namespaced_pod_status(name, self._release.namespace, body)

    def _start(self, pod: dict[str, Any], component: str, secret: dict[str, bytes] | None) -> None:
        name, spec = pod["metadata"]["name"], pod["spec"]
        container = spec["containers"][0]
        port = free_port()
        declared = container["ports"][0]["containerPort"]
        # All pods share one network here.
        substituted = {f"listen=:{declared}": f"listen=127.0.0.1:{port}"}
        for volume in spec.get("volumes", []):
            if "secret" not in volume:
                continue
            if secret is None:
                return  # as a kubelet, which waits for it
            folder = self._scratch / name / volume["name"]
            self._mounts[folder] = {item["key"]: item["path"] for item in volume["secret"]["items"]}
            _publish(folder, {path: secret[key] for key, path in self._mounts[folder].items()})
            mount = next(one for one in container["volumeMounts"] if one["name"] == volume["name"])
            substituted[mount["mountPath"]] = str(folder)
        (self._scratch / name).mkdir(parents=True, exist_ok=True)
        prepared = prepare(self._sandbox, pod, component, self._scratch / name)
        arguments = prepared.args
        for old, new in substituted.items():
            arguments = [argument.replace(old, new) for argument in arguments]
        if spec["automountServiceAccountToken"] is False:
            shutil.rmtree(prepared.service_account_folder)
        # Programs of a sandbox have short names.
        short = name.removeprefix(f"{self._release.name}-")
        command = [sys.executable, "-m", "webhook", *arguments]
        program = self._sandbox.run(short, command, env={**prepared.env, "PATH": ""}, cwd=_ROOT)
        self._running[name] = _Running(pod, component, program, port)


def _answers(running: _Running) -> bool:
    """Whether the pod's readiness probe succeeds; as the kubelet's, it verifies no certificate."""
    probe = running.pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]
    context = ssl._create_unverified_context()
    url = f"{probe.get('scheme', 'HTTP').lower()}://127.0.0.1:{running.port}{probe['path']}"
    try:
        with urllib.request.urlopen(url, timeout=1, context=context) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _publish(folder: Path, files: dict[str, bytes]) -> None:
    """All files change at once, by one link that is moved, as on a node; nothing happens when they are the same."""
    current = folder / "..data"
    if current.exists() and all((current / name).read_bytes() == content for name, content in files.items()):
        return
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"..{time.monotonic_ns()}"
    data.mkdir()
    for name, content in files.items():
        (data / name).write_bytes(content)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    moving = folder / "..data_tmp"
    moving.symlink_to(data.name)
    moving.replace(current)
