"""Probes and metrics of the controller, over HTTP."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Generator

import uvicorn
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from webhook._metrics import CONTENT_TYPE
from webhook.controller._errors import CannotRun

__all__ = ["Metrics", "Server", "create_app"]


class Metrics:
    """What Prometheus can scrape, in a registry of its own."""

    def __init__(self, leads: Callable[[], bool], certificate_end: Callable[[], float]) -> None:
        """Both are asked at every scrape; `certificate_end` in seconds since 1970."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        leading = Gauge("leader_election_controller_leading", "1 on the replica that acts", registry=self._registry)
        leading.set_function(lambda: float(leads()))
        ends = Gauge(
            "leader_election_controller_certificate_expiry_timestamp_seconds",
            "When the stored certificate ends, as the active replica last saw it; 0 on the others",
            registry=self._registry,
        )
        ends.set_function(certificate_end)
        self.failures = Counter(
            "leader_election_controller_failures", "Looks that ended because a request failed", registry=self._registry
        )
        self.repairs = Counter(
            "leader_election_controller_ca_bundle_writes", "Times that the caBundle was written", registry=self._registry
        )

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)


def create_app(alive: Callable[[], bool], ready: Callable[[], bool], metrics: Metrics) -> Starlette:
    """`/healthz`, `/readyz` and `/metrics`."""

    async def healthz(_request: Request) -> Response:
        return _probe(alive())

    async def readyz(_request: Request) -> Response:
        return _probe(ready())

    async def scrape(_request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", scrape)])


def _probe(holds: bool) -> Response:
    return PlainTextResponse("ok\n") if holds else PlainTextResponse("no\n", 503)


class Server(uvicorn.Server):
    """uvicorn on one address, which leaves signals to the program that it is a part of."""

    def __init__(self, app: Starlette, host: str, port: int) -> None:
        """Raises `CannotRun` when the address is taken."""
        super().__init__(
            uvicorn.Config(
                app, lifespan="off", log_config=None, log_level="warning", access_log=False, timeout_graceful_shutdown=1
            )
        )
        try:
            if host or not socket.has_dualstack_ipv6():
                self._socket = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
            else:
                self._socket = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            raise CannotRun(f"cannot listen on {host or '*'}:{port}: {error.strerror}") from error

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._socket.getsockname()[1])

    async def run_until_cancelled(self) -> None:
        """Serve; cancelling ends it."""
        try:
            await self.serve(sockets=[self._socket])
        finally:
            self._socket.close()
