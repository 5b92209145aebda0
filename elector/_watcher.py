"""Watching the lock instead of polling it (rule 7): the API server sends each change, one small write per renewal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable

from elector._clock import Clock
from elector._errors import TransportError, WatchRefused
from elector._lock import Lock, LockState
from elector._timing import Timing

__all__ = ["Watcher"]

log = logging.getLogger("elector")

_REFUSED_FOR = 10
"""Ttls after which a forbidden watch is asked for again: a person has to grant it first."""


class Watcher:
    """Keeps a watch open from what is known of the lock, for as long as that is possible.

    `known` gives the state known now, `heard` takes each newer one, None for a deletion.
    """

    def __init__(
        self,
        lock: Lock,
        timing: Timing,
        clock: Clock,
        rng: random.Random,
        known: Callable[[], LockState | None],
        heard: Callable[[LockState | None], None],
    ) -> None:
        self._lock = lock
        self._timing = timing
        self._clock = clock
        self._rng = rng
        self._known = known
        self._heard = heard
        self._heard_at = float("-inf")
        self._patience: asyncio.Timeout | None = None
        self._exists = asyncio.Event()

    def look_due(self, asked_at: float) -> float:
        """When the lock has to be read although a watch may be open, given the local time at which it was last read.

        Somebody renews every retry period; a watch that shows nothing for one and a half is checked, again at each retry.
        """
        due = asked_at + self._timing.retry_period
        return due if self._patience is None else max(due, self._heard_at + 1.5 * self._timing.retry_period)

    def missed_a_change(self) -> None:
        """A read has shown what an open watch did not: if it has been silent for too long, open another."""
        if self._patience is not None and self._clock.now() >= self._heard_at + 1.5 * self._timing.retry_period:
            self._patience.reschedule(asyncio.get_running_loop().time())
            self._patience = None

    def saw(self, state: LockState | None) -> None:
        """What was seen of the lock last: there is something to watch once it exists."""
        if state is None:
            self._exists.clear()
        else:
            self._exists.set()

    async def run(self) -> None:
        """Watch until cancelled; while watching is not possible, try again now and then."""
        failures, retry = 0, self._timing.retry_period
        while True:
            await self._exists.wait()
            pause, since = 0.0, self._known()
            try:
                if since is not None:
                    await self._watch(since)
                    failures = 0
            except TimeoutError:
                log.debug("the watch had stalled")
            except WatchRefused as error:
                log.debug("polling: %s", error)
                # Too long ago: somebody has to write first. Anything else, mostly 403: a person has to act.
                pause = retry if error.status == 410 else _REFUSED_FOR * self._timing.ttl
            except TransportError as error:
                log.debug("watch: %s", error)
                failures += 1
                pause = self._timing.pause_after(failures)
            await asyncio.sleep(pause * self._rng.uniform(0.8, 1.0))

    async def _watch(self, since: LockState) -> None:
        """One watch, until the server ends it. Raises `TimeoutError` when it is given up because it has missed a change."""
        try:
            async with (
                asyncio.timeout(None) as self._patience,
                contextlib.aclosing(self._lock.watch(since, self._timing.retry_period)) as states,
            ):
                self._heard_at = self._clock.now()
                async for state in states:
                    self._heard_at = self._clock.now()
                    known = self._known()
                    # What is older than the last read says nothing about now.
                    if state is None or known is None or state.revision > known.revision:
                        self._heard(state)
        finally:
            self._patience = None
