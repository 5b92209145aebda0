"""A controller on a sandbox, with the chart's rights and policies, and pods that come with their elector written into them."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from http.client import HTTPSConnection
from pathlib import Path
from ssl import SSLContext, create_default_context
from typing import Any
from urllib.parse import urlsplit

from sandbox import Program, Sandbox
from sandbox.kubelet import prepare
from tests.chart.release import Release
from webhook._inject import inject
from webhook._settings import InjectionSettings

__all__ = ["RECORD", "Api", "Controller", "Labelled", "pod_body", "wait"]

Json = dict[str, Any]

RECORD = "control-plane.alpha.kubernetes.io/leader"
_ROOT = Path(__file__).resolve().parents[1]
_WITHIN = 120.0


def wait(condition: Callable[[], object], within: float = _WITHIN) -> float:
    """Seconds until it holds."""
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > within:
            raise TimeoutError("waited in vain")
        time.sleep(0.002)
    return time.perf_counter() - began


class Api:
    """One keep-alive connection to the API server, as the administrator or with a token."""

    def __init__(self, sandbox: Sandbox, token: str = "") -> None:
        configuration = sandbox.api.configuration
        context: SSLContext = create_default_context(cafile=str(sandbox.ca_file))
        if not token:
            context.load_cert_chain(configuration.cert_file, configuration.key_file)
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        url = urlsplit(sandbox.url)
        self._connection = HTTPSConnection(url.hostname or "", url.port or 443, context=context, timeout=60.0)

    def send(self, method: str, path: str, body: Json | None = None, content_type: str = "") -> tuple[int, Json]:
        headers = {**self._headers, **({"Content-Type": content_type} if content_type else {})}
        self._connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read() or b"{}")

    def must(self, method: str, path: str, body: Json | None = None, content_type: str = "") -> Json:
        status, answer = self.send(method, path, body, content_type)
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {answer.get('message')}")
        return answer

    def watch(self, path: str, selector: str) -> Iterator[Json]:
        """The events of a watch, from what there is now, until the connection is closed."""
        self._connection.request("GET", f"{path}?watch=true&labelSelector={selector}", headers=self._headers)
        answer = self._connection.getresponse()
        while line := answer.readline():
            yield json.loads(line)

    def names(self, path: str, selector: str) -> list[str]:
        return [one["metadata"]["name"] for one in self.must("GET", f"{path}?labelSelector={selector}")["items"]]


class Labelled:
    """Which pods of an election have the leader's label, by a watch: a list would wait for the API server's cache."""

    def __init__(self, sandbox: Sandbox, namespace: str, selector: str) -> None:
        self.names: set[str] = set()
        self._api = Api(sandbox)
        self._changed = threading.Condition()
        events = self._api.watch(f"/api/v1/namespaces/{namespace}/pods", selector)
        threading.Thread(target=self._follow, args=(events,), daemon=True).start()

    def wait_for(self, name: str) -> None:
        """Return once that pod has the label, and no other one."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.names == {name}, _WITHIN):
                raise TimeoutError("waited in vain")

    def _follow(self, events: Iterator[Json]) -> None:
        for event in events:
            metadata = event["object"]["metadata"]
            leads = event["type"] != "DELETED" and metadata.get("labels", {}).get("leader-election/leader") == "true"
            with self._changed:
                self.names = self.names | {metadata["name"]} if leads else self.names - {metadata["name"]}
                self._changed.notify_all()


def pod_body(name: str, election: str) -> Json:
    """An injected pod, as the webhook makes it. Without the annotation that would send it through one."""
    annotations = {"leader-election/enabled": "true", "leader-election/name": election}
    env = [{"name": f"SETTING_{number}", "value": "x" * 40} for number in range(20)]
    container = {"name": "app", "image": "registry.example.com/shop/app:1.2.3", "env": env}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"containers": [container]},
    }
    injected = json.loads(inject(json.dumps(pod), InjectionSettings("registry.example.com/le-elector:1")).text)
    del injected["metadata"]["annotations"]["leader-election/enabled"]
    return dict(injected)


class Controller:
    """One replica, run as the chart's Deployment says."""

    def __init__(self, sandbox: Sandbox, scratch: Path) -> None:
        self._sandbox = sandbox
        self._scratch = scratch
        self.api = Api(sandbox)
        release = Release(sandbox, scratch, "leader-election", "le-system")
        release.install("--set=image.repository=registry.example.com/le", "--set=controller.replicas=1")
        wait(lambda: release.pods("controller"))
        self._pod = release.pods("controller")[0]
        self._program: Program | None = None

    def start(self) -> Program:
        """Start it anew, as the kubelet would."""
        folder = self._scratch / uuid.uuid4().hex
        folder.mkdir()
        container = prepare(self._sandbox, self._pod, "controller", folder)
        args = [one if not one.startswith("--status-listen") else "--status-listen=127.0.0.1:0" for one in container.args]
        command = [sys.executable, "-m", "webhook", *args]
        self._program = self._sandbox.run(
            f"controller-{uuid.uuid4().hex[:8]}", command, env={**container.env, "PATH": ""}, cwd=_ROOT
        )
        return self._program

    def stop(self) -> None:
        """End it; it hands over at once."""
        assert self._program is not None
        self._program.stop()

    def memory(self) -> tuple[float, float]:
        """MB that it holds, and that it has held at most."""
        assert self._program is not None
        text = Path(f"/proc/{self._program.pid}/status").read_text()
        now, most = (int(re.search(rf"^{key}:\s+(\d+)", text, re.MULTILINE)[1]) for key in ("VmRSS", "VmHWM"))  # type: ignore[index]
        return now * 1024 / 1e6, most * 1024 / 1e6

    def cpu(self) -> float:
        """CPU-seconds that it has used."""
        assert self._program is not None
        fields = Path(f"/proc/{self._program.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def namespaces(self, names: Iterable[str]) -> None:
        """Make namespaces that take pods."""
        for name in names:
            self.api.must("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
            wait(lambda name=name: self.api.send("GET", f"/api/v1/namespaces/{name}/serviceaccounts/default")[0] == 200)  # type: ignore[misc]
