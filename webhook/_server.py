"""Running the application: uvicorn over TLS, from a socket and a certificate that were checked first."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

from webhook._app import Application
from webhook._certificate import Certificate, watch, words
from webhook._errors import ServeError
from webhook._protocol import ReviewProtocol
from webhook._settings import ServeSettings

__all__ = ["serve"]

_KEEP_ALIVE = 120
"""Seconds. Longer than the 90 s of Go's client, so that it is the API server that closes an idle connection: a review
sent into one that we are closing would fail, and the pod with it."""

_LINGER = 1.0
"""Seconds for which connections stay open after SIGTERM, each until its next answer, which says that it is the last. One that is
closed while it is idle may be closed just when a review comes, and the API server does not send that a second time. One
that is idle for as long as this is hardly hit."""

_LINGER_STEP = 0.05

_GRACE = 6
"""Seconds that reviews under way have after SIGTERM, and peers to answer the end of TLS; the API server waits 5 s."""


def serve(app: Application, settings: ServeSettings, certificate: Certificate) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way and return.

    Raises `ServeError` when the address is taken.
    """
    sock = _listen(settings.host, settings.port)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=ReviewProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_GRACE,
        ssl_context_factory=lambda _config, _default: certificate.context,
    )
    host, port = sock.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    # uvicorn raises the signal again once it has shut down, for whoever handled it before: for us, a normal end. One
    # that comes before uvicorn handles signals ends the process here too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    said = f"serving on https://{address}:{port}/mutate"
    _Server(config, app, certificate, lambda: print(said, flush=True)).run(sockets=[sock])


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it serves, and looks after its certificate meanwhile."""

    def __init__(
        self, config: uvicorn.Config, app: Application, certificate: Certificate, on_started: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._app = app
        self._certificate = certificate
        self._on_started = on_started
        self._watching: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._watching = asyncio.create_task(watch(self._certificate))
        # What was imported lives as long as the process: no use in looking through it at every collection.
        gc.collect()
        gc.freeze()
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._watching is not None:
            self._watching.cancel()
        await self._linger()
        await super().shutdown(sockets)

    async def _linger(self) -> None:
        self._app.mutate.ending = True
        loop = asyncio.get_running_loop()
        until = loop.time() + _LINGER
        while self.server_state.connections and loop.time() < until and not self.force_exit:  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(_LINGER_STEP)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def _listen(host: str, port: int) -> socket.socket:
    # Bound here and not by uvicorn, which would log the error and exit by itself.
    try:
        if host:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            return socket.create_server(address[:2], family=family, backlog=2048)
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=2048)
        except (OSError, ValueError) as error:
            # No IPv6 on this machine, or no sockets for both: IPv4 then. A port that is taken is no such case.
            if isinstance(error, OSError) and error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            return socket.create_server(("", port), backlog=2048)
    except OSError as error:
        raise ServeError(f"cannot listen on {host or '*'}:{port}: {words(error)}") from error
