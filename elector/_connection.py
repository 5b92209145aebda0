"""The connection to the API server: HTTP/1.1 (h11) over asyncio, one request at a time on each connection.

Whether a failed request can have had an effect decides about safety, so there is one rule, erring on one side only:
before the first byte of the request was handed to the socket, failures are `NotSent`; from then on, `OutcomeUnknown`.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress

import h11

from elector._credentials import ClusterCredentials
from elector._errors import CredentialsError, NotSent, OutcomeUnknown, WatchRefused
from elector._transport import Response

__all__ = ["MAX_BODY", "KubeTransport"]

MAX_BODY = 4 << 20
"""Bytes of a reply's body, and of one line of a watch. An object in etcd has at most 1.5 MiB."""

_MAX_HEADERS = 64 << 10  # bytes
_READ = 64 << 10  # bytes asked for at a time
_IDLE = 60.0  # seconds for which an idle connection is kept: beyond the usual retry, and a follower's memory is freed
_CLOSE = 1.0  # seconds that close() waits for sockets to be gone; they are aborted, so this is never used up

# The failures of a connection in use. h11's are those of a peer that does not speak HTTP.
_BROKEN = (OSError, EOFError, h11.ProtocolError)


_MASK = b"[token]"
"""What stands in the place of our token in anything that may be logged."""


class _Sent:
    """Whether a byte of a request may have left."""

    __slots__ = ("yes",)

    def __init__(self) -> None:
        self.yes = False


class _Connection:
    """One open connection and h11's view of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEADERS)
        self.replied = False  # whether any byte came since the last request

    def usable(self) -> bool:
        """Whether the server, as far as anybody can know now, still listens to this idle connection."""
        if self.writer.transport.is_closing() or self.reader.at_eof():
            return False
        # The loop may not yet have seen an EOF that has already come, so ask the kernel: on an idle connection whatever is
        # there to read is an EOF, or nothing that we could use.
        poll = select.poll()
        poll.register(self.writer.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    def send(self, sent: _Sent, method: str, target: str, headers: list[tuple[str, str]], body: bytes | None) -> None:
        """Hand the whole request to the socket: the point after which it counts as sent."""
        self.replied = False
        data = self.http.send(h11.Request(method=method, target=target, headers=headers)) or b""
        if body is not None:
            data += self.http.send(h11.Data(data=body)) or b""
        data += self.http.send(h11.EndOfMessage()) or b""
        sent.yes = True
        self.writer.write(data)

    async def event(self) -> h11.Event:
        """The next event of the reply. Raises what `_BROKEN` lists."""
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                data = await self.reader.read(_READ)
                if not data and not self.replied:
                    raise EOFError("the server closed the connection without a reply")
                self.replied = True
                self.http.receive_data(data)
            elif isinstance(event, h11.InformationalResponse):
                continue
            elif isinstance(event, h11.Event) and not isinstance(event, h11.ConnectionClosed):
                return event
            else:
                raise EOFError("the server closed the connection")

    async def head(self) -> h11.Response:
        """Status and headers of the reply."""
        event = await self.event()
        assert isinstance(event, h11.Response), event  # h11 has no other before it
        return event

    async def response(self) -> Response:
        """The whole reply."""
        head = await self.head()
        body = bytearray()
        while isinstance(event := await self.event(), h11.Data):
            body += event.data
            if len(body) > MAX_BODY:
                raise h11.RemoteProtocolError(f"the reply is larger than {MAX_BODY} bytes")
        headers: dict[str, str] = {}
        for name_bytes, value_bytes in head.headers:
            name, value = name_bytes.decode("ascii"), value_bytes.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return Response(head.status_code, bytes(body), headers)

    def reusable(self) -> bool:
        """Make ready for another request; False when the connection cannot carry one."""
        if self.http.our_state is not h11.DONE or self.http.their_state is not h11.DONE:
            return False
        if self.http.trailing_data[0] or self.writer.transport.get_write_buffer_size():
            return False  # a reply that nobody asked for, or one that came before the whole request was read
        self.http.start_next_cycle()
        return True


class KubeTransport:
    """The `Transport` of `elector._transport` to a real API server.

    One idle connection is kept; requests made while it is in use open their own. `close` may be called from any task.
    """

    def __init__(self, credentials: ClusterCredentials, *, version: str = "0") -> None:
        """`version` is this software's, for the User-Agent, by which an API server's operator knows who asks."""
        self._credentials = credentials
        self._agent = f"leader-election/{version}"
        self._idle: _Connection | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._open: set[_Connection] = set()
        self._lookup: asyncio.Future[list[str]] | None = None
        self._closed = False

    async def request(self, method: str, path: str, body: bytes | None = None, *, timeout: float) -> Response:
        """See `Transport.request`. A GET whose kept connection turns out dead is sent once more, on a fresh one."""
        deadline = asyncio.get_running_loop().time() + timeout
        sent = _Sent()
        try:
            async with asyncio.timeout_at(deadline):
                connection = self._take_idle()
                if connection is not None:
                    try:
                        return await self._exchange(connection, sent, method, path, body)
                    except _BROKEN:
                        if method != "GET" or connection.replied:
                            raise
                sent.yes = False
                connection = await self._connect(deadline)
                return await self._exchange(connection, sent, method, path, body)
        except _BROKEN as error:
            # A fresh connection after any failure: the kept one may lead to the same broken server.
            self._drop_idle()
            raise self._failure(method, error, sent, timeout) from error

    async def _exchange(self, connection: _Connection, sent: _Sent, method: str, path: str, body: bytes | None) -> Response:
        """One request and its reply; afterwards the connection is either kept or closed, whatever happens."""
        keep = False
        try:
            connection.send(sent, method, self._credentials.prefix + path, self._headers(method, body), body)
            response = await connection.response()
            keep = connection.reusable()
            return self._masked(response)
        finally:
            if keep and not self._closed and self._idle is None:
                self._idle = connection
                self._idle_timer = asyncio.get_running_loop().call_later(_IDLE, self._drop_idle)
            else:
                self._abort(connection)

    async def watch(self, path: str, *, timeout: float) -> AsyncGenerator[bytes, None]:
        """See `Transport.watch`. Closing the generator closes the connection."""
        deadline = asyncio.get_running_loop().time() + timeout
        sent = _Sent()
        connection: _Connection | None = None
        try:
            async with asyncio.timeout_at(deadline):
                connection = await self._connect(deadline)
                connection.send(sent, "GET", self._credentials.prefix + path, self._headers("GET", None), None)
                head = await connection.head()
            if head.status_code != 200:
                raise WatchRefused(f"watch {self._credentials.url}: HTTP {head.status_code}", head.status_code)
            async for line in _lines(connection):
                yield self._without_token(line)
        except _BROKEN as error:
            raise self._failure("watch", error, sent, timeout) from error
        finally:
            if connection is not None:
                self._abort(connection)

    async def close(self) -> None:
        """Close every connection; requests and watches that are under way end with an error. Safe to call twice."""
        self._closed = True
        connections = list(self._open)
        self._drop_idle()
        for connection in connections:
            self._abort(connection)
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE):
                for connection in connections:
                    with suppress(*_BROKEN):
                        await connection.writer.wait_closed()

    def _masked(self, response: Response) -> Response:
        """The response without our token: what refuses or warns may quote the request, and is logged."""
        if response.status < 300 and "warning" not in response.headers:
            return response
        headers = {name: self._without_token(value.encode()).decode() for name, value in response.headers.items()}
        return Response(response.status, self._without_token(response.body), headers)

    def _without_token(self, text: bytes) -> bytes:
        token = (self._credentials.token() or "").encode()
        if not token or token not in text:
            return text
        return text.replace(b"Authorization: Bearer " + token, _MASK).replace(token, _MASK)

    def _failure(self, what: str, error: Exception, sent: _Sent, timeout: float) -> NotSent | OutcomeUnknown:
        message = f"{what} {self._credentials.url}: {_reason(error, sent, timeout)}"
        return OutcomeUnknown(message) if sent.yes else NotSent(message)

    def _take_idle(self) -> _Connection | None:
        """The kept connection, if there is one that still looks alive; it is no longer kept then."""
        connection, self._idle = self._idle, None
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if connection is not None and not connection.usable():
            self._abort(connection)
            connection = None
        return connection

    def _drop_idle(self) -> None:
        connection = self._take_idle()
        if connection is not None:
            self._abort(connection)

    def _abort(self, connection: _Connection) -> None:
        self._open.discard(connection)
        connection.writer.transport.abort()

    def _headers(self, method: str, body: bytes | None) -> list[tuple[str, str]]:
        headers = [("Host", self._credentials.authority), ("User-Agent", self._agent), ("Accept", "application/json")]
        if body is not None:
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        elif method not in ("GET", "HEAD", "DELETE"):
            headers.append(("Content-Length", "0"))
        try:
            token = self._credentials.token()
        except CredentialsError as error:
            raise NotSent(str(error)) from error
        if token is not None:
            headers.append(("Authorization", f"Bearer {token}"))
        return headers

    async def _connect(self, deadline: float) -> _Connection:
        """Open a connection before `deadline` (of the loop's clock), trying each of the host's addresses in turn."""
        self._check_open()
        try:
            tls = self._credentials.tls()
        except CredentialsError as error:
            raise NotSent(str(error)) from error
        addresses = await self._resolve()
        loop = asyncio.get_running_loop()
        for left in range(len(addresses), 0, -1):
            try:
                # Each gets its share of what is left: an address that swallows everything must not use up all of it.
                async with asyncio.timeout_at(loop.time() + (deadline - loop.time()) / left):
                    return await self._open_one(addresses[-left], tls)
            except ssl.SSLError:
                raise  # it answers, but is not whom we trust: another address of the same name is no better
            except OSError:  # time-outs among them
                if left == 1:
                    raise
        raise OSError(f"no address for {self._credentials.host}")

    async def _open_one(self, address: str, tls: ssl.SSLContext | None) -> _Connection:
        if tls is None:
            reader, writer = await asyncio.open_connection(address, self._credentials.port, limit=_READ)
        else:
            reader, writer = await asyncio.open_connection(
                address,
                self._credentials.port,
                limit=_READ,
                ssl=tls,
                server_hostname=self._credentials.server_name,
                ssl_shutdown_timeout=_CLOSE,
            )
        connection = _Connection(reader, writer)
        self._open.add(connection)
        try:
            _notice_dead_peers(writer.get_extra_info("socket"))
            self._check_open()
        except BaseException:
            self._abort(connection)
            raise
        return connection

    def _check_open(self) -> None:
        if self._closed:
            raise NotSent("this connection to the API server was closed for good")

    async def _resolve(self) -> list[str]:
        """The host's addresses; one look-up at a time, which may outlive the request that began it."""
        host = self._credentials.host
        for family in (socket.AF_INET, socket.AF_INET6):
            with suppress(OSError):
                socket.inet_pton(family, host)
                return [host]
        if self._lookup is None or self._lookup.done():
            self._lookup = _look_up(host)
        return await asyncio.shield(self._lookup)


def _look_up(host: str) -> asyncio.Future[list[str]]:
    """Resolve in a daemon thread: one of the loop's own pool would hold up our exit while the name server stalls."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[str]] = loop.create_future()

    def finish(addresses: list[str], error: OSError | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(addresses)
        else:
            future.set_exception(error)
            future.exception()  # seen: the request that waited for it may be gone

    def run() -> None:
        addresses: list[str] = []
        failure: OSError | None = None
        try:
            for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
                address = str(entry[4][0])
                if address not in addresses:
                    addresses.append(address)
        except UnicodeError:
            failure = OSError(f"{host!r} is not a host name")
        except OSError as error:
            failure = error
        with suppress(RuntimeError):  # the loop is closed, nobody waits
            loop.call_soon_threadsafe(finish, addresses, failure)

    threading.Thread(target=run, name="resolve", daemon=True).start()
    return future


def _notice_dead_peers(sock: socket.socket) -> None:
    """Let the kernel end a connection whose other side is gone without a word, a watch above all (it only listens)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000)):
        option = getattr(socket, name, None)  # seconds, seconds, times, milliseconds
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


async def _lines(connection: _Connection) -> AsyncGenerator[bytes, None]:
    """The body's lines, without their ends and without empty ones. Raises what `_BROKEN` lists."""
    pending = bytearray()
    while isinstance(event := await connection.event(), h11.Data):
        *complete, rest = bytes(event.data).split(b"\n")
        for line in complete:
            pending += line
            if pending:
                yield bytes(pending)
            pending.clear()
        pending += rest
        if len(pending) > MAX_BODY:
            raise h11.RemoteProtocolError(f"a line is longer than {MAX_BODY} bytes")
    if pending:
        yield bytes(pending)


def _reason(error: Exception, sent: _Sent, timeout: float) -> str:
    """Why it failed, in words for the log."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, TimeoutError) and not error.errno:
        return f"no reply within {timeout:g} s" if sent.yes else f"no connection within {timeout:g} s"
    if isinstance(error, h11.ProtocolError):
        # The part before a colon: what follows may quote what was received.
        return f"not a valid HTTP reply: {str(error).partition(':')[0]}"
    return str(error) or type(error).__name__
