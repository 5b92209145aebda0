"""One client of the HTTP server: HTTP/1.1 (RFC 9112) by h11, over an asyncio transport.

Two promises beyond HTTP. An answer, which may expire by itself, is never computed early and sent late: the handler is
called only when all earlier output of the connection has left for the kernel, nothing awaits between its return and the
write, and right before that the answer is asked whether it still holds. And no client costs more than its share: headers,
bodies, unread output and every wait have a limit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Protocol

import h11

from elector._http import REASONS, Handler, Limits, Reply, Request, date, plain_address, split_target

__all__ = ["Connection", "Owner"]

_log = logging.getLogger(__name__)

_NO_BODY = (204, 304)
_ACLOSE_TIME = 1.0  # seconds that a stream's own clean-up may take
_FAILED = Reply(500, b"internal error\n", "text/plain; charset=utf-8")


class Owner(Protocol):
    """What a connection needs of its server."""

    handler: Handler
    limits: Limits
    closing: bool
    tasks: set[asyncio.Task[None]]
    buffer: memoryview
    """What connections receive into, one at a time; each takes its data out at once."""

    def admit(self, connection: Connection) -> bool:
        """Whether it may ask anything; counts it if so."""
        ...

    def linger(self, connection: Connection) -> bool:
        """It asks nothing any more. Whether it may wait for its client to close, too."""
        ...

    def forget(self, connection: Connection) -> None:
        """It is gone."""
        ...


class Connection(asyncio.BufferedProtocol):
    """One client. Data is parsed as it comes; a task exists only while requests are being answered."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._limits = owner.limits
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=owner.limits.header_size)
        self._request: h11.Request | None = None  # the one whose headers have come and which is not answered yet
        self._body_seen = 0
        self._idle = False  # between two requests
        self._eof = False
        self._ending = False  # nothing is read any more, and what still comes is dropped
        self._paused = False  # reading is paused, since more requests wait than we hold
        self._task: asyncio.Task[None] | None = None
        self._answering = False  # in the handler or its stream: what the client's EOF cancels
        self._streaming = False
        self._drained: asyncio.Future[None] | None = None  # exists while output waits in the transport
        self._deadline = 0.0  # of the loop's clock; 0: none
        self._timer: asyncio.TimerHandle | None = None

    # --- called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # With 0, pause_writing comes when anything is left unsent, resume_writing when nothing is.
        transport.set_write_buffer_limits(high=0)
        peer = transport.get_extra_info("peername")
        self._client = plain_address(peer[0]) if peer else ""
        if self._owner.closing:
            transport.abort()
        elif self._owner.admit(self):
            self._allow(self._limits.header_time)
        else:
            self._refuse(503, "too many connections at a time", "Retry-After: 1\r\n")

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._owner.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._ending:
            return
        self._http.receive_data(bytes(self._owner.buffer[:nbytes]))
        if self._task is None:
            if self._idle:
                self._idle = False
                self._allow(self._limits.header_time)
            if self._parse():
                self._start()
        elif self._crowded():
            # Somebody sends a lot of requests ahead: let the kernel make him wait.
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._eof = True
        if self._ending:
            return False
        self._http.receive_data(b"")
        if self._task is None:
            if self._parse():
                self._start()
        else:
            self._abandon()
        return True  # only half closed: what was asked before is still answered

    def _abandon(self) -> None:
        """After the client's EOF: nobody waits for an answer that takes longer than a moment; quick ones are out."""
        if self._answering and self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._ending = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
        self.resume_writing()  # a handler that does not let itself be cancelled ends all the same
        self._owner.forget(self)

    # --- called by the server when it closes

    def shut_down(self) -> None:
        """End at once when idle, in good order when streaming, else after the present answer."""
        if self._task is None:
            self._transport.close()
        elif self._streaming:
            self._task.cancel()

    def drop(self) -> None:
        """End at once, whatever is under way."""
        self._transport.abort()

    # --- time

    def _allow(self, seconds: float | None) -> None:
        """Give what comes next so many seconds from now; None: no limit.

        A timer that would come too early is left as it is, and looks again then: deadlines move with every request.
        """
        if seconds is None:
            self._deadline = 0.0
            return
        self._deadline = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self._deadline:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._on_timer)
        elif self._ending or self._drained is not None:
            self._transport.abort()
        elif self._request is not None or self._http.trailing_data[0]:
            self._refuse(408, "the request took too long to arrive")
        else:
            self._transport.close()

    # --- reading

    def _parse(self) -> bool:
        """Read on; whether a whole request is there to be answered."""
        try:
            while not self._ending:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    self._begin(event)
                elif isinstance(event, h11.Data):
                    self._body_seen += len(event.data)
                    if self._body_seen > self._limits.body_size:
                        self._refuse(413, f"the body is larger than {self._limits.body_size} bytes")
                elif isinstance(event, h11.EndOfMessage):
                    self._allow(None)
                    return True
                elif event is h11.NEED_DATA:
                    return False
                else:  # the client has closed
                    self._end()
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == 431:
                self._refuse(431, f"request line and headers are larger than {self._limits.header_size} bytes")
            else:
                # Up to the colon: what follows quotes what we were sent.
                status = 501 if error.error_status_hint == 501 else 400
                self._refuse(status, f"not a valid HTTP/1.1 request: {str(error).partition(':')[0]}")
        return False

    def _begin(self, request: h11.Request) -> None:
        """The headers are there, the body may follow."""
        self._request = request
        self._body_seen = 0
        self._allow(self._limits.body_time)
        length = next((int(value) for name, value in request.headers if name == b"content-length"), 0)
        if not request.http_version.startswith(b"1."):
            self._refuse(505, "HTTP/1.1 is spoken here")
        elif request.method == b"CONNECT":
            self._refuse(405, "this is not a proxy", "Allow: GET, HEAD, POST\r\n")
        elif length > self._limits.body_size:
            self._refuse(413, f"the body is larger than {self._limits.body_size} bytes")
        elif split_target(request.target) is None:
            self._refuse(400, "the request's target must be a path or an http:// address")
        elif self._http.they_are_waiting_for_100_continue:
            self._write(self._http.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")))

    # --- answering

    def _start(self) -> None:
        self._task = self._loop.create_task(self._answer_all())
        self._owner.tasks.add(self._task)
        self._task.add_done_callback(self._owner.tasks.discard)

    async def _answer_all(self) -> None:
        """Answer the request that is there, and those that were sent behind it meanwhile."""
        try:
            await self._flush()  # of a 100 Continue
            while True:
                await self._answer()
                await self._flush()
                if not self._next():
                    return
                # The loop's other work has its turn: 256 clients that send many requests ahead must not take them all.
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._transport.abort()  # the client or the server has gone; nobody awaits this task
        except Exception:
            # The reply is cut off in a way that the client can see, and so can we.
            _log.exception("the reply to %s broke off", self._name())
            self._transport.abort()
        finally:
            self._task = None

    async def _answer(self) -> None:
        assert self._request is not None
        method = self._request.method.decode("ascii")
        path, query = split_target(self._request.target) or ("/", "")
        self._answering = True
        if self._eof:
            self._loop.call_soon(self._abandon)
        try:
            try:
                reply = await self._owner.handler(Request(method, path, query, self._client))
            except asyncio.CancelledError:
                if self._cancelled():
                    raise
                _log.exception("answering %s failed", self._name())
                reply = _FAILED
            except Exception:
                _log.exception("answering %s failed", self._name())
                reply = _FAILED
            # From here to the first write nothing awaits: the answer is as fresh as it can be.
            if isinstance(reply.body, bytes):
                self._send(reply, reply.body)
            else:
                await self._stream(reply, reply.body)
        finally:
            self._answering = False

    def _send(self, reply: Reply, body: bytes) -> None:
        assert self._request is not None
        length = () if reply.status in _NO_BODY else (("Content-Length", str(len(body))),)
        try:
            data = self._http.send(self._head(reply, *length)) or b""
            if self._request.method != b"HEAD" and length:
                data += self._http.send(h11.Data(data=body)) or b""
            data += self._http.send(h11.EndOfMessage()) or b""
        except h11.LocalProtocolError:
            _log.exception("the reply to %s is not valid HTTP", self._name())
            self._refuse(500, "internal error")
        else:
            if not reply.holds():
                # The process was stopped since the answer was made. None is better than one that is wrong by now: the
                # client asks again.
                self._transport.abort()
                return
            self._write(data)

    async def _stream(self, reply: Reply, body: AsyncIterator[bytes]) -> None:
        assert self._request is not None
        self._streaming = True
        try:
            try:
                self._write(self._http.send(self._head(reply)))
            except h11.LocalProtocolError:
                _log.exception("the reply to %s is not valid HTTP", self._name())
                self._refuse(500, "internal error")
                return
            if self._request.method != b"HEAD" and not self._owner.closing:
                await self._pieces(body)
            self._write(self._http.send(h11.EndOfMessage()))
        finally:
            self._streaming = False
            await _close(body)

    async def _pieces(self, body: AsyncIterator[bytes]) -> None:
        try:
            while True:
                await self._flush()
                piece = await anext(body, None)
                if piece is None:
                    return
                if piece:
                    self._write(self._http.send(h11.Data(data=piece)))
        except asyncio.CancelledError:
            # Streams have no end of their own: when the server closes, theirs is in good order.
            if not self._owner.closing or self._eof or self._transport.is_closing():
                raise
            task = self._task
            if task is not None:
                task.uncancel()

    def _head(self, reply: Reply, *more: tuple[str, str]) -> h11.Response:
        headers = [("Content-Type", reply.content_type), *more, ("Date", date()), *reply.headers]
        if self._owner.closing:
            headers.append(("Connection", "close"))
        return h11.Response(status_code=reply.status, headers=headers, reason=REASONS.get(reply.status, b""))

    def _next(self) -> bool:
        """After an answer: whether the next request is there already. Else wait for it, or end."""
        self._request = None
        if self._ending:
            return False
        if self._owner.closing or self._http.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            self._end()
            return False
        self._http.start_next_cycle()
        self._allow(self._limits.header_time)
        ready = self._parse()
        if self._paused and not self._crowded():
            self._paused = False
            self._transport.resume_reading()
        if ready:
            return True
        if not self._ending and self._request is None and not self._http.trailing_data[0]:
            self._idle = True
            self._allow(self._limits.idle_time)
        return False

    def _crowded(self) -> bool:
        """Whether more is waiting to be parsed than any one request's headers."""
        return len(self._http.trailing_data[0]) > self._limits.header_size

    def _cancelled(self) -> bool:
        """Whether it was us who cancelled, not the handler that failed with a cancellation of its own."""
        return self._task is not None and self._task.cancelling() > 0

    def _name(self) -> str:
        """The request, for the log: without its query and headers."""
        if self._request is None:
            return "a request"
        return f"{self._request.method.decode('ascii')} {self._request.target.partition(b'?')[0].decode('ascii')}"

    # --- writing and ending

    def _write(self, data: bytes | None) -> None:
        if data and not self._transport.is_closing():
            self._transport.write(data)

    async def _flush(self) -> None:
        """Wait until all output has left for the kernel; a client that does not let it is dropped (by the timer)."""
        if self._drained is not None:
            self._allow(self._limits.write_time)
            await self._drained
            self._allow(None)

    def _refuse(self, status: int, reason: str, header: str = "") -> None:
        """Say in one line why there will be no answer, and end. Past h11, which may be in an error already."""
        body = b"" if self._request is not None and self._request.method == b"HEAD" else f"{reason}\n".encode()
        self._write(
            f"HTTP/1.1 {status} {REASONS[status].decode()}\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(reason) + 1}\r\nDate: {date()}\r\n{header}Connection: close\r\n\r\n".encode()
            + body
        )
        self._end()

    def _end(self) -> None:
        """Read nothing more; close when the client has our last words: it closes, or some time has passed."""
        if self._ending:
            return
        self._ending = True
        linger = self._owner.linger(self) and not self._eof
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self._allow(self._limits.linger_time if self._drained is None else self._limits.write_time)
        if linger:
            with suppress(OSError):  # the client may have gone this moment
                self._transport.write_eof()
        else:
            self._transport.close()


async def _close(body: AsyncIterator[bytes]) -> None:
    aclose = getattr(body, "aclose", None)
    if aclose is None:
        return
    try:
        async with asyncio.timeout(_ACLOSE_TIME):
            await aclose()
    except Exception:
        _log.exception("closing a stream failed")
