"""Runs the controller: the election, the work of the replica that leads, the status server, the signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from webhook.controller._certificates import ends
from webhook.controller._cluster import KubernetesCluster, open_client
from webhook.controller._errors import ClusterError
from webhook.controller._granting import Granting
from webhook.controller._keeper import Keeper
from webhook.controller._leader import DEFAULT_DIRECTORY, DIRECTORY_VARIABLE, Clock, Leadership, SystemClock
from webhook.controller._objects import KubernetesObjects
from webhook.controller._settings import Settings
from webhook.controller._status import Metrics, Server, create_app

__all__ = ["run"]

_LONGEST = 30.0
"""Seconds between two looks, whatever the watches say."""

_PAUSE = 1.0
"""Seconds before the next look after one that failed."""

_STUCK = 30.0
"""Seconds by which the event loop may be late before the kubelet is told to restart us."""

log = logging.getLogger(__name__)


async def run(settings: Settings, environ: Mapping[str, str], clock: Clock | None = None) -> None:
    """Take part until SIGTERM or SIGINT. Raises `CannotRun` when the service account or the status address is not usable."""
    clock = clock or SystemClock()
    names = settings.names
    leadership = Leadership(
        environ,
        namespace=names.namespace,
        lock=names.lock,
        identity=settings.identity,
        instance=settings.instance,
        ttl=settings.ttl,
    )
    async with contextlib.AsyncExitStack() as stack:
        api = open_client(environ, Path(environ.get(DIRECTORY_VARIABLE) or DEFAULT_DIRECTORY))
        stack.push_async_callback(api.close)
        objects = KubernetesObjects(api, lambda: leadership.leads)
        cluster = KubernetesCluster(objects, names)
        keeper = Keeper(cluster, settings.rules, clock, lambda: leadership.leads) if settings.rules else None
        metrics = Metrics(lambda: leadership.leads, lambda: ends(keeper.material.served) if keeper and keeper.material else 0.0)

        def granting() -> Granting | None:
            if settings.grace is None:
                return None
            own = (names.namespace, names.lock)
            return Granting(
                objects, clock, grace=settings.grace, own=own, instance=settings.identity, failed=metrics.failures.inc
            )

        app = create_app(lambda: leadership.stuck_for < _STUCK, lambda: leadership.has_seen_lock, metrics)
        server = Server(app, *settings.status)
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        election = asyncio.create_task(leadership.run())
        serving = asyncio.create_task(server.run_until_cancelled())
        work = asyncio.create_task(_work(leadership, lambda: _act(cluster, keeper, granting(), metrics)))
        log.info("%s stands for %s/%s; status on port %d", settings.identity, names.namespace, names.lock, server.port)
        stop = asyncio.create_task(stopping.wait())
        done, _ = await asyncio.wait({election, serving, work, stop}, return_when=asyncio.FIRST_COMPLETED)
        # Nothing acts any more when the lock is released.
        work.cancel()
        await asyncio.wait({work})
        leadership.stop()
        await asyncio.wait({election})
        server.should_exit = True
        await asyncio.wait({serving})
        stop.cancel()
        for task in done - {stop}:
            task.result()


async def _work(leadership: Leadership, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Keep things right whenever this replica leads, until cancelled."""
    while True:
        await leadership.until(lambda leads: leads)
        acting = asyncio.create_task(act())
        overtaken = asyncio.create_task(leadership.until(lambda leads: not leads))
        try:
            await asyncio.wait({acting, overtaken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            acting.cancel()
            overtaken.cancel()
            await asyncio.wait({acting, overtaken})
        if not acting.cancelled():
            acting.result()


async def _act(cluster: KubernetesCluster, keeper: Keeper | None, granting: Granting | None, metrics: Metrics) -> None:
    """All that the active replica does, until cancelled."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_keep(cluster, keeper, metrics))
        if granting is not None:
            group.create_task(granting.run())


async def _keep(cluster: KubernetesCluster, keeper: Keeper | None, metrics: Metrics) -> None:
    """Look after certificates and the own lock, at every change and when something is due."""
    wake = asyncio.Event()
    watching = asyncio.create_task(_watch(cluster, wake)) if keeper else None
    complaint = ""
    try:
        while True:
            wake.clear()
            repairs = keeper.repairs if keeper else 0
            try:
                await cluster.own_lock()
                again = await keeper.look() if keeper else _LONGEST
                said = ""
            except ClusterError as error:
                again, said = _PAUSE, str(error)
                metrics.failures.inc()
            metrics.repairs.inc(keeper.repairs - repairs if keeper else 0)
            if said != complaint:
                complaint = said
                log.warning(said) if said else log.info("the API server answers again")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(again, _LONGEST)):
                    await wake.wait()
            # A failing API server is not asked more often because it also ends watches.
            if said:
                await asyncio.sleep(_PAUSE)
    finally:
        if watching is not None:
            watching.cancel()
            await asyncio.wait({watching})


async def _watch(cluster: KubernetesCluster, wake: asyncio.Event) -> None:
    while True:
        try:
            async for _ in cluster.changes():
                wake.set()
        except* ClusterError as group:
            log.debug("%s", group.exceptions[0])
        await asyncio.sleep(_PAUSE)
