"""The command lines of etcd, kube-apiserver and kube-controller-manager, and how one knows that they are ready."""

import http.client
import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sandbox import _kubeconfig
from sandbox._errors import SandboxError

__all__ = ["API_SERVER", "CONTROLLER_MANAGER", "ETCD", "ControlPlane"]

ETCD = "etcd"
API_SERVER = "kube-apiserver"
CONTROLLER_MANAGER = "kube-controller-manager"

_SERVICE_ADDRESSES = "10.96.0.0/16"
_API_SERVER_NAMES = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
]
_API_SERVER_ADDRESSES = ["127.0.0.1", "::1", "10.96.0.1"]

_AUDIT_POLICY = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}]}

_DEFAULT = "/api/v1/namespaces/default"

_POLL = 0.05
"""Seconds between two looks while waiting for a part to be ready."""


@dataclass(frozen=True)
class _Ports:
    etcd: int
    etcd_peers: int
    api_server: int


class ControlPlane:
    """The files and the command lines of one control plane in one folder. Starts nothing itself."""

    PORTS = 3
    """How many ports it needs."""

    def __init__(
        self, folder: Path, binaries: Path, ports: list[int], *, audit: bool, node_address: str | None = None, way_in: int = 0
    ) -> None:
        """`ports`: `PORTS` of them, of 127.0.0.1, reserved for sharing (SO_REUSEPORT).

        `node_address`: in a network of its own, with a node, the API server's address there, and `way_in` the port of 127.0.0.1
        that leads to it from outside.
        """
        # Here, so that the keeper, which is part of this package, does not carry `cryptography` for as long as it lives.
        from sandbox._certificates import Authority, write_service_account_key

        self._folder = folder
        self._binaries = binaries
        self._ports = _Ports(*ports)
        self._node_address = node_address
        self._outer_port = way_in or self._ports.api_server
        self._audit = audit
        certificates = folder / "certificates"
        certificates.mkdir(mode=0o700)
        authority = Authority(certificates)
        self.ca_file = authority.pair.certificate
        self.admin = authority.client("admin", user="admin", group="system:masters")
        self.authority = authority
        self._manager = authority.client("controller-manager", user="system:kube-controller-manager")
        own = [node_address] if node_address else []
        self._server = authority.server("kube-apiserver", dns=_API_SERVER_NAMES, addresses=[*_API_SERVER_ADDRESSES, *own])
        if node_address:
            self._kubelets_client = authority.client("kubelet-client", user="kube-apiserver", group="system:masters")
        self._service_account_key = write_service_account_key(certificates)
        self._tls = ssl.create_default_context(cafile=str(self.ca_file))
        self._tls.load_cert_chain(self.admin.certificate, self.admin.key)
        if audit:
            (folder / "audit-policy.json").write_text(json.dumps(_AUDIT_POLICY))

    @property
    def url(self) -> str:
        """Where this machine reaches the API server."""
        return f"https://127.0.0.1:{self._outer_port}"

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._ports.api_server

    @property
    def inner_url(self) -> str:
        """Where the other parts reach it."""
        return f"https://{self._node_address or '127.0.0.1'}:{self._ports.api_server}"

    def etcd(self) -> list[str]:
        """The command line of etcd."""
        clients = f"http://127.0.0.1:{self._ports.etcd}"
        peers = f"http://127.0.0.1:{self._ports.etcd_peers}"
        return [
            str(self._binaries / ETCD),
            f"--data-dir={self._folder / 'etcd'}",
            f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=sandbox={peers}",
            "--name=sandbox",
            "--socket-reuse-port",  # see the keeper's `reserve`
            "--unsafe-no-fsync",  # the data do not outlive the sandbox
            "--log-level=warn",
        ]

    def api_server(self) -> list[str]:
        """The command line of kube-apiserver: its default admission plugins, authorization by RBAC."""
        argv = [
            str(self._binaries / API_SERVER),
            f"--etcd-servers=http://127.0.0.1:{self._ports.etcd}",
            f"--secure-port={self._ports.api_server}",
            "--permit-port-sharing",
            f"--tls-cert-file={self._server.certificate}",
            f"--tls-private-key-file={self._server.key}",
            f"--client-ca-file={self.ca_file}",
            f"--service-account-key-file={self._service_account_key}",
            f"--service-account-signing-key-file={self._service_account_key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-cluster-ip-range={_SERVICE_ADDRESSES}",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
        ]
        if self._node_address:
            argv += [
                f"--advertise-address={self._node_address}",
                f"--kubelet-client-certificate={self._kubelets_client.certificate}",
                f"--kubelet-client-key={self._kubelets_client.key}",
                "--kubelet-preferred-address-types=InternalIP",  # there is no name service
                "--enable-admission-plugins=NodeRestriction",
            ]
        else:
            argv += [
                "--bind-address=127.0.0.1",
                # Without these it looks for a route to the world, and fails where there is none; Endpoints refuse 127.0.0.1.
                "--advertise-address=127.0.0.1",
                "--endpoint-reconciler-type=none",
            ]
        if self._audit:
            argv += [
                f"--audit-log-path={self._folder / 'audit.log'}",
                f"--audit-policy-file={self._folder / 'audit-policy.json'}",
                "--audit-log-mode=blocking",  # what was answered is in the file
            ]
        return argv

    def controller_manager(self) -> list[str]:
        """The command line of kube-controller-manager, all its default controllers."""
        kubeconfig = self._folder / "controller-manager.kubeconfig"
        _kubeconfig.with_certificate(kubeconfig, url=self.inner_url, ca=self.ca_file, client=self._manager)
        return [
            str(self._binaries / CONTROLLER_MANAGER),
            f"--kubeconfig={kubeconfig}",
            f"--service-account-private-key-file={self._service_account_key}",
            f"--root-ca-file={self.ca_file}",
            f"--cluster-signing-cert-file={self.authority.pair.certificate}",
            f"--cluster-signing-key-file={self.authority.pair.key}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ]

    def wait_until_serving(self, *, check: Callable[[], None], deadline: float) -> None:
        """Wait until the API server says that it is ready, and reads from etcd. `check` is called between looks and may raise."""
        self._wait("the API server, ready", ["/readyz", _DEFAULT], check, deadline)

    def wait_until_ready(self, *, check: Callable[[], None], deadline: float) -> None:
        """Wait until pods could be created in the namespace `default`."""
        self._wait("the namespace `default`'s ServiceAccount", [f"{_DEFAULT}/serviceaccounts/default"], check, deadline)
        self._wait("the namespace `default`'s CA", [f"{_DEFAULT}/configmaps/kube-root-ca.crt"], check, deadline)

    def _wait(self, what: str, paths: list[str], check: Callable[[], None], deadline: float) -> None:
        last = "no answer"
        while True:
            check()
            try:
                statuses = [self._status_of(path) for path in paths]
                if statuses == [200] * len(paths):
                    return
                last = f"status {max(statuses)}"
            except (OSError, http.client.HTTPException) as error:
                last = str(error)
            if time.monotonic() > deadline:
                raise SandboxError(f"{what}: not there in time ({last})")
            time.sleep(_POLL)

    def _status_of(self, path: str) -> int:
        connection = http.client.HTTPSConnection("127.0.0.1", self._outer_port, timeout=5.0, context=self._tls)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()
