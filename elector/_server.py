"""The HTTP server: listens on addresses, counts connections, and closes in good order. Each client is `_http_connection`'s."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence
from contextlib import suppress

from elector._errors import ServeError
from elector._http import Handler, Limits, Reply, Request
from elector._http_connection import Connection

__all__ = ["Handler", "Limits", "Reply", "Request", "Server"]

_ACCEPT = 16  # connections taken in one turn of the loop: about a millisecond of work
_READ = 16 << 10  # bytes received from one client in one turn of the loop
_BACKLOG = 1024  # connections that the kernel holds meanwhile
_DROPPED = 1.0  # seconds for aborted connections to be gone, and cancelled handlers to have ended
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_DEAD_PEER = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000))


class Server:
    """Answers by `handler` on every address; see `_http_connection` for what it promises to handlers and expects of clients."""

    def __init__(self, handler: Handler, addresses: Sequence[tuple[str, int]], *, limits: Limits | None = None) -> None:
        """`addresses`: host and port; "" and "::" mean every interface (IPv4 too), port 0 any free one."""
        self.handler = handler
        self.limits = limits or Limits()
        self.closing = False
        self.tasks: set[asyncio.Task[None]] = set()
        self.buffer = memoryview(bytearray(_READ))
        self._addresses = tuple(addresses)
        self._listeners: list[asyncio.Server] = []
        self._sockets: list[socket.socket] = []
        self._active: set[Connection] = set()
        self._lingering: set[Connection] = set()
        self._gone: asyncio.Event = asyncio.Event()

    @property
    def ports(self) -> list[int]:
        """The ports that are listened on, in the order of the addresses."""
        return [sock.getsockname()[1] for sock in self._sockets]

    @property
    def connections(self) -> int:
        """How many are open now, those included that are only waited for to close."""
        return len(self._active) + len(self._lingering)

    async def start(self) -> None:
        """Listen. Raises `ServeError` naming the address that is taken or cannot be had; nothing is left open then."""
        loop = asyncio.get_running_loop()
        missing: ServeError | None = None
        try:
            for host, port in self._addresses:
                try:
                    self._sockets += await _bind(host, port, self.limits.socket_buffer)
                except OSError as error:
                    # A machine without IPv6 has no ::1; "localhost" is then 127.0.0.1 alone.
                    if host != "::1" or error.errno not in _NO_SUCH_ADDRESS:
                        raise _serve_error(host, port, error) from error
                    missing = _serve_error(host, port, error)
            if missing is not None and not self._sockets:
                raise missing  # noqa: TRY301 - the clean-up below is for this one too
            for sock in self._sockets:
                try:
                    # asyncio accepts up to `backlog` without a look at other work, so few; the kernel may hold more.
                    listener = await loop.create_server(lambda: Connection(self), sock=sock, backlog=_ACCEPT)
                    self._listeners.append(listener)
                    sock.listen(_BACKLOG)
                except OSError as error:
                    host, port = sock.getsockname()[:2]
                    raise _serve_error(host, port, error) from error
        except BaseException:
            self._stop_listening()
            raise

    async def close(self, grace: float) -> None:
        """Stop accepting; end idle connections and streams now, requests under way within `grace` seconds.

        Returns when every connection is closed. Safe to call twice.
        """
        self.closing = True
        self._stop_listening()
        for connection in tuple(self._active):
            connection.shut_down()
        await self._all_gone(grace)
        for connection in (*self._active, *self._lingering):
            connection.drop()
        await self._all_gone(_DROPPED)
        if self.tasks:
            await asyncio.wait(tuple(self.tasks), timeout=_DROPPED)

    async def _all_gone(self, seconds: float) -> None:
        if self.connections:
            self._gone.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._gone.wait()

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()
        for sock in self._sockets:
            sock.close()
        self._listeners.clear()
        self._sockets.clear()

    # --- called by connections

    def admit(self, connection: Connection) -> bool:
        """See `Owner`."""
        if len(self._active) >= self.limits.connections:
            return False
        self._active.add(connection)
        return True

    def linger(self, connection: Connection) -> bool:
        """See `Owner`."""
        self._active.discard(connection)
        room = len(self._lingering) < self.limits.refused
        self._lingering.add(connection)
        return room

    def forget(self, connection: Connection) -> None:
        """See `Owner`."""
        self._active.discard(connection)
        self._lingering.discard(connection)
        if not self.connections:
            self._gone.set()


def _serve_error(host: str, port: int, error: OSError) -> ServeError:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    reason = "the port is taken" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
    return ServeError(f"cannot listen on {address}: {reason}")


async def _bind(host: str, port: int, buffer: int) -> list[socket.socket]:
    """Bound sockets for one address (a name may stand for several). Raises OSError."""
    if host in ("", "::"):
        try:
            return [_bind_one(socket.AF_INET6, "::", port, buffer)]
        except OSError as error:
            if host or error.errno not in _NO_SUCH_ADDRESS:
                raise
            return [_bind_one(socket.AF_INET, "0.0.0.0", port, buffer)]
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return [_bind_one(family, host, port, buffer)]
    entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    sockets: list[socket.socket] = []
    try:
        for family_number, address in dict.fromkeys((entry[0], str(entry[4][0])) for entry in entries):
            sockets.append(_bind_one(socket.AddressFamily(family_number), address, port, buffer))
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind_one(family: socket.AddressFamily, host: str, port: int, buffer: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Old connections of a predecessor in TIME_WAIT must not keep us out; a listening one still does.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        # Accepted sockets inherit what follows. Peers that vanish without a word are noticed by the kernel.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _DEAD_PEER:
            option = getattr(socket, name, None)  # seconds, seconds, times, milliseconds; Linux has them all
            if option is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock
