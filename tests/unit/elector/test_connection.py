"""The connection to the API server, against servers on loopback that do what servers do to clients."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from elector import _connection
from elector._connection import KubeTransport
from elector._credentials import ClusterCredentials
from elector._errors import CredentialsError, NotSent, OutcomeUnknown, WatchRefused
from tests.unit.elector.pki import Authority, Pair

AUTHORITY = Authority()
GOOD = AUTHORITY.sign("127.0.0.1", "localhost")
SECRET = "secret-token-value"
Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """The server's end of one connection."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        """Head and body of the next request; b"" when the client has gone."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return head + await self.reader.readexactly(int(line[15:]))
        return head

    async def reply(self, body: bytes = b"{}", status: str = "200 OK", headers: str = "") -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self.writer.write(head.encode() + body)
        await self.writer.drain()

    async def gone(self) -> None:
        """Return when the client has closed."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


class ApiServer:
    """Runs `script` on every connection."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._tls = tls
        self.connections = 0
        self.open = 0
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> ApiServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        peer = Peer(self.connections, reader, writer)
        try:
            await self._script(peer)
        except asyncio.CancelledError:
            pass
        finally:
            self.open -= 1
            self._ended.set()
            self._tasks.discard(task)
            writer.transport.abort()

    async def settled(self, number: int = 0) -> None:
        """Return when no more than `number` connections of this server are left."""
        async with asyncio.timeout(2):
            while self.open > number:
                self._ended.clear()
                await self._ended.wait()

    def transport(self, **changes: Any) -> KubeTransport:
        settings: dict[str, Any] = {"scheme": "http", "host": "127.0.0.1", "port": self.port, "token": SECRET.encode()}
        if self._tls is not None:
            settings |= {"scheme": "https", "ca": AUTHORITY.certificate}
        return KubeTransport(ClusterCredentials(**settings | changes), version="1.2.3")


def server_context(pair: Pair, folder: Path) -> ssl.SSLContext:
    (folder / "pair.pem").write_bytes(pair.certificate + pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pair.pem")
    return context


@contextlib.asynccontextmanager
async def talking(
    script: Script, tls: ssl.SSLContext | None = None, **changes: Any
) -> AsyncIterator[tuple[ApiServer, KubeTransport]]:
    async with ApiServer(script, tls) as server:
        transport = server.transport(**changes)
        try:
            yield server, transport
        finally:
            await transport.close()
            await server.settled()


def run(test: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`, and nothing may be left: no task, and no socket (a ResourceWarning, which is an error)."""

    async def checked() -> None:
        async with asyncio.timeout(20):
            await test
        for _ in range(5):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(checked())
    gc.collect()


async def echo(peer: Peer) -> None:
    while request := await peer.request():
        await peer.reply(request)


def test_requests_share_a_connection_and_carry_the_headers() -> None:
    async def test() -> None:
        async with talking(echo) as (server, transport):
            first = await transport.request("GET", "/a?b=c", timeout=2)
            second = await transport.request("PUT", "/d", b'{"x":1}', timeout=2)
            assert server.connections == 1
            assert first.status == 200
            lines = first.body.decode().split("\r\n")
            assert lines[0] == "GET /a?b=c HTTP/1.1"
            assert set(lines[1:-2]) == {
                f"Host: 127.0.0.1:{server.port}",
                "User-Agent: leader-election/1.2.3",
                "Accept: application/json",
                f"Authorization: Bearer {SECRET}",
            }
            assert b"Content-Type: application/json\r\n" in second.body
            assert second.body.endswith(b'\r\n\r\n{"x":1}')

    run(test())


def test_a_reply_of_any_status_is_a_reply_with_lower_case_joined_headers() -> None:
    async def conflict(peer: Peer) -> None:
        await peer.request()
        await peer.reply(b"no", "409 Conflict", "Warning: a\r\nWarning: b\r\nX-Y: z\r\n")
        await peer.gone()

    async def test() -> None:
        async with talking(conflict) as (_, transport):
            response = await transport.request("PUT", "/", b"{}", timeout=2)
            assert (response.status, response.body) == (409, b"no")
            assert response.headers["warning"] == "a, b"
            assert response.headers["x-y"] == "z"

    run(test())


def test_chunked_replies_and_interim_ones() -> None:
    async def chunked(peer: Peer) -> None:
        await peer.request()
        peer.writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        peer.writer.write(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        await peer.gone()

    async def test() -> None:
        async with talking(chunked) as (_, transport):
            assert (await transport.request("GET", "/", timeout=2)).body == b"abcde"

    run(test())


def test_a_path_in_the_servers_address_goes_before_every_path() -> None:
    async def test() -> None:
        async with talking(echo, prefix="/k8s/c-1") as (_, transport):
            assert (await transport.request("GET", "/api", timeout=2)).body.startswith(b"GET /k8s/c-1/api HTTP/1.1\r\n")

    run(test())


def test_requests_at_once_have_a_connection_each_and_one_is_kept() -> None:
    async def test() -> None:
        async with talking(echo) as (server, transport):
            await asyncio.gather(*(transport.request("GET", f"/{n}", timeout=2) for n in range(3)))
            assert server.connections == 3
            await transport.request("GET", "/", timeout=2)
            assert server.connections == 3

    run(test())


# --- what may have been sent, and what certainly was not


def test_nobody_listening_is_not_sent() -> None:
    async def test() -> None:
        async with ApiServer(echo) as server:
            transport = server.transport()
        with pytest.raises(NotSent, match="Connect call failed"):
            await transport.request("PUT", "/", b"{}", timeout=2)
        await transport.close()

    run(test())


def test_no_token_is_not_sent_and_nothing_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_token(_: ClusterCredentials) -> str | None:
        raise CredentialsError("the service account's token: gone")

    async def test() -> None:
        async with talking(echo) as (server, transport):
            monkeypatch.setattr(ClusterCredentials, "token", no_token)
            with pytest.raises(NotSent, match="gone"):
                await transport.request("PUT", "/", b"{}", timeout=2)
            await server.settled()

    run(test())


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_connection_lost_after_sending_leaves_the_outcome_unknown(method: str, reply: bytes) -> None:
    async def cut(peer: Peer) -> None:
        await peer.request()
        peer.writer.write(reply)
        await peer.writer.drain()

    async def test() -> None:
        async with talking(cut) as (server, transport):
            with pytest.raises(OutcomeUnknown):
                await transport.request(method, "/", b"{}" if method == "PUT" else None, timeout=2)
            assert server.connections == 1  # a fresh connection's GET is not tried again either

    run(test())


@pytest.mark.parametrize(
    "reply",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01 tls",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 200_000,
    ],
)
def test_what_is_no_http_leaves_the_outcome_unknown_and_is_not_quoted(reply: bytes) -> None:
    async def babble(peer: Peer) -> None:
        await peer.request()
        peer.writer.write(reply)
        await peer.gone()

    async def test() -> None:
        async with talking(babble) as (_, transport):
            with pytest.raises(OutcomeUnknown, match="not a valid HTTP reply: ") as caught:
                await transport.request("PUT", "/", b"{}", timeout=2)
            assert "garbage" not in str(caught.value)
            assert "yyy" not in str(caught.value)

    run(test())


@pytest.mark.parametrize("declared", [True, False])
def test_an_endless_reply_is_cut(declared: bool) -> None:
    async def endless(peer: Peer) -> None:
        await peer.request()
        length = b"Content-Length: 99999999999\r\n" if declared else b""
        peer.writer.write(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        with contextlib.suppress(ConnectionError):
            while not peer.writer.transport.is_closing():
                peer.writer.write(b"x" * 65536)
                await peer.writer.drain()

    async def test() -> None:
        async with talking(endless) as (_, transport):
            with pytest.raises(OutcomeUnknown, match="larger than 4194304"):
                await transport.request("GET", "/", timeout=5)

    run(test())


def test_a_timeout_after_sending_leaves_the_outcome_unknown_and_the_next_request_is_fresh() -> None:
    async def stall_first(peer: Peer) -> None:
        while request := await peer.request():
            if b"/stall" in request:
                await peer.gone()
                return
            await peer.reply()

    async def test() -> None:
        async with talking(stall_first) as (server, transport):
            await transport.request("GET", "/", timeout=2)
            before = time.monotonic()
            with pytest.raises(OutcomeUnknown, match=r"no reply within 0\.1 s"):
                await transport.request("PUT", "/stall", b"{}", timeout=0.1)
            assert 0.1 <= time.monotonic() - before < 0.5
            await transport.request("GET", "/", timeout=2)
            assert server.connections == 2

    run(test())


def test_a_timeout_while_connecting_is_not_sent() -> None:
    """TLS that never answers: connected, and not one byte of the request can have gone out."""

    async def silent(peer: Peer) -> None:
        await peer.gone()

    async def test() -> None:
        async with talking(silent, scheme="https", ca=AUTHORITY.certificate) as (_, transport):
            with pytest.raises(NotSent, match=r"no connection within 0\.1 s"):
                await transport.request("PUT", "/", b"{}", timeout=0.1)

    run(test())


def test_a_cancelled_request_closes_its_connection() -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        received.set()
        await peer.gone()

    received = asyncio.Event()

    async def test() -> None:
        async with talking(silent) as (server, transport):
            task = asyncio.create_task(transport.request("PUT", "/", b"{}", timeout=20))
            await received.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.settled()

    run(test())


def test_a_kept_connection_that_the_server_closed_is_not_used() -> None:
    async def one_each(peer: Peer) -> None:
        await peer.request()
        await peer.reply()

    async def test() -> None:
        async with talking(one_each) as (server, transport):
            for number in range(1, 4):
                await transport.request("PUT", "/", b"{}", timeout=2)
                await server.settled()
                assert server.connections == number

    run(test())


def test_an_eof_that_the_loop_has_not_seen_yet_is_seen_before_sending() -> None:
    """The server closes while our process is busy (or frozen): the request must not go to the dead connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for _ in range(2):
            connection = listener.accept()[0]
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=serve)
    thread.start()

    async def test() -> None:
        credentials = ClusterCredentials(scheme="http", host="127.0.0.1", port=listener.getsockname()[1])
        transport = KubeTransport(credentials)
        await transport.request("PUT", "/", b"{}", timeout=2)
        time.sleep(0.05)  # noqa: ASYNC251 - the loop must not run here: that is what is tested
        assert (await transport.request("PUT", "/", b"{}", timeout=2)).status == 200
        await transport.close()

    with listener:
        run(test())
        thread.join()


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_only_a_get_is_sent_again_when_a_kept_connection_dies_under_it(method: str) -> None:
    async def dies_at_second(peer: Peer) -> None:
        await peer.request()
        await peer.reply()
        received.append(await peer.request())
        if peer.number > 1:
            await peer.reply()

    received: list[bytes] = []

    async def test() -> None:
        async with talking(dies_at_second) as (server, transport):
            await transport.request("GET", "/", timeout=2)
            if method == "GET":
                assert (await transport.request("GET", "/", timeout=2)).status == 200
                assert server.connections == 2
            else:
                with pytest.raises(OutcomeUnknown, match="without a reply"):
                    await transport.request(method, "/", b"{}", timeout=2)
                assert server.connections == 1
                assert len(received) == 1

    run(test())


def test_a_connection_that_the_server_wants_closed_is_not_kept() -> None:
    async def closing(peer: Peer) -> None:
        await peer.request()
        await peer.reply(headers="Connection: close\r\n")
        await peer.gone()

    async def test() -> None:
        async with talking(closing) as (server, transport):
            await transport.request("GET", "/", timeout=2)
            await server.settled()
            await transport.request("GET", "/", timeout=2)
            assert server.connections == 2

    run(test())


def test_close_ends_everything_under_way_and_is_final() -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        received.set()
        await peer.gone()

    received = asyncio.Event()

    async def test() -> None:
        async with talking(silent) as (_, transport):
            task = asyncio.create_task(transport.request("PUT", "/", b"{}", timeout=20))
            await received.wait()
            await transport.close()
            await transport.close()
            with pytest.raises(OutcomeUnknown):
                await task
            with pytest.raises(NotSent, match="closed for good"):
                await transport.request("GET", "/", timeout=2)

    run(test())


def test_the_idle_connection_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with talking(echo) as (server, transport):
            await transport.request("GET", "/", timeout=2)
            await server.settled()
            await transport.request("GET", "/", timeout=2)

    monkeypatch.setattr(_connection, "_IDLE", 0.05)
    run(test())


# --- TLS


def test_tls_verified_by_the_clusters_ca(tmp_path: Path) -> None:
    async def test() -> None:
        async with talking(echo, server_context(GOOD, tmp_path)) as (server, transport):
            for _ in range(3):
                assert (await transport.request("PUT", "/", b"{}", timeout=2)).status == 200
            assert server.connections == 1

    run(test())


@pytest.mark.parametrize(
    ("pair", "changes", "why"),
    [
        (GOOD, {"ca": Authority().certificate}, "(unable to get local issuer|certificate signature failure|self.signed)"),
        (AUTHORITY.sign("127.0.0.1", days=-1), {}, "certificate has expired"),
        (AUTHORITY.sign("10.0.0.9"), {}, "IP address mismatch"),
        (GOOD, {"server_name": "api.example"}, "Hostname mismatch"),
        (Authority().sign("127.0.0.1"), {}, "certificate"),
    ],
)
def test_tls_that_does_not_verify_is_not_sent_and_says_why(tmp_path: Path, pair: Pair, changes: dict[str, Any], why: str) -> None:
    async def test() -> None:
        async with talking(echo, server_context(pair, tmp_path), **changes) as (server, transport):
            with pytest.raises(NotSent, match=f"certificate is refused: .*{why}"):
                await transport.request("PUT", "/", b"{}", timeout=2)
            assert server.connections == 0

    run(test())


def test_a_server_without_tls_is_not_sent() -> None:
    async def plain(peer: Peer) -> None:
        peer.writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.gone()

    async def test() -> None:
        async with talking(plain, scheme="https", ca=AUTHORITY.certificate) as (_, transport):
            with pytest.raises(NotSent, match="TLS failed: "):
                await transport.request("PUT", "/", b"{}", timeout=2)

    run(test())


def test_tls_closed_while_idle_opens_a_new_connection(tmp_path: Path) -> None:
    async def one_each(peer: Peer) -> None:
        await peer.request()
        await peer.reply()

    async def test() -> None:
        async with talking(one_each, server_context(GOOD, tmp_path)) as (server, transport):
            for number in range(1, 4):
                await transport.request("PUT", "/", b"{}", timeout=2)
                await server.settled()
                assert server.connections == number

    run(test())


def test_host_names_are_resolved_and_unknown_ones_are_not_sent() -> None:
    async def test() -> None:
        async with talking(echo, host="localhost") as (_, transport):
            assert (await transport.request("GET", "/", timeout=2)).status == 200
        async with talking(echo, host="no such host") as (_, transport):
            with pytest.raises(NotSent):
                await transport.request("PUT", "/", b"{}", timeout=5)

    run(test())


def test_a_stalled_name_server_costs_no_more_than_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    calls = []

    def stall(host: str, *_: object, **__: object) -> list[Any]:
        calls.append(host)
        release.wait(5)
        raise OSError("too late")

    async def test() -> None:
        async with talking(echo, host="name.example") as (_, transport):
            monkeypatch.setattr("socket.getaddrinfo", stall)
            for _ in range(3):
                with pytest.raises(NotSent, match=r"no connection within 0\.05 s"):
                    await transport.request("PUT", "/", b"{}", timeout=0.05)
            assert calls == ["name.example"]  # one look-up, however many wait for it
            release.set()
            with pytest.raises(NotSent, match="too late"):
                await transport.request("PUT", "/", b"{}", timeout=2)

    run(test())


def test_an_address_that_does_not_answer_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    real = asyncio.open_connection

    async def open_connection(host: str, *args: Any, **options: Any) -> Any:
        if host == "192.0.2.1":
            await asyncio.sleep(10)
        return await real(host, *args, **options)

    async def test() -> None:
        async with talking(echo, host="name.example") as (_, transport):
            monkeypatch.setattr("asyncio.open_connection", open_connection)
            entries = [(0, 0, 0, "", (address, 0)) for address in ("192.0.2.1", "127.0.0.1")]
            monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: entries)
            assert (await transport.request("GET", "/", timeout=0.3)).status == 200

    run(test())


# --- watching


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


WATCH_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_watch_yields_lines_as_they_come_however_they_are_cut() -> None:
    async def events(peer: Peer) -> None:
        await peer.request()
        peer.writer.write(WATCH_HEAD + chunk(b'{"a":1}\n{"b"'))
        for part in (b":2}", b"\n\n", b'{"c":3}\n{"d":4}\n'):
            await go.acquire()
            peer.writer.write(chunk(part))
        await go.acquire()
        peer.writer.write(b"0\r\n\r\n")
        await peer.gone()

    go = asyncio.Semaphore(0)

    async def test() -> None:
        async with talking(events) as (server, transport):
            lines = transport.watch("/w", timeout=2)
            assert await anext(lines) == b'{"a":1}'
            go.release()
            go.release()
            assert await anext(lines) == b'{"b":2}'
            go.release()
            assert await anext(lines) == b'{"c":3}'
            assert await anext(lines) == b'{"d":4}'
            go.release()
            with pytest.raises(StopAsyncIteration):
                await anext(lines)
            await server.settled()

    run(test())


def test_a_watch_has_a_connection_of_its_own_and_closing_it_closes_that() -> None:
    async def either(peer: Peer) -> None:
        while request := await peer.request():
            if request.startswith(b"GET /w"):
                peer.writer.write(WATCH_HEAD + chunk(b"{}\n"))
            else:
                await peer.reply()

    async def test() -> None:
        async with talking(either) as (server, transport):
            await transport.request("GET", "/", timeout=2)
            lines = transport.watch("/w", timeout=2)
            assert await anext(lines) == b"{}"
            await transport.request("GET", "/", timeout=2)
            assert server.connections == 2
            assert server.open == 2
            await lines.aclose()
            await server.settled(1)

    run(test())


def test_a_refused_watch_has_its_status() -> None:
    async def forbidden(peer: Peer) -> None:
        await peer.request()
        await peer.reply(b'{"message":"no"}', "403 Forbidden")
        await peer.gone()

    async def test() -> None:
        async with talking(forbidden) as (_, transport):
            with pytest.raises(WatchRefused, match="HTTP 403") as caught:
                await anext(transport.watch("/w", timeout=2))
            assert caught.value.status == 403

    run(test())


def test_a_watch_without_headers_in_time_is_unknown_and_one_without_a_server_not_sent() -> None:
    async def silent(peer: Peer) -> None:
        await peer.gone()

    async def test() -> None:
        async with talking(silent) as (server, transport):
            with pytest.raises(OutcomeUnknown, match=r"no reply within 0\.1 s"):
                await anext(transport.watch("/w", timeout=0.1))
            await server.settled()
        with pytest.raises(NotSent):
            await anext(server.transport().watch("/w", timeout=1))

    run(test())


def test_the_timeout_of_a_watch_does_not_bound_its_events() -> None:
    async def late(peer: Peer) -> None:
        await peer.request()
        peer.writer.write(WATCH_HEAD)
        await asyncio.sleep(0.15)
        peer.writer.write(chunk(b"{}\n"))
        await peer.gone()

    async def test() -> None:
        async with talking(late) as (_, transport):
            lines = transport.watch("/w", timeout=0.05)
            assert await anext(lines) == b"{}"
            await lines.aclose()

    run(test())


@pytest.mark.parametrize("ending", [b"", b"zz\r\n", chunk(b"x" * (5 << 20))])
def test_a_watch_that_breaks_raises(ending: bytes) -> None:
    async def breaks(peer: Peer) -> None:
        await peer.request()
        peer.writer.write(WATCH_HEAD + chunk(b"{}\n") + ending)
        with contextlib.suppress(ConnectionError):
            await peer.writer.drain()

    async def test() -> None:
        async with talking(breaks) as (_, transport):
            lines = transport.watch("/w", timeout=2)
            assert await anext(lines) == b"{}"
            with pytest.raises(OutcomeUnknown):
                await anext(lines)

    run(test())


def test_close_ends_a_watch_and_cancelling_its_reader_closes_it() -> None:
    async def quiet(peer: Peer) -> None:
        await peer.request()
        peer.writer.write(WATCH_HEAD + chunk(b"{}\n"))
        await peer.gone()

    async def consume(lines: AsyncIterator[bytes]) -> None:
        async for _ in lines:
            started.set()

    started = asyncio.Event()

    async def test() -> None:
        async with talking(quiet) as (server, transport):
            task = asyncio.create_task(consume(transport.watch("/w", timeout=2)))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.settled()
            started.clear()
            task = asyncio.create_task(consume(transport.watch("/w", timeout=2)))
            await started.wait()
            await transport.close()
            with pytest.raises(OutcomeUnknown):
                await task

    run(test())
