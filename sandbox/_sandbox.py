"""`Sandbox`: one control plane, and programs beside it, that go away together."""

import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGKILL, SIGTERM
from types import TracebackType
from typing import Any, Self

from sandbox import _folders, _kubeconfig, _packages
from sandbox._build import binaries
from sandbox._control_plane import API_SERVER, CONTROLLER_MANAGER, ETCD, ControlPlane
from sandbox._errors import SandboxError
from sandbox._keeper_client import KeeperClient, Program
from sandbox._loading import commands
from sandbox._namespaces import NODE_ADDRESS, network_of
from sandbox._node import CONTAINERD, KUBE_PROXY, KUBELET, PAUSE_IMAGE, SCHEDULER, Node
from sandbox._pause import write_pause_image
from sandbox._recipes import CONTROL_PLANE, NODE

__all__ = ["STATE_FILE", "Sandbox"]

STATE_FILE = "sandbox.json"
"""In a sandbox's folder once it is ready: what `status` shows."""

_ROOT = Path(__file__).resolve().parent.parent
_POLL = 0.05


@dataclass(frozen=True)
class _HowToStart:
    argv: list[str]
    env: dict[str, str]
    cwd: Path
    essential: bool
    inside: bool


class Sandbox:
    """A running control plane: etcd, kube-apiserver and kube-controller-manager, on ports of 127.0.0.1 of its own.

    With a node (`start(node=True)`; root on Linux), all of it runs in namespaces of its own, with containerd, kubelet,
    kube-proxy and kube-scheduler: pods run, Services lead to them. From here its API server is reached on 127.0.0.1 too.

    It ends, leaving neither process nor folder, with `close` (or the `with` block), and also when this process ends in whatever
    way, unless it is kept. When a part of it dies by itself, everything ends, and the next call raises `SandboxError` saying why.
    """

    def __init__(self, folder: Path, keeper: KeeperClient) -> None:
        """Use `Sandbox.start`."""
        self._keeper = keeper
        self._programs: dict[str, tuple[Program, _HowToStart]] = {}
        self._api: Any = None
        self._node: Node | None = None
        self._first_process = 0
        self.name = folder.name
        self.directory = folder
        """Scratch that goes away with the sandbox."""
        self.kubeconfig = folder / "admin.kubeconfig"
        """The administrator's kubeconfig, readable by this user only."""
        self.url = ""
        """Where the API server listens, `https://127.0.0.1:PORT`."""
        self.ca_file = folder
        """The CA that the API server's certificate is to be verified with, PEM."""
        self.ready_seconds = 0.0
        """How long it took from the start to a cluster that takes pods, builds not counted."""

    @classmethod
    def start(
        cls, *, name: str | None = None, node: bool = False, audit: bool = False, keep: bool = False, timeout: float = 60.0
    ) -> "Sandbox":
        """Start a sandbox and return it when it takes pods: the API server is ready, `default` has its ServiceAccount.

        Builds the binaries first when there are none, which takes minutes. `name`: for `status` and `down`; made up when None.
        `node`: with a node, and returned when that is ready; Debian packages that it needs are installed first.
        `audit`: write an audit log (level Metadata, JSON lines) to `directory / "audit.log"`. `keep`: see `keep`. `timeout`:
        seconds for all but the build. `SandboxError` when there is no building or starting it.
        """
        if node:
            _packages.check_root("a node")
            _packages.ensure(_packages.FOR_A_NODE, "a node")
        found = binaries(NODE if node else CONTROL_PLANE)
        began = time.monotonic()
        folder, lock = _folders.create(name)
        try:
            sandbox = cls(folder, KeeperClient(folder, lock))
        except BaseException:
            _folders.remove(folder)
            raise
        try:
            sandbox._bring_up(found, node=node, audit=audit, deadline=began + timeout)
            sandbox.ready_seconds = time.monotonic() - began
            sandbox._write_state()
            if keep:
                sandbox.keep()
        except BaseException:
            sandbox.close()
            raise
        return sandbox

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop everything and remove the folder; programs have 3 s to end after SIGTERM. Nothing when it is kept."""
        if self._api is not None:
            self._api.rest_client.pool_manager.clear()
            self._api.close()
            self._api = None
        self._keeper.close()

    def keep(self) -> None:
        """Let it run on when this process ends, until `python -m sandbox down`. It takes no more orders from here."""
        self._keeper.detach()

    @property
    def keeper_pid(self) -> int:
        """The process that owns it; SIGTERM ends everything."""
        return self._keeper.pid

    def check(self) -> None:
        """`SandboxError` saying why, when it has ended."""
        self._keeper.check()

    # Programs

    def run(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        inside: bool = False,
    ) -> Program:
        """Start a program that ends with the sandbox at the latest, in a process group of its own, with no input.

        `name`: a-z, 0-9 and '-'; free again once the program has ended. `env`: its whole environment, this process' when None;
        `cwd` likewise. `inside`: on the node, where pods and Services can be reached. Its output goes to `Program.log`.
        `SandboxError` when it cannot be started, or one of that name runs.
        """
        if name in self._programs and self._programs[name][0].running:
            raise SandboxError(f"program {name!r} is already running with pid {self._programs[name][0].pid}")
        how = _HowToStart(list(argv), dict(os.environ if env is None else env), cwd or Path.cwd(), essential=False, inside=inside)
        return self._start(name, how)

    def program(self, name: str) -> Program:
        """The last started program of that name, parts of the control plane included. `SandboxError` when there is none."""
        return self._named(name)[0]

    def stop(self, name: str, number: int = SIGTERM, *, grace: float = 10.0) -> int:
        """End a program, or a part of the control plane, and return its exit code: see `Program.stop`."""
        return self.program(name).stop(number, grace=grace)

    def restart(self, name: str, *, timeout: float = 60.0) -> Program:
        """Start a program again as it was started before, after stopping it if it still runs: parts of the control plane by
        SIGKILL, since an API server that is asked waits for its clients first.

        After a part of the control plane, the API server is waited for, at most `timeout` seconds, unless it or etcd is stopped.
        """
        program, how = self._named(name)
        program.stop(SIGKILL if how.essential else SIGTERM)
        again = self._start(name, how)
        if how.essential and self.program(ETCD).running and self.program(API_SERVER).running:
            self._plane.wait_until_serving(check=self.check, deadline=time.monotonic() + timeout)
        return again

    # The node

    @property
    def node(self) -> Node:
        """The node's files. `SandboxError` when this sandbox has none."""
        if self._node is None:
            raise SandboxError("this sandbox has no node")
        return self._node

    def connect(self, host: str, port: int, *, timeout: float) -> socket.socket:
        """A TCP connection from the node to a pod or Service; `timeout`: seconds, for each thing done on it. Raises `OSError`."""
        with network_of(self._first_process):
            connection = socket.socket()
        try:
            connection.settimeout(timeout)
            connection.connect((host, port))
        except BaseException:
            connection.close()
            raise
        return connection

    def load_images(self, archive: Path, *names: str, timeout: float = 300.0) -> None:
        """Put the images of an archive (docker or OCI) on the node, under the names that they have in it.

        Of several `names` the first is one of these, and the others are given to the same image.
        """
        for command in commands(self.node.ctr, archive, names):
            loading = self.run("load-images", command, env=self.node.environment, cwd=self.directory, inside=True)
            if loading.wait(timeout) != 0:
                raise SandboxError(f"{archive} could not be loaded:\n{loading.log.read_text()[-2000:]}")

    # Clients

    @property
    def api(self) -> Any:
        """A `kubernetes.client.ApiClient` with the administrator's certificate; closed with the sandbox."""
        if self._api is None:
            import kubernetes.client  # takes most of a second, and the keeper does not need it

            configuration = kubernetes.client.Configuration()
            configuration.host = self.url
            configuration.ssl_ca_cert = str(self.ca_file)
            configuration.cert_file = str(self._plane.admin.certificate)
            configuration.key_file = str(self._plane.admin.key)
            configuration.proxy = None
            self._api = kubernetes.client.ApiClient(configuration)
        return self._api

    @property
    def admin_files(self) -> tuple[Path, Path]:
        """The administrator's client certificate and its key, PEM, for clients that take no kubeconfig, such as curl."""
        return self._plane.admin.certificate, self._plane.admin.key

    def service_account_token(
        self, namespace: str, name: str, *, pod: str | None = None, pod_uid: str | None = None, seconds: int = 3600
    ) -> str:
        """A token of that ServiceAccount, issued by the API server (TokenRequest), valid for `seconds` (600 or more).

        Bound to the pod of that name when given, and to exactly that one when its uid is given too: it ends with the pod.
        `kubernetes.client.ApiException` as the API server answers.
        """
        import kubernetes.client

        spec: dict[str, Any] = {"expirationSeconds": seconds, "audiences": []}
        if pod is not None:
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": pod_uid}
        core: Any = kubernetes.client.CoreV1Api(self.api)
        answer = core.create_namespaced_service_account_token(
            name, namespace, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        )
        return str(answer.status.token)

    def kubeconfig_for(self, token: str, path: Path) -> Path:
        """Write a kubeconfig, readable by this user only, for who shows that token; returns `path`."""
        return _kubeconfig.with_token(path, url=self.url, ca=self.ca_file, token=token)

    # Inside

    def _bring_up(self, found: Path, *, node: bool, audit: bool, deadline: float) -> None:
        (self.directory / "logs").mkdir()
        ports = self._keeper.request("reserve", count=ControlPlane.PORTS + node)["ports"]
        self._plane = plane = ControlPlane(
            self.directory,
            found,
            ports[: ControlPlane.PORTS],
            audit=audit,
            node_address=NODE_ADDRESS if node else None,
            way_in=ports[-1] if node else 0,
        )
        self.url, self.ca_file = plane.url, plane.ca_file
        _kubeconfig.with_certificate(self.kubeconfig, url=plane.url, ca=plane.ca_file, client=plane.admin)
        if node:
            self._first_process = first = self._keeper.isolate()
            self._node = Node(self.directory, found, plane)
            way_in = [sys.executable, "-m", "sandbox._forward", *map(str, (ports[-1], first, NODE_ADDRESS, plane.port))]
            self._start("way-in", _HowToStart(way_in, dict(os.environ), _ROOT, essential=True, inside=False))
        self._start_part(ETCD, plane.etcd())
        self._start_part(API_SERVER, plane.api_server())
        plane.wait_until_serving(check=self.check, deadline=deadline)
        # Not before: it gives up when it finds no API server for ten seconds.
        self._start_part(CONTROLLER_MANAGER, plane.controller_manager())
        if self._node is not None:
            self._bring_up_node(self._node, found, deadline)
        plane.wait_until_ready(check=self.check, deadline=deadline)

    def _bring_up_node(self, node: Node, found: Path, deadline: float) -> None:
        self._start_part(SCHEDULER, node.scheduler())
        self._start_part(CONTAINERD, node.containerd())
        self._start_part(KUBE_PROXY, node.kube_proxy())
        while self.run("containerd-ready", node.images(), env=node.environment, cwd=self.directory, inside=True).wait(5.0) != 0:
            self.check()
            if time.monotonic() > deadline:
                raise SandboxError(f"containerd does not serve in time: {self.program(CONTAINERD).log.read_text()[-2000:]}")
            time.sleep(_POLL)
        self.load_images(write_pause_image(found / "pause", PAUSE_IMAGE, self.directory / "pause.tar"))
        self._start_part(KUBELET, node.kubelet())
        node.wait_until_ready(self.api, check=self.check, deadline=deadline)

    def _start_part(self, name: str, argv: list[str]) -> None:
        # The caller's proxies, tracing and Go settings are none of the cluster's business.
        env = _bare_environment(self.directory) if self._node is None else self._node.environment
        self._start(name, _HowToStart(argv, env, self.directory, essential=True, inside=self._node is not None))

    def _start(self, name: str, how: _HowToStart) -> Program:
        logs = self.directory / "logs"
        log = logs / f"{name}.log"
        program = self._keeper.start(name, how.argv, how.env, cwd=how.cwd, log=log, essential=how.essential, inside=how.inside)
        self._programs[name] = (program, how)
        return program

    def _named(self, name: str) -> tuple[Program, _HowToStart]:
        if name not in self._programs:
            raise SandboxError(f"no program {name!r} was started; there are: {', '.join(self._programs)}")
        return self._programs[name]

    def _write_state(self) -> None:
        state: dict[str, Any] = {
            "kubeconfig": str(self.kubeconfig),
            "url": self.url,
            "keeper": self.keeper_pid,
            "ready_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "ready_seconds": round(self.ready_seconds, 2),
        }
        if self._node is not None:
            state["node"] = {
                "first_process": self._first_process,
                "ctr": self._node.ctr,
                "environment": self._node.environment,
            }
        (self.directory / STATE_FILE).write_text(json.dumps(state))


def _bare_environment(home: Path) -> dict[str, str]:
    return {"PATH": os.defpath, "HOME": str(home), "TMPDIR": str(home)}
