"""Simulated time: one queue of events for all processes, each with its own clock and its own event loop on top of it.

The loops are just large enough for asyncio's tasks, events and time-outs; the real election runs on them unchanged.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import random
from asyncio import events
from collections.abc import Callable
from typing import Any, cast

__all__ = ["BusyError", "LocalLoop", "SimulatedClock", "World"]

WALL_START = 1_790_000_000.0

_BUSY = 5000


class BusyError(AssertionError):
    """A process goes round and round without waiting for anything."""


class World:
    """True time in seconds, and what happens in it, in order."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.log: list[str] = []
        self.keep_log = False
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Have `action` happen at true time `when`, not before now."""
        heapq.heappush(self._queue, (max(when, self.now), next(self._order), action))

    def run(self, until: float) -> None:
        """Let everything happen up to true time `until`."""
        queue, count, since = self._queue, 0, self.now
        while queue and queue[0][0] <= until:
            self.now, _, action = heapq.heappop(queue)
            count, since = (count + 1, since) if self.now == since else (0, self.now)
            if count > _BUSY:
                raise BusyError(f"at {self.now:.4f}: more than {_BUSY} events and no time passes")
            action()
        self.now = until

    def note(self, text: str) -> None:
        if self.keep_log:
            self.log.append(f"{self.now:10.4f} {text}")


class SimulatedClock:
    """A process's own clock: starts anywhere, runs fast or slow; its wall clock is wrong by as much as it likes."""

    def __init__(self, world: World, rate: float, offset: float, wall_error: float) -> None:
        self._world = world
        self.rate = rate
        self._offset = offset
        self.wall_error = wall_error
        self.on_read: Callable[[], None] | None = None

    def now(self) -> float:
        reading = self._offset + self.rate * self._world.now
        if self.on_read is not None:
            self.on_read()
        return reading

    def peek(self) -> float:
        return self._offset + self.rate * self._world.now

    def wall(self) -> float:
        return WALL_START + self._world.now + self.wall_error

    def true_time(self, local: float) -> float:
        """When this clock shows `local`, or a hair later: rounding must not end a sleep too early, again and again."""
        true = (local - self._offset) / self.rate
        while self._offset + self.rate * true < local:
            true += 1e-9
        return true


class LocalLoop:
    """The event loop of one simulated process: its callbacks are events of the world, at its own clock's pace.

    `frozen_until` (true time) holds every callback back; `freeze_in` counts callbacks until a freeze of `freeze_for` begins,
    so that a process can stop at any await.
    """

    def __init__(self, world: World, clock: SimulatedClock, after: Callable[[], None]) -> None:
        self._world = world
        self._clock = clock
        self._after = after
        # All that asyncio needs of it here is below; the abstract class asks for forty methods more.
        self._as_loop = cast(asyncio.AbstractEventLoop, self)
        self.dead = False
        self.frozen_until = 0.0
        self.freeze_in = -1
        self.freeze_for = 0.0
        self.failures: list[BaseException] = []
        self._unrun: list[asyncio.Handle] = []

    def bury(self, task: asyncio.Task[None]) -> None:
        """Let the task of a process that is over end in an orderly way, outside the judged time."""
        self.dead, self.frozen_until, self.freeze_in = False, 0.0, -1
        for handle in self._unrun:
            self._schedule(self._world.now, handle)
        self.run_now(task.cancel)

    # Running callbacks.

    def _schedule(self, when: float, handle: asyncio.Handle) -> None:
        self._world.at(when, lambda: self._fire(handle))

    def _fire(self, handle: asyncio.Handle) -> None:
        if handle.cancelled():
            return
        if self.dead:
            self._unrun.append(handle)
            return
        if self._world.now < self.frozen_until:
            self._schedule(self.frozen_until, handle)
            return
        if self.freeze_in >= 0:
            self.freeze_in -= 1
            if self.freeze_in < 0:
                self.frozen_until = self._world.now + self.freeze_for
                self._schedule(self.frozen_until, handle)
                return
        self.run_now(handle._run)
        self._after()

    def run_now(self, action: Callable[[], Any]) -> Any:
        """Run something as this process."""
        before = events._get_running_loop()
        events._set_running_loop(self._as_loop)
        try:
            return action()
        finally:
            events._set_running_loop(before)

    # What asyncio asks of a loop.

    def time(self) -> float:
        return self._clock.peek()

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self._as_loop, context)
        self._schedule(self._world.now, handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self._as_loop, context)
        self._schedule(self._clock.true_time(when), handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._as_loop)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self._as_loop, **options)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context.get("exception") or RuntimeError(context.get("message", "")))
