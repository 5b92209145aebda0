"""`Sandbox`: one control plane, and programs beside it, that go away together."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGKILL, SIGTERM
from types import TracebackType
from typing import Any, Self

from sandbox import _folders, _kubeconfig
from sandbox._build import binaries
from sandbox._control_plane import API_SERVER, CONTROLLER_MANAGER, ETCD, ControlPlane
from sandbox._errors import SandboxError
from sandbox._keeper_client import KeeperClient, Program

__all__ = ["STATE_FILE", "Sandbox"]

STATE_FILE = "sandbox.json"
"""In a sandbox's folder once it is ready: what `status` shows."""


@dataclass(frozen=True)
class _HowToStart:
    argv: list[str]
    env: dict[str, str]
    cwd: Path
    essential: bool


class Sandbox:
    """A running control plane: etcd, kube-apiserver and kube-controller-manager, on ports of 127.0.0.1 of its own.

    It ends, leaving neither process nor folder, with `close` (or the `with` block), and also when this process ends in whatever
    way, unless it is kept. When a part of it dies by itself, everything ends, and the next call raises `SandboxError` saying why.
    """

    def __init__(self, folder: Path, keeper: KeeperClient) -> None:
        """Use `Sandbox.start`."""
        self._keeper = keeper
        self._programs: dict[str, tuple[Program, _HowToStart]] = {}
        self._api: Any = None
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
    def start(cls, *, name: str | None = None, audit: bool = False, keep: bool = False, timeout: float = 60.0) -> "Sandbox":
        """Start a sandbox and return it when it takes pods: the API server is ready, `default` has its ServiceAccount.

        Builds the binaries first when there are none, which takes minutes. `name`: for `status` and `down`; made up when None.
        `audit`: write an audit log (level Metadata, JSON lines) to `directory / "audit.log"`. `keep`: see `keep`. `timeout`:
        seconds for all but the build. `SandboxError` when there is no building or starting it.
        """
        found = binaries()
        began = time.monotonic()
        folder, lock = _folders.create(name)
        try:
            sandbox = cls(folder, KeeperClient(folder, lock))
        except BaseException:
            _folders.remove(folder)
            raise
        try:
            sandbox._bring_up(found, audit=audit, deadline=began + timeout)
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

    def run(self, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Program:
        """Start a program that ends with the sandbox at the latest, in a process group of its own, with no input.

        `name`: a-z, 0-9 and '-'; free again once the program has ended. `env`: its whole environment, this process' when None;
        `cwd` likewise. Its output goes to `Program.log`. `SandboxError` when it cannot be started, or one of that name runs.
        """
        if name in self._programs and self._programs[name][0].running:
            raise SandboxError(f"program {name!r} is already running with pid {self._programs[name][0].pid}")
        how = _HowToStart(list(argv), dict(os.environ if env is None else env), cwd or Path.cwd(), essential=False)
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

    def _bring_up(self, found: Path, *, audit: bool, deadline: float) -> None:
        (self.directory / "logs").mkdir()
        ports = self._keeper.request("reserve", count=ControlPlane.PORTS)["ports"]
        self._plane = plane = ControlPlane(self.directory, found, ports, audit=audit)
        self.url, self.ca_file = plane.url, plane.ca_file
        _kubeconfig.with_certificate(self.kubeconfig, url=plane.url, ca=plane.ca_file, client=plane.admin)
        self._start_part(ETCD, plane.etcd())
        self._start_part(API_SERVER, plane.api_server())
        plane.wait_until_serving(check=self.check, deadline=deadline)
        # Not before: it gives up when it finds no API server for ten seconds.
        self._start_part(CONTROLLER_MANAGER, plane.controller_manager())
        plane.wait_until_ready(check=self.check, deadline=deadline)

    def _start_part(self, name: str, argv: list[str]) -> None:
        self._start(name, _HowToStart(argv, _bare_environment(self.directory), self.directory, essential=True))

    def _start(self, name: str, how: _HowToStart) -> Program:
        logs = self.directory / "logs"
        program = self._keeper.start(name, how.argv, how.env, cwd=how.cwd, log=logs / f"{name}.log", essential=how.essential)
        self._programs[name] = (program, how)
        return program

    def _named(self, name: str) -> tuple[Program, _HowToStart]:
        if name not in self._programs:
            raise SandboxError(f"no program {name!r} was started; there are: {', '.join(self._programs)}")
        return self._programs[name]

    def _write_state(self) -> None:
        state = {
            "kubeconfig": str(self.kubeconfig),
            "url": self.url,
            "keeper": self.keeper_pid,
            "ready_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "ready_seconds": round(self.ready_seconds, 2),
        }
        (self.directory / STATE_FILE).write_text(json.dumps(state))


def _bare_environment(home: Path) -> dict[str, str]:
    # The caller's proxies, tracing and Go settings are none of the control plane's business.
    return {"PATH": os.defpath, "HOME": str(home), "TMPDIR": str(home)}
