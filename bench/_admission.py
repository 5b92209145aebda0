"""A webhook as a process of its own, and a client as light as can be: what it costs is not to be measured."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sandbox._certificates import Authority

__all__ = ["Connection", "Webhook", "review", "webhook"]

_ROOT = Path(__file__).parent.parent
_GOLDEN = _ROOT / "tests" / "unit" / "webhook" / "golden"
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_TICKS = os.sysconf("SC_CLK_TCK")


def review(name: str = "deployment") -> bytes:
    """The AdmissionReview for the creation of a golden pod, as the API server sends it."""
    pod: dict[str, Any] = json.loads((_GOLDEN / f"{name}.pod.json").read_text())
    kind, resource = {"group": "", "version": "v1", "kind": "Pod"}, {"group": "", "version": "v1", "resource": "pods"}
    request = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": kind,
        "resource": resource,
        "requestKind": kind,
        "requestResource": resource,
        "namespace": "shop",
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller", "groups": ["system:authenticated"]},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
    }
    return json.dumps({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}).encode()


@dataclass(frozen=True)
class Webhook:
    """A serving webhook."""

    pid: int
    port: int
    ca: Path

    def cpu_seconds(self) -> float:
        """CPU time that the process has used so far, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident(self) -> float:
        """Its resident memory in MB (10^6 bytes)."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def connect(self) -> Connection:
        """A keep-alive TLS connection."""
        return Connection(self.port, self.ca)


class Connection:
    """Sends the same request again and again over one TLS connection."""

    def __init__(self, port: int, ca: Path) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=30)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = ssl.create_default_context(cafile=str(ca)).wrap_socket(plain, server_hostname="127.0.0.1")

    def post(self, body: bytes) -> bytes:
        """POST a review and return the body of the answer, whose status has to be 200."""
        head = "POST /mutate?timeout=5s HTTP/1.1\r\nhost: webhook\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)
        received = self._socket.recv(65536)
        while b"\r\n\r\n" not in received:
            received += self._socket.recv(65536)
        answer, _, content = received.partition(b"\r\n\r\n")
        length = _CONTENT_LENGTH.search(answer + b"\r\n")
        if not answer.startswith(b"HTTP/1.1 200") or length is None:
            raise RuntimeError(f"unexpected answer: {received[:500]!r}")
        while len(content) < int(length[1]):
            content += self._socket.recv(65536)
        return content

    def close(self) -> None:
        self._socket.close()


@contextmanager
def webhook(*options: str) -> Iterator[Webhook]:
    """This checkout's webhook on loopback, with its whole validation and its log (to nowhere)."""
    with TemporaryDirectory(prefix="bench-webhook-") as folder:
        authority = Authority(Path(folder))
        pair = authority.server("webhook", dns=["localhost"], addresses=["127.0.0.1"])
        command = [sys.executable, "-m", "webhook", "webhook", "--listen=127.0.0.1:0", "--image=elector:1", *options]
        command += [f"--tls-cert-file={pair.certificate}", f"--tls-key-file={pair.key}"]
        with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                found = re.fullmatch(r"serving on https://127\.0\.0\.1:(\d+)/mutate\n", line)
                if found is None:
                    raise RuntimeError(f"the webhook does not serve: {line!r}")
                yield Webhook(process.pid, int(found[1]), authority.pair.certificate)
            finally:
                process.terminate()
