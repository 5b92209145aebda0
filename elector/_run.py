"""Runs one elector: the election, its servers, the signals, the log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import sys
import time

from elector._answers import Answers, StatusAnswers
from elector._clock import SystemClock
from elector._connection import KubeTransport
from elector._credentials import ClusterCredentials, from_kubeconfig, in_cluster
from elector._election import Election, View
from elector._health import HealthGate
from elector._lock import Lock
from elector._objects import EndpointsLock, LeaseLock
from elector._server import Handler, Server
from elector._settings import Address, Settings, describe

__all__ = ["run"]

log = logging.getLogger("elector")

_CLOSING = 1.0
"""Seconds that answers under way have at the end."""


class _LeaderLine:
    """Prints `leader is NAME` on standard output at every change of leader, as the original does."""

    def __init__(self, log_format: str) -> None:
        self._json = log_format == "json"
        self._name = ""
        self._leading = False

    def __call__(self, view: View) -> None:
        if view.name and view.name != self._name:
            # Whatever stands in a record, it must not write lines of its own into our log.
            message = f"leader is {view.name if view.name.isprintable() else ascii(view.name)}"
            line = json.dumps({"time": _now(), "level": "info", "message": message, "leader": view.name})
            with contextlib.suppress(OSError):  # nobody reads our output any more
                print(line if self._json else message, flush=True)
        if view.leading != self._leading:
            log.info(f"leading with token {view.token}" if view.leading else "not leading any more")
        elif not view.name and self._name:
            log.info("no leader known")
        self._name, self._leading = view.name, view.leading


class _TextLines(logging.Formatter):
    """One line a message: what others wrote (a holder, a refusal) must not write lines of its own into our log."""

    converter = staticmethod(time.gmtime)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        if not record.message.isprintable():
            record.message = ascii(record.message)[1:-1]
        return super().formatMessage(record)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"time": _now(), "level": record.levelname.lower(), "message": record.getMessage()})


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _set_up_log(settings: Settings) -> None:
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(_JsonLines())
    else:
        handler.setFormatter(_TextLines("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(settings.log_level.upper())


def _credentials(settings: Settings) -> ClusterCredentials:
    kubeconfig = settings.kubeconfig
    if not kubeconfig and not settings.use_cluster_credentials:
        kubeconfig = os.environ.get("KUBECONFIG", "")
    return from_kubeconfig(kubeconfig) if kubeconfig else in_cluster(os.environ)


async def run(settings: Settings, version: str) -> None:
    """Take part in the election until SIGTERM or SIGINT.

    Raises `CredentialsError` when it is not known how to reach the API server, and `ServeError` when an address is taken.
    """
    _set_up_log(settings)
    transport = KubeTransport(_credentials(settings), version=version)
    endpoints = EndpointsLock(transport, settings.namespace, settings.election)
    leases = LeaseLock(transport, settings.namespace, settings.election)
    locks: dict[str, list[Lock]] = {"endpoints": [endpoints], "leases": [leases], "endpointsleases": [endpoints, leases]}
    election = Election(
        locks[settings.lock],
        settings.identity,
        settings.instance,
        settings.timing,
        SystemClock(),
        random.Random(),
        sidecar=settings.sidecar,
        drain=settings.drain,
        gated=bool(settings.health_url),
        # Somebody may still be on the kind of lock that this election comes from (rule 10).
        guard=endpoints if settings.lock == "leases" else None,
        on_change=_LeaderLine(settings.log_format),
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, election.terminate)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(transport.close)
        await _serve(stack, Answers(election, settings.lock), settings.http)
        await _serve(stack, StatusAnswers(election, settings.lock, version), settings.status_http)
        log.info(describe(settings))
        if settings.health_url:
            gate = asyncio.create_task(HealthGate(settings.health_url, election.set_healthy).run())
            stack.push_async_callback(_end, gate)
        await election.run()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _serve(stack: contextlib.AsyncExitStack, handler: Handler, addresses: tuple[Address, ...]) -> None:
    if addresses:
        server = Server(handler, addresses)
        await server.start()
        stack.push_async_callback(server.close, _CLOSING)
