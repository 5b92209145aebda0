"""Work by key: each key is with one worker at a time, however often it is asked for, and is tried again when it failed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from webhook.controller._errors import ClusterError, Conflict

__all__ = ["WorkQueue"]

K = TypeVar("K", bound=Hashable)

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 30.0
"""Seconds before a key that failed is tried again: doubled each time."""

log = logging.getLogger(__name__)


class WorkQueue(Generic[K]):
    """Calls `work` with each key that was added. It returns in how many seconds to call again; None: when it is added again."""

    def __init__(self, work: Callable[[K], Awaitable[float | None]], workers: int, failed: Callable[[], None]) -> None:
        """`failed` is called whenever `work` raised `ClusterError`."""
        self._work = work
        self._workers = workers
        self._failed = failed
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._queued: set[K] = set()
        self._busy: set[K] = set()
        self._again: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, key: K) -> None:
        """Ask for work on `key` as soon as possible."""
        if key in self._busy:
            self._again.add(key)
        elif key not in self._queued:
            self._idle.clear()
            self._queued.add(key)
            self._ready.put_nowait(key)

    async def until_idle(self) -> None:
        """Wait until nothing is to be done now; what failed or is due later is not waited for."""
        await self._idle.wait()

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._run())
        finally:
            for timer in self._timers.values():
                timer.cancel()

    async def _run(self) -> None:
        while True:
            key = await self._ready.get()
            self._queued.discard(key)
            self._busy.add(key)
            try:
                again = await self._once(key)
            finally:
                self._busy.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.add(key)
            elif again is not None:
                self._later(key, again)
            if not self._queued and not self._busy:
                self._idle.set()

    async def _once(self, key: K) -> float | None:
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
        try:
            again = await self._work(key)
        except ClusterError as error:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            self._failed()
            # A conflict says that somebody was faster: nothing to report.
            level = logging.INFO if isinstance(error, Conflict) else logging.WARNING
            log.log(level, "%s: %s", "/".join(key) if isinstance(key, tuple) else key, error)
            return min(_FIRST_PAUSE * 2.0 ** min(failures - 1, 16), _LONGEST_PAUSE)
        self._failures.pop(key, None)
        return again

    def _later(self, key: K, seconds: float) -> None:
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self._due, key)

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)
