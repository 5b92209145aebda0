"""A leading elector against clients that are rude, slow, many or huge, and against API servers that are not to be trusted.

Whatever its own clients do, it renews, leads and stays small; whoever answers it, its certificate is verified; and no log says a
secret. The elector's log is at level debug throughout.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
import re
import socket
import ssl
import struct
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from signal import SIGKILL
from typing import Any

import kubernetes.client
import kubernetes.watch
import pytest
import urllib3
import yaml

from sandbox import Sandbox
from sandbox.kubelet import SERVICE_ACCOUNT_VARIABLE
from tests.api.electors import RECORD, ROOT, Elector, clean_environment, make_free_lock
from tests.api.fault_proxy import FaultProxy, Observer
from tests.ports import free_port
from tests.unit.elector.pki import Authority, Pair
from tests.waiting import until

pytestmark = pytest.mark.api

TTL = 2.0
LONGEST_GAP = 0.95 * TTL / 2
"""Seconds between two renewals at most, which come every ttl/4: after two of those one was missed, and the claim has ended."""

GROWTH = 10 << 20
"""Bytes that the elector's resident memory may grow by in all."""

MARKER = b"bytes-of-a-body-"
"""What the bodies sent here are made of."""

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

RESET = struct.pack("ii", 1, 0)


def core(sandbox: Sandbox) -> Any:
    return kubernetes.client.CoreV1Api(sandbox.api)


# --- the elector that leads, and what is held against it


@dataclass(frozen=True)
class Renewal:
    """One state of the lock as the API server sent it."""

    renewed: float
    """Seconds, by the elector's clock at the moment that it wrote."""
    holder: str
    version: int


class Renewals:
    """Watches the lock object at the API server and keeps every state of it."""

    def __init__(self, sandbox: Sandbox, namespace: str, election: str) -> None:
        self.seen: list[Renewal] = []
        self._closed = False
        self._core = core(sandbox)
        self._which: dict[str, Any] = {"namespace": namespace, "field_selector": f"metadata.name={election}"}
        self._watch: Any = kubernetes.watch.Watch()  # type: ignore[no-untyped-call]
        self._since = self._core.list_namespaced_endpoints(**self._which).metadata.resource_version
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed = True
        self._watch.stop()
        self._thread.join(10.0)

    def _follow(self) -> None:
        try:
            self._keep_events()
        except urllib3.exceptions.HTTPError:
            if not self._closed:  # stopping a watch breaks its connection
                raise

    def _keep_events(self) -> None:
        events = self._watch.stream(
            self._core.list_namespaced_endpoints, **self._which, resource_version=self._since, timeout_seconds=600
        )
        for event in events:
            metadata = event["raw_object"]["metadata"]
            record = json.loads(metadata["annotations"][RECORD])
            renewed = datetime.fromisoformat(record["renewTime"]).timestamp()
            self.seen.append(Renewal(renewed, record["holderIdentity"], int(metadata["resourceVersion"])))


class Victim:
    """An elector that leads, with a token for its credentials."""

    def __init__(self, sandbox: Sandbox, namespace: str, token: str, kubeconfig: Path) -> None:
        self.token = token
        self.status_port = free_port()
        election = f"robust-{uuid.uuid4().hex[:8]}"
        make_free_lock(sandbox, namespace, election)
        self.elector = Elector(
            sandbox,
            "pod-a",
            f"--election={election}",
            f"--election-namespace={namespace}",
            f"--ttl={TTL:g}s",
            "--log-level=debug",
            f"--status-http=127.0.0.1:{self.status_port}",
            env=clean_environment(KUBECONFIG=str(sandbox.kubeconfig_for(token, kubeconfig))),
            program=f"victim-{election}",
        )
        until(lambda: self.elector.leads, "it leads", 20.0)
        self.renewals = Renewals(sandbox, namespace, election)
        self.small = self.resident

    @property
    def resident(self) -> int:
        """Bytes of resident memory."""
        status = Path(f"/proc/{self.elector.program.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        assert found
        return int(found[1]) << 10

    def connect(self, timeout: float = 10.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.elector.port), timeout=timeout)

    def writes(self) -> dict[str, int]:
        """Its writes to the lock so far, by result."""
        metrics = self.elector.ask("/metrics", port=self.status_port)[1].decode()
        return {
            name: int(count)
            for name, count in re.findall(r'^elector_lock_writes_total{result="(\w+)"} (\d+)$', metrics, re.MULTILINE)
        }

    @contextmanager
    def steady(self) -> Iterator[None]:
        """During the block, and since its start: no renewal is missed, no claim lapses, memory stays."""
        first = max(0, len(self.renewals.seen) - 1)
        with Observer(self.elector, hertz=20.0) as observer:
            until(lambda: observer.has_led(self.elector), "the observer has an answer", 5.0)
            yield
            done = len(self.renewals.seen)
            until(lambda: len(self.renewals.seen) >= done + 2, "it renews", 10.0)
            answers = tuple(observer.answers[self.elector])
        assert all(answer.body["leading"] for answer in answers)
        seen = self.renewals.seen[first:]
        gaps = [later.renewed - earlier.renewed for earlier, later in itertools.pairwise(seen)]
        grown = self.resident - self.small
        print(
            f"{len(seen)} renewals, at most {max(gaps):.3f} s apart (ttl/4 is {TTL / 4:g} s); "
            f"resident {self.resident / 1e6:.1f} MB, grown by {grown / 1e6:.1f} MB in all"
        )
        assert max(gaps) < LONGEST_GAP
        assert all(earlier.version < later.version for earlier, later in itertools.pairwise(seen))
        assert {one.holder for one in seen} == {"pod-a"}
        writes = self.writes()
        assert writes["ok"] > 1
        assert writes == {"ok": writes["ok"], "conflict": 0, "refused": 0, "failed": 0, "unknown": 0}
        log = self.elector.log
        assert self.elector.said == ["pod-a"]
        assert "not leading any more" not in log
        assert "Traceback" not in log
        assert not leaked(log, self.token)
        assert grown < GROWTH


def leaked(log: str, *tokens: str) -> list[str]:
    """What of these tokens, or of any body that went to or came from the API server or a client, stands in the log."""
    # A token's parts count, and so does its base64 form; the last dot begins its signature.
    secrets = [part for token in tokens for part in (token[:40], token[-20:], base64.b64encode(token.encode()).decode()[:40])]
    bodies = ["holderIdentity", "leaseDurationSeconds", '"metadata"', "managedFields", "Authorization", "Bearer", MARKER.decode()]
    return [text for text in (*secrets, *bodies) if text in log]


@pytest.fixture(scope="module")
def namespace(sandbox: Sandbox) -> Iterator[str]:
    name = f"robust-{uuid.uuid4().hex[:8]}"
    core(sandbox).create_namespace({"metadata": {"name": name}})
    yield name
    core(sandbox).delete_namespace(name)


@pytest.fixture(scope="module")
def account(sandbox: Sandbox, namespace: str) -> str:
    """A service account that may do what an elector does, and nothing else."""
    name = "candidate"
    rbac: Any = kubernetes.client.RbacAuthorizationV1Api(sandbox.api)
    core(sandbox).create_namespaced_service_account(namespace, {"metadata": {"name": name}})
    rules = [{"apiGroups": [""], "resources": ["endpoints"], "verbs": ["get", "list", "watch", "create", "update"]}]
    rbac.create_namespaced_role(namespace, {"metadata": {"name": name}, "rules": rules})
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    reference = {"kind": "Role", "name": name, "apiGroup": "rbac.authorization.k8s.io"}
    rbac.create_namespaced_role_binding(namespace, {"metadata": {"name": name}, "subjects": [subject], "roleRef": reference})
    return name


@pytest.fixture(scope="module")
def victim(sandbox: Sandbox, namespace: str, account: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    token = sandbox.service_account_token(namespace, account)
    one = Victim(sandbox, namespace, token, tmp_path_factory.mktemp("victim") / "kubeconfig")
    yield one
    one.renewals.close()
    one.elector.program.stop(SIGKILL)


# --- clients


def rest_of(connection: socket.socket) -> bytes:
    """All that comes until the other end closes, in good order or not."""
    data = b""
    with suppress(ConnectionError):
        while part := connection.recv(65536):
            data += part
    return data


def one_reply(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of one reply with Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        assert part, f"closed after {data!r}"
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)^content-length: (\d+)\r?$", head, re.MULTILINE)
    assert length, head
    while len(body) < int(length[1]):
        body += connection.recv(65536)
    return int(head.split()[1]), body


def test_garbage(victim: Victim) -> None:
    chance = random.Random(5)
    pieces = [
        b"\0" * 100_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(500),  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + chance.randbytes(100),
        b"EHLO there\r\nMAIL FROM:<a@b>\r\n",
        b"\r\n" * 10_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000,
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n" + MARKER,
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n" + MARKER,
        b"GET / HTTP/1.1\nHost: x\n\n" + b"\xff" * 1000,
        b"GET \x1b]0;pwned\x07 HTTP/1.1\r\nHost: x\r\n\r\n",
        *(chance.randbytes(chance.randrange(1, 20_000)) for _ in range(30)),
    ]
    with victim.steady():
        for number, piece in enumerate(pieces * 5):
            with victim.connect() as connection:
                with suppress(ConnectionError):
                    connection.sendall(piece)
                    connection.shutdown(socket.SHUT_WR)
                if number % 2:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                else:
                    reply = rest_of(connection)
                    assert not reply or reply.startswith(b"HTTP/1.1 "), reply[:100]
        assert victim.elector.leader == "pod-a"


def test_slow_headers(victim: Victim) -> None:
    with victim.steady(), ExitStack() as stack:
        clients = [stack.enter_context(victim.connect()) for _ in range(100)]
        began, left = time.monotonic(), list(clients)
        for byte in b"GET / HTTP/1.1\r\nX-Slow: " + b"a" * 1000:
            for client in list(left):
                try:
                    client.sendall(bytes([byte]))
                    client.settimeout(0.0)
                    if client.recv(1000) is not None:  # 408, or its end
                        left.remove(client)
                except BlockingIOError:
                    pass
                except ConnectionError:
                    left.remove(client)
            if not left:
                break
            time.sleep(0.2)  # the slowness is the test
        took = time.monotonic() - began
        print(f"a hundred slow clients are gone after {took:.1f} s")
        assert not left
        assert 4.0 < took < 15.0  # five seconds are what the documentation gives


@pytest.mark.timeout(240)
def test_ten_thousand_connections_one_after_the_other(victim: Victim) -> None:
    began = time.monotonic()
    with victim.steady():
        for number in range(10_000):
            with victim.connect() as connection:
                connection.sendall(GET)
                assert connection.recv(65536).endswith(b'{"name":"pod-a"}')
                if number % 2:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    print(f"10,000 connections in {time.monotonic() - began:.1f} s")


def test_a_thousand_at_once(victim: Victim) -> None:
    async def one(port: int, all_there: asyncio.Barrier) -> int:
        """The status of the reply, 0 when there was none."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await all_there.wait()
            writer.write(GET)
            return int((await reader.readuntil(b"\r\n")).split()[1])
        except (ConnectionError, asyncio.IncompleteReadError):
            return 0
        finally:
            writer.transport.abort()

    async def all_of_them() -> list[int]:
        all_there = asyncio.Barrier(1000)
        async with asyncio.timeout(60):
            return await asyncio.gather(*(one(victim.elector.port, all_there) for _ in range(1000)))

    with victim.steady():
        for _ in range(3):
            statuses = asyncio.run(all_of_them())
            counted = {status: statuses.count(status) for status in sorted(set(statuses))}
            print(f"a thousand at once were answered {counted}")
            assert set(counted) <= {0, 200, 503}
            assert counted[200] >= 200  # of the 256 that are served at a time
            until(lambda: victim.elector.leader == "pod-a", "the next one is served", 10.0)


@pytest.mark.timeout(240)
def test_a_gigabyte_of_body(victim: Victim) -> None:
    block = MARKER * (65536 // len(MARKER))

    def pour(head: bytes, piece: bytes) -> tuple[int, bytes]:
        """Send head and pieces up to a gigabyte, as far as that goes: how many bytes went, and what came back."""
        sent = 0
        with victim.connect() as connection:
            connection.sendall(head)
            with suppress(ConnectionError):
                while sent < 1 << 30:
                    connection.sendall(piece)
                    sent += len(piece)
            return sent, rest_of(connection)

    with victim.steady():
        chunk = b"%x\r\n%s\r\n" % (len(block), block)
        for header, piece in ((b"Content-Length: 1073741824", block), (b"Transfer-Encoding: chunked", chunk)):
            sent, reply = pour(b"POST / HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\n", piece)
            # Refused at once, and for a second what still comes is dropped; the reset after it can destroy the reply.
            assert b" 413 " in reply or sent < 1 << 30
            assert b" 200 " not in reply
            print(f"{sent / 1e6:.0f} MB of a body that is too large were taken and dropped")
        # And one that is let through, a megabyte at a time.
        began = time.monotonic()
        with victim.connect() as connection:
            for _ in range(1024):
                connection.sendall(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n")
                for _ in range(16):
                    connection.sendall(block)
                assert one_reply(connection) == (200, b'{"name":"pod-a"}')
    print(f"a gigabyte of bodies in {time.monotonic() - began:.1f} s")


def test_unknown_methods(victim: Victim) -> None:
    with victim.steady(), victim.connect() as connection:
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "FOO", "get", "M-SEARCH", "X" * 1000):
            for path, status in (("/", 200), ("/v1/leader", 405), ("/v1/leading", 405), ("/v1/leader/events", 405)):
                connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                got, body = one_reply(connection)
                assert got == status, (method, path)
                assert (body == b'{"name":"pod-a"}') == (status == 200)
            connection.sendall(f"{method} /v1/resign HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert one_reply(connection)[0] == 405  # and it leads on
        connection.sendall(b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert one_reply(connection)[0] == 405


@pytest.mark.timeout(240)
@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.long)])
def test_event_streams_that_come_and_go(victim: Victim, count: int) -> None:
    async def one(number: int, few: asyncio.Semaphore) -> bool:
        async with few:
            reader, writer = await asyncio.open_connection("127.0.0.1", victim.elector.port)
            try:
                writer.write(b"GET /v1/leader/events HTTP/1.1\r\nHost: x\r\n\r\n")
                event = await reader.readuntil(b"}\n\n")
                if number % 2:
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    writer.transport.abort()
                else:
                    writer.close()
                    await writer.wait_closed()
            except ConnectionError:
                return False
            return b'"name": "pod-a", "leading": true' in event

    async def all_of_them() -> int:
        few = asyncio.Semaphore(100)
        async with asyncio.timeout(200):
            return sum(await asyncio.gather(*(one(number, few) for number in range(count))))

    with victim.steady():
        began = time.monotonic()
        heard = asyncio.run(all_of_them())
        print(f"{heard} of {count} event streams in {time.monotonic() - began:.1f} s, a hundred at a time")
        assert heard == count


def test_the_status_server_answers_while_the_other_is_full(victim: Victim) -> None:
    events = b"GET /v1/leader/events HTTP/1.1\r\nHost: x\r\n\r\n"
    with victim.steady(), ExitStack() as stack:
        # The observer has one of the 256.
        for _ in range(255):
            stack.enter_context(victim.connect()).sendall(events)

        def full() -> bool:
            with victim.connect() as connection:
                with suppress(ConnectionError):
                    connection.sendall(GET)
                return rest_of(connection).startswith(b"HTTP/1.1 503 ") if not _answers(connection) else False

        until(full, "nobody more is served", 10.0)
        began, asked = time.monotonic(), 0
        while time.monotonic() - began < TTL:
            for path in ("/healthz", "/readyz", "/metrics"):
                assert victim.elector.ask(path, port=victim.status_port)[0] == 200
                asked += 1
            assert full()
        print(f"the status server answered {asked} requests in {TTL:g} s while 256 connections filled the other")
    until(lambda: victim.elector.leader == "pod-a", "there is room again", 10.0)


def _answers(connection: socket.socket) -> bool:
    """Whether the next reply is a 200."""
    return connection.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200"


# --- nothing sensitive in the log


class TlsServer:
    """Stands in for an API server: a TLS server that answers each request by `reply`, and remembers what was asked of it."""

    def __init__(self, pair: Pair, folder: Path, reply: Callable[[bytes], bytes] = bytes) -> None:
        file = folder / f"server-{uuid.uuid4().hex[:8]}.pem"
        file.write_bytes(pair.certificate + pair.key)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(file)
        self.reply = reply
        self.connections = 0
        self.requests: list[bytes] = []
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> TlsServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._thread.join(10.0)
        self._listener.close()

    def _serve(self) -> None:
        while not self._closed.is_set():
            with suppress(TimeoutError):
                connection = self._listener.accept()[0]
                self.connections += 1
                with connection, suppress(OSError):  # a handshake that fails is one
                    connection.settimeout(1.0)
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        with self._context.wrap_socket(connection, server_side=True) as tls:
            request = tls.recv(65536)
            if request:
                self.requests.append(request)
                tls.sendall(self.reply(request))


class Folder:
    """A pod's folder with token and CA, which can be exchanged under a running elector."""

    def __init__(self, path: Path, token: str, ca: bytes) -> None:
        self.path = path
        path.mkdir(mode=0o700)
        self.put("token", token.encode())
        self.put("ca.crt", ca)
        self.put("namespace", b"default")

    def put(self, name: str, content: bytes) -> None:
        new = self.path / f"..{name}"
        new.touch(mode=0o600)
        new.write_bytes(content)
        new.replace(self.path / name)


@pytest.fixture
def start(sandbox: Sandbox, namespace: str) -> Iterator[Callable[..., Elector]]:
    """Starts an elector, at log level debug, for an election of its own."""
    started: list[Elector] = []

    def one(env: dict[str, str], *flags: str) -> Elector:
        election = f"robust-{uuid.uuid4().hex[:8]}"
        make_free_lock(sandbox, namespace, election)
        names = (f"--election={election}", f"--election-namespace={namespace}", f"--ttl={TTL:g}s", "--log-level=debug")
        elector = Elector(sandbox, "pod-a", *names, *flags, env=env, program=f"pod-a-{election}")
        started.append(elector)
        return elector

    yield one
    for elector in started:
        if elector.program.running:
            elector.program.stop(SIGKILL)


def in_cluster(folder: Folder, port: int) -> dict[str, str]:
    return clean_environment(
        KUBERNETES_SERVICE_HOST="127.0.0.1",
        KUBERNETES_SERVICE_PORT=str(port),
        **{SERVICE_ACCOUNT_VARIABLE: str(folder.path)},
    )


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_token_and_no_body_in_the_log_of_an_elector_in_a_pod(
    sandbox: Sandbox, namespace: str, account: str, start: Callable[..., Elector], tmp_path: Path, log_format: str
) -> None:
    powerless = sandbox.service_account_token(namespace, "default")
    tokens = [sandbox.service_account_token(namespace, account) for _ in range(2)]
    ca = sandbox.ca_file.read_bytes()
    folder = Folder(tmp_path / "folder", tokens[0], ca)
    with FaultProxy(sandbox) as proxy:
        one = start(in_cluster(folder, proxy.port), f"--log-format={log_format}")
        until(lambda: one.leads, "it leads", 20.0)
        # A token without rights, one that is none, half of one, none at all, and a good one again.
        folder.put("token", powerless.encode())
        until(lambda: "403" in one.log, "the API server refuses", 10.0)
        folder.put("token", b"invented-token-of-nobody")
        until(lambda: "401" in one.log, "the API server does not know it", 10.0)
        folder.put("token", tokens[1].encode() + b"\nand more")
        folder.put("token", b"")
        folder.put("token", tokens[1].encode())
        until(lambda: one.leads, "it leads with the new token", 20.0)
        # A connection that breaks, and a CA that did not sign the server's certificate.
        folder.put("ca.crt", Authority().certificate)
        proxy.reset()
        proxy.heal()
        until(lambda: "certificate is refused" in one.log, "TLS fails", 10.0)
        until(lambda: not one.leads, "it stops claiming", 10.0)
        folder.put("ca.crt", ca)
        until(lambda: one.leads, "it leads again", 20.0)
        assert one.ask("/" + MARKER.decode(), method="POST")[0] == 200
    until(lambda: not one.leads, "it stops claiming without an API server", 10.0)
    assert not leaked(one.log, *tokens, powerless, "invented-token-of-nobody")
    assert "Traceback" not in one.log


def _echo(request: bytes) -> bytes:
    return request


def _http(status: str, content_type: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


BAD_REPLIES: dict[str, Callable[[bytes], bytes]] = {
    "an echo": _echo,
    "a page with the request in it": lambda request: _http("502 Bad Gateway", "text/html", b"<pre>" + request + b"</pre>"),
    "an answer that is not JSON": lambda request: _http("200 OK", "application/json", request),
    "JSON that is no object": lambda request: _http("200 OK", "application/json", json.dumps([request.decode()]).encode()),
    "a status line with the request in it": lambda request: b"HTTP/1.1 " + request.replace(b"\r\n", b" ") + b"\r\n\r\n",
    "a header with the request in it": lambda request: b"HTTP/1.1 200 OK\r\n" + request.replace(b"\r\n", b"\n \0"),
    "nothing": lambda request: b"",
    "a refusal with the request in it": lambda request: _http(
        "403 Forbidden", "application/json", json.dumps({"kind": "Status", "message": request.decode()}).encode()
    ),
    "a warning with the request in it": lambda request: (
        b"HTTP/1.1 200 OK\r\nWarning: 299 - " + request.replace(b"\r\n", b" ") + b"\r\nContent-Length: 2\r\n\r\n{}"
    ),
}


@pytest.mark.parametrize("kind", BAD_REPLIES)
def test_no_token_in_the_log_whatever_answers(start: Callable[..., Elector], tmp_path: Path, kind: str) -> None:
    authority, token = Authority(), "a-token-that-nobody-should-read-anywhere-0123456789"
    folder = Folder(tmp_path / "folder", token, authority.certificate)
    with TlsServer(authority.sign("127.0.0.1"), tmp_path, BAD_REPLIES[kind]) as server:
        one = start(in_cluster(folder, server.port))
        until(lambda: len(server.requests) >= 3, "it has tried three times", 20.0)
        until(lambda: "WARNING" in one.log, "it complains", 10.0)
    assert all(token.encode() in request for request in server.requests)  # or there was nothing to leak
    assert not leaked(one.log, token)
    assert "Traceback" not in one.log


def test_a_record_or_a_refusal_writes_no_line_of_its_own_into_the_log(
    sandbox: Sandbox, namespace: str, start: Callable[..., Elector], tmp_path: Path
) -> None:
    forged = "2026-01-01T00:00:00Z ERROR forged"
    election = f"robust-{uuid.uuid4().hex[:8]}"
    record = {"holderIdentity": f"x\n{forged}", "leaseDurationSeconds": 60, "leaderTransitions": 0}
    times = dict.fromkeys(("acquireTime", "renewTime"), "2026-01-01T00:00:00Z")
    body = {"metadata": {"name": election, "annotations": {RECORD: json.dumps(record | times)}}}
    core(sandbox).create_namespaced_endpoints(namespace, body)
    one = start(clean_environment(KUBECONFIG=str(sandbox.kubeconfig)), f"--election={election}")
    until(lambda: "a lease of 60s" in one.log, "it warns of the other lease", 10.0)
    assert not [line for line in one.log.splitlines() if line.startswith(forged)]
    authority = Authority()
    refusal = _http("403 Forbidden", "application/json", json.dumps({"kind": "Status", "message": f"no\n{forged}"}).encode())
    with TlsServer(authority.sign("127.0.0.1"), tmp_path, lambda request: refusal) as server:
        other = start(in_cluster(Folder(tmp_path / "folder", "token", authority.certificate), server.port))
        until(lambda: "403" in other.log, "it tells of the refusal", 10.0)
        assert not [line for line in other.log.splitlines() if line.startswith(forged)]


def test_no_token_in_what_is_said_of_a_kubeconfig(sandbox: Sandbox, tmp_path: Path) -> None:
    token = "a-token-that-nobody-should-read-anywhere-0123456789"
    good = sandbox.kubeconfig_for(token, tmp_path / "good").read_text()
    broken = {
        "a blank in it": good.replace(token, f"{token} {token}"),
        "no YAML": good + "\n\t: [",
        "a list": good.replace(f'"{token}"', f'["{token}"]'),
    }
    for what, text in broken.items():
        assert text != good
        path = tmp_path / "kubeconfig"
        path.write_text(text)
        code, log = run_to_its_end(sandbox, path)
        assert code == 1, what
        assert not leaked(log, token), what
        assert "Traceback" not in log, what


# --- TLS to the API server


def run_to_its_end(sandbox: Sandbox, kubeconfig: Path) -> tuple[int | None, str]:
    argv = [sys.executable, "-m", "elector", "--election=example", "--log-level=debug", f"--kubeconfig={kubeconfig}"]
    program = sandbox.run(f"ends-{uuid.uuid4().hex[:8]}", argv, env=clean_environment(), cwd=ROOT)
    code = program.wait(20.0)
    if code is None:
        program.stop(SIGKILL)
    return code, program.log.read_text()


def write_kubeconfig(path: Path, *, url: str, token: str, **cluster: Any) -> Path:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "it", "user": {"token": token}}],
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    ("names", "days", "trusted", "why"),
    [
        (("127.0.0.1",), 1, False, "unable to get local issuer certificate"),
        (("127.0.0.1",), -1, True, "certificate has expired"),
        (("127.0.0.2", "kubernetes"), 1, True, "IP address mismatch, certificate is not valid for '127.0.0.1'"),
    ],
    ids=["wrong CA", "expired", "wrong name"],
)
@pytest.mark.parametrize("pod", [True, False], ids=["in a pod", "kubeconfig"])
def test_a_server_whose_certificate_does_not_hold_learns_nothing(
    start: Callable[..., Elector], tmp_path: Path, pod: bool, names: tuple[str, ...], days: int, trusted: bool, why: str
) -> None:
    authority, token = Authority(), "a-token-that-nobody-should-read-anywhere-0123456789"
    ca = (authority if trusted else Authority("another authority")).certificate
    with TlsServer(authority.sign(*names, days=days), tmp_path) as server:
        if pod:
            env = in_cluster(Folder(tmp_path / "folder", token, ca), server.port)
        else:
            data = {"certificate-authority-data": base64.b64encode(ca).decode()}
            url = f"https://127.0.0.1:{server.port}"
            env = clean_environment(KUBECONFIG=str(write_kubeconfig(tmp_path / "kubeconfig", url=url, token=token, **data)))
        one = start(env)
        until(lambda: server.connections >= 5, "it has tried five times", 20.0)
        assert one.leader == ""
        assert not one.leads
        assert server.requests == []
        lines = [line for line in one.log.splitlines() if "certificate is refused" in line]
        assert len(lines) == 1, one.log  # said once, however often it tries
        assert why in lines[0]
        assert f"https://127.0.0.1:{server.port}" in lines[0]
    assert not one.said
    assert "Traceback" not in one.log
    assert not leaked(one.log, token)


def test_the_real_api_server_under_another_name_or_ca_is_refused_too(
    sandbox: Sandbox, namespace: str, account: str, start: Callable[..., Elector], tmp_path: Path
) -> None:
    token = sandbox.service_account_token(namespace, account)
    good = {"certificate-authority-data": base64.b64encode(sandbox.ca_file.read_bytes()).decode()}
    other = {"certificate-authority-data": base64.b64encode(Authority().certificate).decode()}
    started = []
    for number, cluster in enumerate((good | {"tls-server-name": "somebody.else"}, other, good)):
        path = write_kubeconfig(tmp_path / f"kubeconfig-{number}", url=sandbox.url, token=token, **cluster)
        started.append(start(clean_environment(KUBECONFIG=str(path))))
    wrong_name, wrong_ca, right = started
    until(lambda: right.leads, "with the right CA and name, it leads", 20.0)
    until(lambda: "certificate is refused: Hostname mismatch" in wrong_name.log, "the name is refused", 10.0)
    until(lambda: "certificate is refused: unable to get local issuer" in wrong_ca.log, "the CA is refused", 10.0)
    assert wrong_name.leader == wrong_ca.leader == ""
    assert not [one.log for one in started if leaked(one.log, token)]


def test_skipping_verification_is_refused_at_start(sandbox: Sandbox, tmp_path: Path) -> None:
    token = "a-token-that-nobody-should-read-anywhere-0123456789"
    path = write_kubeconfig(tmp_path / "kubeconfig", url=sandbox.url, token=token, **{"insecure-skip-tls-verify": True})
    code, log = run_to_its_end(sandbox, path)
    assert code == 1
    assert "insecure-skip-tls-verify" in log
    assert "always verified" in log
    assert "Traceback" not in log
    assert not leaked(log, token)
