"""One lock as one candidate sees and writes it: reads, watches, and writes that are settled (rules 4, 5 and 7)."""

from __future__ import annotations

import random
from collections.abc import Callable

from elector._clock import Clock
from elector._errors import NotSent, TransportError
from elector._lock import Conflict, Lock, LockState, Mark, Refused
from elector._observer import Observer, Sight, Write
from elector._stats import Stats
from elector._timing import Timing
from elector._watcher import Watcher

__all__ = ["LockView"]

_NEVER = float("-inf")


class LockView:
    """A lock, what is known of it, and a watch on it.

    `on_sight` is called after each state that was taken in, `on_news` after each that a watch brought.
    """

    def __init__(
        self,
        lock: Lock,
        identity: str,
        instance: str,
        timing: Timing,
        clock: Clock,
        rng: random.Random,
        stats: Stats,
        on_sight: Callable[[LockView], None],
        on_news: Callable[[], None],
    ) -> None:
        self.lock = lock
        self.observer = Observer(identity, instance, timing.ttl)
        self.watcher = Watcher(lock, timing, clock, rng, lambda: self.observer.state, self._heard)
        self.asked_at = _NEVER
        self._timing = timing
        self._clock = clock
        self._rng = rng
        self._stats = stats
        self._on_sight = on_sight
        self._on_news = on_news
        self._spread = 0.0

    @property
    def sight(self) -> Sight:
        return self.observer.sight

    @property
    def taking_time(self) -> float:
        """When the lock may be taken, as far as is known now: after a release at once, else when all has run out (rule 4)."""
        start = self.observer.seen_at if self.sight is Sight.FREE else self.observer.free_at
        return start + self._spread

    @property
    def may_be_taken(self) -> bool:
        """Whether what was read last allows to compare-and-swap on it.

        Without a release that takes a read made after the waiting time; a change would have started that anew.
        """
        if self.observer.state is None:
            return False
        if self.sight is Sight.FREE:
            return self._clock.now() >= self.taking_time
        return self.observer.from_predecessor or (
            self.sight in (Sight.FOREIGN, Sight.UNKNOWN) and self.asked_at >= self.taking_time
        )

    def look_due(self) -> float:
        """When to read the lock next: at each retry that a watch does not make needless."""
        return self.watcher.look_due(self.asked_at)

    async def look(self) -> None:
        """Read the lock (a quorum read) and take in what it says. Raises `TransportError`."""
        asked, before = self._clock.now(), self.observer.state
        state = await self.lock.read(self._timing.retry_period)
        if self._overtaken(before, state):
            return
        self.asked_at = asked
        if before is not None and self.observer.state is before and version(state) != before.version:
            self.watcher.missed_a_change()
        self._saw(state)

    def _overtaken(self, before: LockState | None, state: LockState | None) -> bool:
        """Whether a watch has meanwhile brought something newer than this reply, to a request made when `before` was known."""
        known = self.observer.state
        return known is not before and (known is None or state is None or state.revision < known.revision)

    async def create(self, mark: Mark) -> None:
        """Create the object, or see that somebody else has."""
        try:
            self._saw(await self.lock.create(mark, self._timing.retry_period))
        except Conflict:
            await self.look()

    async def put(self, base: LockState, mark: Mark) -> None:
        """Compare-and-swap `mark` onto `base`, and settle a conflict or an unclear outcome by reading (rule 5).

        `base` is the state by which it was decided to write: a watch may have brought another since. Afterwards `observer.ours`
        tells whether the lock carries a write of ours. Raises `TransportError` for everything but a conflict that the read
        explains.
        """
        write = Write(base, mark, self.lock.text_of(mark), sent=self._clock.now())
        self.observer.sends(write)
        result = "unknown"
        try:
            state = await self.lock.replace(base, mark, self._timing.retry_period)
            result = "ok"
        except NotSent:
            result = "failed"
            self.observer.certainly_failed(write)
            raise
        except TransportError as error:
            if isinstance(error, Refused):
                result = "refused"
                self.observer.certainly_failed(write)
            elif isinstance(error, Conflict):
                result = "conflict"
            await self.look()
            if result != "conflict" or version(self.observer.state) == base.version:
                raise
            return
        finally:
            self._stats.wrote(result, self._clock.now() - write.sent)
        if state.version == base.version:
            # The API server answers a PUT that changes nothing with 200 and writes nothing (rule 3).
            self.observer.certainly_failed(write)
            raise Conflict("the API server accepted a write that changed nothing")
        if self._overtaken(base, state):
            await self.look()
        else:
            self._saw(state)

    def _saw(self, state: LockState | None) -> None:
        seen_before = self.observer.seen_at
        self.observer.saw(state, self._clock.now())
        self.watcher.saw(state)
        if self.observer.seen_at != seen_before:
            self._spread = self._rng.uniform(0.0, self._timing.spread)
        self._on_sight(self)

    def _heard(self, state: LockState | None) -> None:
        self._saw(state)
        self._on_news()


def version(state: LockState | None) -> str:
    """The resourceVersion; empty for an object that does not exist."""
    return "" if state is None else state.version
