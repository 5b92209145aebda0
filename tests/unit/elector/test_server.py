"""The HTTP server, against clients that are rude, slow, many, or gone."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from elector import _server
from elector._errors import ServeError
from elector._server import Handler, Limits, Reply, Request, Server

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def run(test: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`; no task may be left, and no socket (a ResourceWarning, which is an error)."""

    async def checked() -> None:
        async with asyncio.timeout(30):
            await test
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(checked())
    gc.collect()


async def answer(request: Request) -> Reply:
    return Reply(200, f"{request.method} {request.path} {request.query} {request.client}".encode())


@asynccontextmanager
async def serving(handler: Handler = answer, limits: Limits | None = None) -> AsyncIterator[Server]:
    server = Server(handler, [("127.0.0.1", 0)], limits=limits)
    await server.start()
    try:
        yield server
    finally:
        await server.close(1)
        assert server.connections == 0
        assert not server.tasks


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def reply(self) -> tuple[int, bytes]:
        """Status and body of a reply with Content-Length."""
        head = await self.head()
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return int(head.split()[1]), await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """All until the server closes."""
        async with asyncio.timeout(5):
            return await self.reader.read()

    async def lost(self) -> None:
        """Return when the server has closed, in good order or not."""
        with suppress(ConnectionError):
            assert await self.rest() == b""


async def connect(server: Server, *data: bytes) -> Client:
    client = Client(*await asyncio.open_connection("127.0.0.1", server.ports[0]))
    for part in data:
        await client.send(part)
    return client


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.002)


# --- plain answers


def test_an_answer_has_its_length_and_the_connection_is_kept() -> None:
    async def test() -> None:
        async with serving() as server, await connect(server) as client:
            for number in range(3):
                await client.send(b"GET /a%%20b?n=%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
                assert await client.reply() == (200, f"GET /a%20b n={number} 127.0.0.1".encode())

    run(test())


def test_the_bytes_of_an_answer() -> None:
    async def handler(_: Request) -> Reply:
        return Reply(409, b"{}", "application/json", (("X-Leader", "a"), ("Retry-After", "1")))

    async def test() -> None:
        async with serving(handler) as server, await connect(server, HEAD) as client:
            lines = (await client.head()).decode().split("\r\n")
            assert lines[0] == "HTTP/1.1 409 Conflict"
            assert set(lines[1:-2]) >= {"Content-Type: application/json", "Content-Length: 2", "X-Leader: a"}
            assert any(line.startswith("Date: ") and line.endswith(" GMT") for line in lines)

    run(test())


def test_an_answer_that_has_ceased_to_hold_is_not_sent() -> None:
    held = [True, False, True]

    async def handler(_: Request) -> Reply:
        return Reply(200, b"yes", holds=lambda: held.pop(0))

    async def test() -> None:
        async with serving(handler) as server:
            async with await connect(server, HEAD) as client:
                assert await client.reply() == (200, b"yes")
                await client.send(HEAD)
                await client.lost()
            async with await connect(server, HEAD) as client:
                assert await client.reply() == (200, b"yes")
        assert held == []

    run(test())


def test_head_has_the_headers_of_get_and_no_body() -> None:
    async def test() -> None:
        async with serving() as server, await connect(server, HEAD.replace(b"GET", b"HEAD") + HEAD) as client:
            assert b"Content-Length: 17\r\n" in await client.head()
            assert (await client.reply())[1] == b"GET /  127.0.0.1"

    run(test())


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"http://a.example/b?c=d", "/b c=d"),
        (b"HTTPS://a.example", "/ "),
        (b"http://a.example?c", None),
        (b"*", "/ "),
        (b"//x", "//x "),
        (b"/?a?b", "/ a?b"),
        (b"nonsense", None),
        (b"ftp://x/", None),
    ],
)
def test_every_form_of_a_target(target: bytes, path: str | None) -> None:
    async def test() -> None:
        async with serving() as server, await connect(server, HEAD.replace(b"/ ", target + b" ", 1)) as client:
            status, body = await client.reply()
            if path is None:
                assert (status, body.count(b"\n")) in ((400, 1), (200, 0))
            else:
                assert (status, body) == (200, f"GET {path} 127.0.0.1".encode())

    run(test())


def test_any_method_is_the_handlers_business_but_connect() -> None:
    async def test() -> None:
        async with serving() as server:
            for method in (b"POST", b"DELETE", b"OPTIONS", b"BREW"):
                async with await connect(server, HEAD.replace(b"GET", method)) as client:
                    assert (await client.reply())[1].startswith(method)
            async with await connect(server, b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n") as client:
                assert (await client.rest()).startswith(b"HTTP/1.1 405 ")

    run(test())


def test_an_upgrade_is_left_aside() -> None:
    async def test() -> None:
        upgrade = HEAD.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        async with serving() as server, await connect(server, upgrade, HEAD) as client:
            assert (await client.reply())[0] == 200
            assert (await client.reply())[0] == 200

    run(test())


def test_pipelined_requests_are_answered_in_their_order() -> None:
    async def test() -> None:
        requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(5000))
        async with serving() as server, await connect(server) as client:
            sending = asyncio.create_task(client.send(requests))
            for number in range(5000):
                assert (await client.reply())[1] == f"GET /{number}  127.0.0.1".encode()
            await sending

    run(test())


def test_a_half_closed_client_gets_its_answers() -> None:
    async def test() -> None:
        async with serving() as server, await connect(server, HEAD * 3) as client:
            client.writer.write_eof()
            assert (await client.rest()).count(b"HTTP/1.1 200 OK") == 3

    run(test())


def test_http_1_0_is_closed_after_its_answer() -> None:
    async def test() -> None:
        async with serving() as server, await connect(server, b"GET /x HTTP/1.0\r\n\r\n") as client:
            assert (await client.rest()).endswith(b"\r\n\r\nGET /x  127.0.0.1")

    run(test())


def test_a_handler_that_raises_is_a_500_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request) -> Reply:
        if request.path == "/cancelled":
            raise asyncio.CancelledError
        raise ValueError("the inside")

    async def test() -> None:
        async with serving(handler) as server, await connect(server) as client:
            for path in (b"/", b"/cancelled"):
                await client.send(HEAD.replace(b"/ ", path + b"?secret ", 1))
                assert await client.reply() == (500, b"internal error\n")

    run(test())
    assert [record.message for record in caplog.records] == ["answering GET / failed", "answering GET /cancelled failed"]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b"", headers=(("X", "a\r\nb"),)),
        Reply(99, b""),
        Reply(200, b"", "text/plain\n"),
    ],
)
def test_a_reply_that_is_not_http_is_a_500(caplog: pytest.LogCaptureFixture, reply: Reply) -> None:
    async def handler(_: Request) -> Reply:
        return reply

    async def test() -> None:
        async with serving(handler) as server:
            for _ in range(2):
                async with await connect(server, HEAD) as client:
                    assert (await client.rest()).startswith(b"HTTP/1.1 500 ")

    run(test())
    assert len(caplog.records) == 2


def test_a_reply_without_a_body() -> None:
    async def handler(_: Request) -> Reply:
        return Reply(204, b"")

    async def test() -> None:
        async with serving(handler) as server, await connect(server, HEAD * 2) as client:
            for _ in range(2):
                assert b"ontent-" not in (await client.head()).replace(b"Content-Type", b"")

    run(test())


# --- what is wrong with requests


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\n secret-in-header\r\n\r\n", 400),
        (b"GET /" + b"x" * 20000, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20000, 431),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", 413),
    ],
)
def test_garbage_is_refused_in_one_line(data: bytes, status: int) -> None:
    async def test() -> None:
        async with serving() as server, await connect(server, data) as client:
            head, _, body = (await client.rest()).partition(b"\r\n\r\n")
            assert int(head.split()[1]) == status
            assert b"Connection: close" in head
            assert body.count(b"\n") == (0 if data.startswith(b"HEAD") else 1)
            assert b"secret" not in body

    run(test())


def test_garbage_after_a_good_request_does_not_harm_its_answer() -> None:
    async def test() -> None:
        async with serving() as server, await connect(server, HEAD + b"\x00\x00garbage\r\n\r\n") as client:
            assert (await client.reply())[0] == 200
            assert (await client.rest()).startswith(b"HTTP/1.1 400 ")

    run(test())


@pytest.mark.parametrize("data", [b"", b"GET / HTT", HEAD[:-2], b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"])
def test_slow_requests_are_ended(data: bytes) -> None:
    async def test() -> None:
        limits = Limits(header_time=0.1, body_time=0.1)
        async with serving(limits=limits) as server, await connect(server, data) as client:
            before = time.monotonic()
            reply = await client.rest()
            assert 0.05 <= time.monotonic() - before < 0.5
            assert reply.startswith(b"HTTP/1.1 408 ") if data else reply == b""

    run(test())


def test_headers_that_drip_are_ended_in_the_same_time() -> None:
    async def drip(client: Client) -> None:
        for number in range(1000):
            await client.send(b"X-%d: y\r\n" % number)
            await asyncio.sleep(0.01)

    async def test() -> None:
        async with serving(limits=Limits(header_time=0.15)) as server, await connect(server, HEAD) as client:
            await client.reply()
            before = time.monotonic()
            await client.send(HEAD[:-2])
            dripping = asyncio.create_task(drip(client))
            assert (await client.reply())[0] == 408
            assert 0.1 < time.monotonic() - before < 0.5
            dripping.cancel()
            await asyncio.wait([dripping])

    run(test())


def test_idle_connections_are_ended() -> None:
    async def test() -> None:
        async with serving(limits=Limits(idle_time=0.1)) as server, await connect(server, HEAD) as client:
            await client.reply()
            before = time.monotonic()
            assert await client.rest() == b""
            assert 0.05 < time.monotonic() - before < 0.5

    run(test())


def test_bodies_are_read_and_dropped() -> None:
    async def test() -> None:
        async with serving() as server, await connect(server) as client:
            for framing in (b"Content-Length: 900000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"):
                body = b"x" * 900000
                if b"chunked" in framing:
                    body = b"".join(b"%x\r\n%s\r\n" % (1000, b"y" * 1000) for _ in range(900)) + b"0\r\n\r\n"
                await client.send(b"POST / HTTP/1.1\r\nHost: x\r\n" + framing + body)
                assert (await client.reply())[0] == 200

    run(test())


def test_expect_100_continue_is_granted() -> None:
    async def test() -> None:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
        async with serving() as server, await connect(server, head) as client:
            assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"abc")
            assert (await client.reply())[0] == 200

    run(test())


def test_an_endless_body_costs_no_memory() -> None:
    import tracemalloc

    async def flood(client: Client) -> int:
        sent = 0
        block = b"%x\r\n%s\r\n" % (1 << 18, b"x" * (1 << 18))
        try:
            while sent < 1 << 30:
                await client.send(block)
                sent += len(block)
        except ConnectionError:
            pass
        return sent

    async def test() -> None:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        async with serving(limits=Limits(linger_time=0.1)) as server, await connect(server, head) as client:
            tracemalloc.start()
            flooding = asyncio.create_task(flood(client))
            assert (await client.reply())[0] == 413
            assert await flooding < 1 << 30
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
            tracemalloc.stop()

    run(test())


# --- fresh answers


def test_no_answer_is_computed_while_an_earlier_one_waits_to_be_sent() -> None:
    computed = 0

    async def handler(_: Request) -> Reply:
        nonlocal computed
        computed += 1
        return Reply(200, b"x" * 4_000_000)

    async def test() -> None:
        async with serving(handler) as server, await connect(server, HEAD * 3) as client:
            await until(lambda: computed == 1)
            await asyncio.sleep(0.1)
            assert computed == 1
            await client.reply()
            await client.reply()
            await client.reply()
            assert computed == 3

    run(test())


def test_a_reader_that_hangs_is_dropped() -> None:
    async def handler(_: Request) -> Reply:
        return Reply(200, b"x" * 8_000_000)

    async def test() -> None:
        async with serving(handler, Limits(write_time=0.1)) as server, await connect(server, HEAD):
            await until(lambda: server.connections == 1)
            await until(lambda: server.connections == 0)

    run(test())


# --- streams and held-back answers


class Stream:
    """A stream fed by the test; it knows whether it was closed."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.closed = 0
        self.taken = 0

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        piece = await self.queue.get()
        if piece is None:
            raise StopAsyncIteration
        if piece == b"raise":
            raise ValueError("inside the stream")
        self.taken += 1
        return piece

    async def aclose(self) -> None:
        self.closed += 1

    async def handler(self, _: Request) -> Reply:
        return Reply(200, self, "text/event-stream")


def test_a_stream_is_sent_in_chunks_as_it_comes() -> None:
    async def test() -> None:
        stream = Stream()
        async with serving(stream.handler) as server, await connect(server, HEAD) as client:
            assert b"Transfer-Encoding: chunked" in await client.head()
            for piece in (b"one", b"", b"second"):
                stream.queue.put_nowait(piece)
                if piece:
                    assert await client.reader.readexactly(5 + len(piece)) == b"%x\r\n%s\r\n" % (len(piece), piece)
            stream.queue.put_nowait(None)
            assert await client.reader.readexactly(5) == b"0\r\n\r\n"
            assert stream.closed == 1
            await client.send(HEAD)  # the connection goes on
            await client.head()

    run(test())


def test_a_stream_for_http_1_0_ends_with_the_connection() -> None:
    async def test() -> None:
        stream = Stream()
        for piece in (b"a", b"b", None):
            stream.queue.put_nowait(piece)
        async with serving(stream.handler) as server, await connect(server, b"GET / HTTP/1.0\r\n\r\n") as client:
            head, _, body = (await client.rest()).partition(b"\r\n\r\n")
            assert b"chunked" not in head
            assert body == b"ab"

    run(test())


def test_head_of_a_stream_closes_it() -> None:
    async def test() -> None:
        stream = Stream()
        async with serving(stream.handler) as server, await connect(server, HEAD.replace(b"GET", b"HEAD")) as client:
            await client.head()
            await until(lambda: stream.closed == 1)

    run(test())


@pytest.mark.parametrize("abrupt", [True, False])
def test_a_reader_that_vanishes_ends_its_stream(abrupt: bool) -> None:
    async def test() -> None:
        stream = Stream()
        async with serving(stream.handler) as server, await connect(server, HEAD) as client:
            await client.head()
            if abrupt:
                client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.writer.transport.abort()
            else:
                client.writer.close()
            await until(lambda: stream.closed == 1)
            await until(lambda: server.connections == 0)

    run(test())


def test_a_reader_of_a_stream_that_hangs_is_dropped() -> None:
    async def test() -> None:
        stream = Stream()
        async with serving(stream.handler, Limits(write_time=0.1)) as server, await connect(server, HEAD) as client:
            await client.head()
            for _ in range(1000):
                stream.queue.put_nowait(b"x" * 65536)
            await until(lambda: stream.closed == 1)
            assert stream.taken < 200  # held back by the reader, not queued for it
            await until(lambda: server.connections == 0)

    run(test())


def test_a_stream_that_raises_is_cut_off_visibly(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        stream = Stream()
        stream.queue.put_nowait(b"raise")
        async with serving(stream.handler) as server, await connect(server, HEAD) as client:
            await client.head()
            await client.lost()
            assert stream.closed == 1

    run(test())
    assert [record.message for record in caplog.records] == ["the reply to GET / broke off"]


def test_a_generator_is_closed_too() -> None:
    ended = []

    async def pieces() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def handler(_: Request) -> Reply:
        return Reply(200, pieces())

    async def test() -> None:
        async with serving(handler) as server:
            async with await connect(server, HEAD) as client:
                await client.head()
            await until(lambda: bool(ended))

    run(test())


def test_the_clients_eof_cancels_a_held_back_answer() -> None:
    cancelled = []

    async def handler(_: Request) -> Reply:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return Reply(200, b"")

    async def test() -> None:
        async with serving(handler) as server:
            client = await connect(server, HEAD)
            await until(lambda: bool(server.tasks))
            client.writer.close()
            await until(lambda: bool(cancelled))
            await until(lambda: not server.tasks)

    run(test())


def test_an_eof_that_came_with_the_request_cancels_what_is_held_back_but_no_quick_answer() -> None:
    async def handler(request: Request) -> Reply:
        if request.path == "/wait":
            await asyncio.sleep(60)
        return Reply(200, b"")

    async def test() -> None:
        requests = HEAD + HEAD + HEAD.replace(b"/ ", b"/wait ", 1) + HEAD
        async with serving(handler) as server, await connect(server, requests) as client:
            client.writer.write_eof()
            await client.reply()
            await client.reply()
            await client.lost()
            await until(lambda: not server.tasks)

    run(test())


def test_large_bodies_behind_each_other_do_not_stall() -> None:
    async def handler(_: Request) -> Reply:
        await asyncio.sleep(0.002)  # so that what follows piles up
        return Reply(200, b"")

    async def test() -> None:
        async with serving(handler) as server, await connect(server) as client:
            for size in (1, 15_000, 16_384, 17_000, 100_000):
                one = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
                sending = asyncio.create_task(client.send(one * 10))
                async with asyncio.timeout(3):
                    for _ in range(10):
                        assert (await client.reply())[0] == 200
                await sending

    run(test())


def test_a_handler_that_refuses_to_be_cancelled_leaks_nothing() -> None:
    async def handler(_: Request) -> Reply:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return Reply(200, b"x" * 1_000_000)

    async def test() -> None:
        async with serving(handler) as server:
            client = await connect(server, HEAD * 2)
            await until(lambda: bool(server.tasks))
            client.writer.transport.abort()
            await until(lambda: not server.tasks)
            assert server.connections == 0

    run(test())


# --- many


def test_what_is_over_the_limit_is_told_so_at_once() -> None:
    async def test() -> None:
        async with serving() as server:
            clients = await asyncio.gather(*(connect(server) for _ in range(300)))
            await until(lambda: server.connections == 300)
            refused = [await client.rest() for client in clients[256:]]
            assert all(reply.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1\r\n" in reply for reply in refused)
            for client in clients[:256]:
                await client.send(HEAD)
            assert [(await client.reply())[0] for client in clients[:256]] == [200] * 256
            for client in clients:
                client.writer.transport.abort()
            await until(lambda: server.connections == 0)
            async with await connect(server, HEAD) as client:
                assert (await client.reply())[0] == 200

    run(test())


def test_a_thousand_at_once_neither_stop_the_loop_nor_stay() -> None:
    async def one(server: Server) -> int:
        async with await connect(server, HEAD) as client:
            return (await client.reply())[0]

    async def test() -> None:
        async with serving() as server:
            for _ in range(2):
                statuses = await asyncio.gather(*(one(server) for _ in range(450)))
                assert set(statuses) <= {200, 503}
                assert statuses.count(200) >= 256
            await until(lambda: server.connections == 0)

    run(test())


# --- opening and closing


def test_a_taken_port_is_named_and_nothing_stays_open() -> None:
    async def test() -> None:
        async with serving() as server:
            port = server.ports[0]
            for host in ("127.0.0.1", "", "0.0.0.0"):
                with pytest.raises(ServeError, match=rf"cannot listen on {host}:{port}: the port is taken"):
                    await Server(answer, [("127.0.0.1", 0), (host, port)]).start()

    run(test())


@pytest.mark.parametrize(
    ("host", "why"), [("192.0.2.1", "192.0.2.1:0: "), ("no such host.invalid", "no such host.invalid:0: "), ("ff02::1", "")]
)
def test_an_address_that_is_not_ours_is_named(host: str, why: str) -> None:
    async def test() -> None:
        with pytest.raises(ServeError, match=f"cannot listen on {why}"):
            await Server(answer, [(host, 0)]).start()

    run(test())


def test_a_machine_without_ipv6_has_localhost_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    real = _server._bind_one

    def no_ipv6(family: socket.AddressFamily, *rest: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return real(family, *rest)

    async def test() -> None:
        monkeypatch.setattr(_server, "_bind_one", no_ipv6)
        for addresses in ([("127.0.0.1", 0), ("::1", 0)], [("", 0)]):
            server = Server(answer, addresses)
            await server.start()
            async with await connect(server, HEAD) as client:
                assert (await client.reply())[0] == 200
            await server.close(1)
        with pytest.raises(ServeError, match=r"cannot listen on \[::1\]:0: Cannot assign"):
            await Server(answer, [("::1", 0)]).start()

    run(test())


def test_all_interfaces_means_both_families_and_addresses_are_plain() -> None:
    async def test() -> None:
        server = Server(answer, [("", 0)])
        await server.start()
        try:
            async with await connect(server, HEAD) as client:
                assert (await client.reply())[1] == b"GET /  127.0.0.1"
            if socket.has_ipv6:
                client = Client(*await asyncio.open_connection("::1", server.ports[0]))
                async with client:
                    await client.send(HEAD)
                    assert (await client.reply())[1] == b"GET /  ::1"
        finally:
            await server.close(1)

    run(test())


def test_closing_ends_idle_ones_and_streams_at_once_and_lets_answers_finish() -> None:
    stream = Stream()
    go = asyncio.Event()

    async def handler(request: Request) -> Reply:
        if request.path == "/stream":
            return Reply(200, stream)
        if request.path == "/slow":
            await go.wait()
        return Reply(200, b"done")

    async def test() -> None:
        server = Server(handler, [("127.0.0.1", 0)])
        await server.start()
        port = server.ports[0]
        idle = await connect(server, HEAD)
        streaming = await connect(server, HEAD.replace(b"/ ", b"/stream ", 1))
        slow = await connect(server, HEAD.replace(b"/ ", b"/slow ", 1))
        await idle.reply()
        await streaming.head()
        await until(lambda: len(server.tasks) == 2)
        closing = asyncio.create_task(server.close(5))
        assert await idle.rest() == b""
        assert await streaming.rest() == b"0\r\n\r\n"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        assert not closing.done()
        go.set()
        assert b"Connection: close" in await slow.head()
        assert await slow.rest() == b"done"
        for client in (idle, streaming, slow):
            client.writer.close()
        await closing
        assert stream.closed == 1
        await server.close(0)

    run(test())


def test_closing_cuts_off_what_does_not_end_within_the_grace() -> None:
    async def handler(_: Request) -> Reply:
        await asyncio.sleep(60)
        return Reply(200, b"")

    async def test() -> None:
        server = Server(handler, [("127.0.0.1", 0)])
        await server.start()
        async with await connect(server, HEAD) as client:
            await until(lambda: bool(server.tasks))
            before = time.monotonic()
            await server.close(0.1)
            assert time.monotonic() - before < 0.5
            assert not server.tasks
            await client.lost()

    run(test())
