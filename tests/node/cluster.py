"""A node with the images of this checkout and the chart installed, as tests use it: by kubectl and helm, as a person would."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kubernetes.client
import yaml

from sandbox import Sandbox, binaries
from sandbox._images import REPOSITORY, RUNTIMES, TAG, project_images, runtime_image
from sandbox._recipes import NODE
from tests.chart.helm import CHART, helm
from tests.waiting import until

__all__ = [
    "APPS",
    "NAMESPACES",
    "NODE_IMAGE",
    "PYTHON_IMAGE",
    "RELEASE",
    "SHELL_IMAGE",
    "Cluster",
    "Failed",
    "deployment",
    "pod_spec",
]

RELEASE = "leader-election"
NAMESPACES = [f"test-{number:02}" for number in range(1, 51)]
"""One for each test; with `rbac.mode: static` the chart has to know them when it is installed."""

NODE_IMAGE, PYTHON_IMAGE, SHELL_IMAGE = RUNTIMES["scripts"].names
APPS = "app=tested"
"""The label of the pods that `deployment` makes."""

_KUBECTL = 120.0
_ROLLOUT = 120.0


class Failed(Exception):
    """kubectl refused; the message is what it said."""


@dataclass
class Cluster:
    """The node, and the release in it."""

    sandbox: Sandbox
    scratch: Path
    loaded: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.core: Any = kubernetes.client.CoreV1Api(self.sandbox.api)
        self.apps: Any = kubernetes.client.AppsV1Api(self.sandbox.api)

    def load(self, *runtimes: str) -> None:
        """Make those of `RUNTIMES` available on the node."""
        for runtime in runtimes:
            if runtime not in self.loaded:
                self.sandbox.load_images(runtime_image(runtime), *RUNTIMES[runtime].names)
                self.loaded.add(runtime)

    def install(self) -> None:
        """Load this checkout's images, make the namespaces, and install the chart with helm, as the documentation says."""
        for archive in project_images():
            self.sandbox.load_images(archive)
        for name in NAMESPACES:
            self.core.create_namespace({"metadata": {"name": name}})
        static = [{"namespace": name, "serviceAccounts": ["default"]} for name in ("default", RELEASE, *NAMESPACES)]
        values = self.scratch / "values.yaml"
        values.write_text(
            yaml.safe_dump(
                {
                    "image": {"repository": REPOSITORY, "tag": TAG},
                    "rbac": {"mode": "static", "static": static},
                    "certificates": {"self": {"settle": "5s"}},
                }
            )
        )
        self.helm("install", RELEASE, str(CHART), "--create-namespace", f"--values={values}", "--wait", "--timeout=90s")

    def helm(self, *arguments: str) -> str:
        """Run helm on the release's namespace and return what it printed; `HelmFailed` as it says."""
        return helm(*arguments, f"--namespace={RELEASE}", kubeconfig=self.sandbox.kubeconfig, home=self.scratch / "helm")

    @property
    def environment(self) -> dict[str, str]:
        """For kubectl."""
        return {"PATH": os.defpath, "HOME": str(self.scratch), "KUBECONFIG": str(self.sandbox.kubeconfig)}

    @property
    def kubectl_program(self) -> str:
        """kubectl, of the same version as the cluster."""
        return str(binaries(NODE) / "kubectl")

    def kubectl(self, *arguments: str, document: str | None = None, timeout: float = _KUBECTL) -> str:
        """Run kubectl, with `document` as its input, and return what it printed. Raises `Failed`."""
        done = subprocess.run(
            [self.kubectl_program, *arguments],
            env=self.environment,
            input=document,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise Failed(done.stderr + done.stdout)
        return done.stdout

    def apply(self, namespace: str, *objects: dict[str, Any]) -> str:
        """Apply objects in a namespace; returns kubectl's words, warnings included. Raises `Failed`."""
        document = "\n---\n".join(json.dumps(one) for one in objects)
        return self.kubectl("--namespace", namespace, "apply", "-f", "-", document=document)

    def rolled_out(self, namespace: str, what: str, timeout: float = _ROLLOUT) -> None:
        """Wait until all pods of a workload, such as `deployment/app`, are ready."""
        self.kubectl("--namespace", namespace, "rollout", "status", what, f"--timeout={timeout:g}s", timeout=timeout + 30)

    def pods(self, namespace: str, selector: str = APPS) -> list[Any]:
        """Its pods, those left out that are being deleted or have ended."""
        found = self.core.list_namespaced_pod(namespace, label_selector=selector).items
        return [
            pod for pod in found if pod.metadata.deletion_timestamp is None and pod.status.phase not in ("Succeeded", "Failed")
        ]

    def get(self, host: str, port: int, path: str = "/", *, timeout: float = 5.0, method: str = "GET") -> tuple[int, bytes]:
        """Ask a pod or Service over HTTP, from the node: status and body. `OSError` when it does not answer."""
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        connection.sock = self.sandbox.connect(host, port, timeout=timeout)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

    def logs(self, namespace: str, pod: str, container: str = "leader-elector", *more: str) -> str:
        """What a container has written."""
        return self.kubectl("--namespace", namespace, "logs", pod, f"--container={container}", *more)

    def leader(self, namespace: str, election: str = "app.leader") -> str:
        """The holder in the lock; "" when there is none."""
        try:
            found = self.core.read_namespaced_endpoints(election, namespace)
        except kubernetes.client.ApiException as error:
            if error.status == 404:
                return ""
            raise
        record = json.loads(found.metadata.annotations["control-plane.alpha.kubernetes.io/leader"])
        holder = str(record["holderIdentity"])
        return "" if holder == "leader-election/placeholder" else holder

    def wait_for_leader(self, namespace: str, election: str = "app.leader", *, other_than: str = "", seconds: float = 60) -> str:
        """Wait until the lock is held by a pod, and by another one than that."""
        until(
            lambda: self.leader(namespace, election) not in ("", other_than),
            f"somebody other than {other_than!r} holds {namespace}/{election}",
            seconds,
        )
        return self.leader(namespace, election)


def pod_spec(*, image: str = SHELL_IMAGE, command: Sequence[str] = (), grace: int = 5, **more: Any) -> dict[str, Any]:
    """A pod's spec with one container, which by default does nothing and ends when it is told to."""
    waits = ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]
    container = {"name": "app", "image": image, "command": list(command) or waits, **more.pop("container", {})}
    return {"containers": [container], "terminationGracePeriodSeconds": grace, **more}


def deployment(
    name: str = "app",
    *,
    annotations: dict[str, str] | None = None,
    replicas: int = 3,
    spec: dict[str, Any] | None = None,
    kind: str = "Deployment",
    **more: Any,
) -> dict[str, Any]:
    """A workload of annotated pods."""
    labels = {"app": "tested", "workload": name}
    own = {"leader-election/enabled": "true", **(annotations or {})}
    body: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels, "annotations": own}, "spec": spec or pod_spec()},
            **more,
        },
    }
    if kind != "DaemonSet":
        body["spec"]["replicas"] = replicas
    return body
