"""The election itself: one candidate that stands, leads, follows and gives up.

It knows a lock, a clock and a source of chance, and nothing of sockets or signals: the simulation in `tests/simulation` runs
this very code. The rules it obeys stand in `docs/election.md` under the numbers used here. Leadership is never stored: it is
computed from the claim's deadline whenever somebody asks (rule 1).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from elector._clock import Clock
from elector._errors import TransportError
from elector._lock import Lock, Mark, Refused
from elector._lockview import LockView
from elector._observer import Sight
from elector._record import PLACEHOLDER, Record, format_time, lease_seconds, time_unit
from elector._stats import Stats
from elector._timing import Timing
from elector._view import Sidecar, View

__all__ = ["Election", "Sidecar", "View"]

log = logging.getLogger("elector")

_NEVER = float("-inf")

_PROBED_AGAIN = 60.0
"""Seconds after being stuck in which a SIGTERM is taken for the liveness probe's: three failures, 10 s apart, and some delay."""


class Election:
    """One candidate for one lock, or for two that are only held together (rule 10).

    Run `run()` as a task; it ends after `terminate()`, when everything that has to be released is released. Everything else
    may be called at any time from the same event loop.
    """

    def __init__(
        self,
        locks: Lock | Sequence[Lock],
        identity: str,
        instance: str,
        timing: Timing,
        clock: Clock,
        rng: random.Random,
        *,
        sidecar: Sidecar = Sidecar.UNSET,
        drain: float = 0.0,
        gated: bool = False,
        guard: Lock | None = None,
        on_change: Callable[[View], None] = lambda view: None,
    ) -> None:
        """`instance` tells this process from any other with the same identity; `drain` is in seconds.

        `locks` are acquired in this order and released in the opposite one. `guard` is never written: while somebody else
        freshly holds it, nothing is acquired. With `gated` it stands only once `set_healthy` has said that it may.
        """

        def view_of(lock: Lock) -> LockView:
            return LockView(lock, identity, instance, timing, clock, rng, self.stats, self._on_sight, lambda: self._wake.set())

        self.identity = identity
        self.timing = timing
        self.stats = Stats()
        self._instance = instance
        self._clock = clock
        self._rng = rng
        self._sidecar = sidecar
        self._drain = drain
        self._on_change = on_change
        self._views = [view_of(lock) for lock in (locks if isinstance(locks, Sequence) else [locks])]
        self._guard = view_of(guard) if guard is not None else None
        self._claiming = True
        self._claim_until = _NEVER
        self._given_until = _NEVER
        self._last_mark: Mark | None = None
        self._odd_lease: int | None = None
        self._last_stamp = 0
        self._terminating = False
        self._abandoned = False
        self._healthy = not gated
        self._stuck_at = _NEVER
        self._drain_at: float | None = None
        self._release_at: float | None = None
        self._stand_at = _NEVER
        self._not_before = _NEVER
        self._failures = 0
        self._complaint = ""
        self._turn_due = clock.now()
        self._wake = asyncio.Event()
        self._poke = asyncio.Event()
        self._changed = asyncio.Event()
        self._announced: tuple[str, bool, int] | None = None

    # What others may ask.

    def view(self) -> View:
        """What holds now. Telling it to an application gives out a claim: use the `tell_` methods for that."""
        now = self._clock.now()
        leading = self._leads(now)
        # The last lock decides what is said of the record: with two, it is the one that is acquired last.
        state = self._views[-1].observer.state
        record = None if state is None else state.record
        name = self.identity if leading else self._foreign_leader(now)
        mark = self._last_mark if leading else None
        return View(
            name=name,
            id=self.identity,
            leading=leading,
            token=mark.token if mark else self._stored_token(),
            transitions=record.transitions if record else 0,
            acquired=record.acquired if record else "",
            renewed=record.renewed if record else "",
            expires_in=self._claim_until - now if leading else 0.0,
        )

    def _foreign_leader(self, now: float) -> str:
        """The other holder whose record has not run out; nobody when there are two who differ (rule 10)."""
        names = {view.observer.holder for view in self._views if view.sight is Sight.FOREIGN and now < view.observer.free_at}
        names.discard(self.identity)
        return names.pop() if len(names) == 1 else ""

    def _stored_token(self) -> int:
        return max(view.observer.state.token if view.observer.state else 0 for view in self._views)

    def tell_name(self) -> View:
        """A view for somebody who learns the name only, and may act on it for the time of rule 2."""
        view = self.view()
        if view.leading:
            self._given_until = max(self._given_until, self._clock.now() + self.timing.belief)
        return view

    def tell_claim(self) -> View:
        """A view for somebody who heeds `expires_in`."""
        view = self.view()
        if view.leading:
            self._given_until = max(self._given_until, self._claim_until)
        return view

    @property
    def leads(self) -> bool:
        """Whether this candidate leads at this very moment."""
        return self._leads(self._clock.now())

    @property
    def has_seen_lock(self) -> bool:
        """Whether the lock's state has been seen since the start."""
        return all(view.sight is not Sight.UNSEEN for view in self._views)

    @property
    def stuck_for(self) -> float:
        """Seconds by which the election's loop is late; an API server that does not answer makes nobody late."""
        return self._clock.now() - self._turn_due

    @property
    def is_stuck(self) -> bool:
        """Whether the loop is late by more than its requests' time-outs could explain, even with two locks."""
        return self.stuck_for > self._stuck_limit

    @property
    def _stuck_limit(self) -> float:
        return max(2 * self.timing.ttl, 10.0)

    @property
    def record_age(self) -> float:
        """Seconds since the lock's record was last seen to change; 0 before it was seen."""
        return self._clock.now() - self._views[-1].observer.seen_at if self.has_seen_lock else 0.0

    async def changed(self) -> None:
        """Wait for the next change of name, of leading or of the token; a claim that lapses is a change."""
        await self._changed.wait()

    # What others may demand.

    def terminate(self) -> None:
        """SIGTERM: acquire nothing any more, and give up in the way that the kind of sidecar asks for (rule 8)."""
        if self._terminating:
            return
        self._terminating = True
        self._stand_at = float("inf")
        if self.is_stuck or self._clock.now() < self._stuck_at + _PROBED_AGAIN:
            # The kubelet restarts this container, because its probe failed, beside an application that goes on running: the
            # successor in the same pod takes the lock over as it is (rule 9).
            log.warning("stopped while or shortly after being stuck: nothing is released")
            self._claiming, self._abandoned = False, True
        elif self._release_at is not None:
            pass  # giving up already
        elif self._sidecar is Sidecar.NATIVE:
            self._give_up(self._clock.now())
        elif self._sidecar is Sidecar.CLASSIC and self._leads(self._clock.now()):
            self._drain_at = self._clock.now() + self._drain
        else:
            self._give_up(self._given_until)
        self._wake.set()

    def set_healthy(self, healthy: bool) -> None:
        """The application has become able, or unable, to lead; when unable, give up as rule 8 has it."""
        self._healthy = healthy
        if not healthy and self._release_at is None and (self._may_hold or self._leads(self._clock.now())):
            self._give_up(self._given_until)
        self._wake.set()

    def resign(self) -> bool:
        """The application gives leadership up: stop claiming and release at once, stand again after one ttl at the earliest.

        Returns whether there was anything to give up.
        """
        if not self._may_hold and not self._leads(self._clock.now()):
            return False
        self._give_up(self._clock.now())
        self._wake.set()
        return True

    def _give_up(self, release_at: float) -> None:
        self._claiming = False
        self._release_at = release_at
        self._drain_at = None
        self._stand_at = max(self._stand_at, self._clock.now() + self.timing.ttl)
        self._poke.set()

    # The loop.

    async def run(self) -> None:
        """Take part until terminated. Raises nothing for what the API server or the network does."""
        helpers = [asyncio.create_task(self._announce()), *(asyncio.create_task(view.watcher.run()) for view in self._views)]
        try:
            while not self._finished():
                if self.is_stuck:
                    self._stuck_at = self._clock.now()
                self._turn_due = due = await self._turn()
                if not self._finished():
                    await self._sleep(self._wake, due)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            self._announce_change()

    def _finished(self) -> bool:
        if not self._terminating or self._claiming:
            return False
        if self._abandoned:
            return True
        if not self._may_hold:
            return True
        # Out of reach: what we hold runs out by itself one ttl after the last renewal, and others have to wait that long.
        if self._clock.now() < max(view.observer.last_sent for view in self._views) + 2 * self.timing.ttl:
            return False
        log.warning("the lock could not be released: others take over when it has run out")
        return True

    async def _turn(self) -> float:
        """Do what is due now; returns the local time of the next turn."""
        try:
            await self._act()
        except TransportError as error:
            self._failures += 1
            self._complain(str(error))
            now = self._clock.now()
            self._not_before = now + self.timing.pause_after(self._failures) * self._rng.uniform(0.8, 1.0)
            return self._not_before
        self._failures = 0
        self._complain("")
        return self._next_due()

    async def _act(self) -> None:
        now = self._clock.now()
        if self._drain_at is not None and now >= self._drain_at:
            self._give_up(self._given_until)
        ours = [view for view in self._views if view.sight is Sight.OURS]
        if ours and self._must_let_go(now, len(ours)):
            await self._release(ours)
        elif len(ours) == len(self._views):
            if now >= self._renewal_due():
                await self._renew()
        elif now >= self._standing_due():
            if not self._released or self._guard is not None or now < self._taking_time:
                await self._look()
            await self._take_what_may_be_taken()
        if self._release_at is not None and not self._may_hold:
            self._gave_up()

    def _must_let_go(self, now: float, held: int) -> bool:
        """Whether it is time to release what is held."""
        return now >= (self._half_until if held < len(self._views) and self._release_at is None else self._release_due)

    @property
    def _release_due(self) -> float:
        return float("inf") if self._release_at is None else self._release_at

    @property
    def _half_until(self) -> float:
        """Half of a pair is never kept longer than what was told of the whole holds (rules 8 and 10)."""
        return max(self._claim_until, self._given_until)

    def _next_due(self) -> float:
        held = sum(view.sight is Sight.OURS for view in self._views)
        if held < len(self._views):
            due = self._standing_due()
            return min(due, max(min(self._half_until, self._release_due), self._not_before)) if held else due
        due = min(self._renewal_due(), self._release_due)
        return due if self._drain_at is None else min(due, self._drain_at)

    def _renewal_due(self) -> float:
        period = self.timing.retry_period
        if self._odd_lease is not None:
            # Others judge by a shorter lease: the claim is shorter, and so is the time between renewals.
            period = min(period, self._claim_seconds() / 2)
        return max(self._renewed_at() + period, self._not_before)

    def _renewed_at(self) -> float:
        """When the oldest of the writes that hold the locks was sent; minus infinity when one lock is not held."""
        return min(view.observer.ours.sent if view.observer.ours else _NEVER for view in self._views)

    def _standing_due(self) -> float:
        """When to look at the locks again, or to take them without another look because they were released."""
        due = min(view.look_due() for view in self._not_ours)
        # What was released is taken as it is; everything else is looked at once more when its time has come, and once only.
        if self._released or self._taking_time > self._asked_at:
            due = min(due, self._taking_time)
        return max(due, self._not_before)

    @property
    def _not_ours(self) -> list[LockView]:
        return [view for view in self._views if view.sight is not Sight.OURS]

    @property
    def _released(self) -> bool:
        """Whether every lock was released, so that no further look is needed before taking them."""
        return all(view.sight is Sight.FREE for view in self._views)

    @property
    def _taking_time(self) -> float:
        """When this candidate may take all locks, as far as is known now."""
        views = [*self._views, *([self._guard] if self._guard is not None and self._guard.sight is Sight.FOREIGN else [])]
        return max(self._stands_from, *(view.taking_time for view in views))

    @property
    def _stands_from(self) -> float:
        return self._stand_at if self._healthy else float("inf")

    @property
    def _asked_at(self) -> float:
        return min(view.asked_at for view in self._not_ours)

    @property
    def _may_hold(self) -> bool:
        return any(view.observer.may_hold for view in self._views)

    # Reading and judging.

    async def _look(self) -> None:
        """Read every lock that is not ours, and the guard."""
        for view in self._not_ours:
            await view.look()
        if self._guard is not None:
            try:
                await self._guard.look()
            except Refused as error:
                log.debug("not guarded by the other kind of lock: %s", error)
                self._guard = None

    def _on_sight(self, view: LockView) -> None:
        """Judge by what was just seen of a lock whether, and until when, we claim."""
        if view is self._guard:
            return
        observer, led = view.observer, self._leads(self._clock.now())
        if observer.from_predecessor:
            # Its application goes on, and may have been told a moment ago by the process before us that it leads.
            self._given_until = max(self._given_until, self._clock.now() + max(self.timing.renew_deadline, self.timing.belief))
        if view.sight is Sight.OURS:
            assert observer.ours is not None
            if self._renewed_at() > _NEVER:
                # Held are all: the claim counts from before the first of these writes.
                self._last_mark = observer.ours.mark
                self._claim_until = self._renewed_at() + self._claim_seconds()
        elif view.sight is not Sight.UNKNOWN or observer.rewound:
            # A foreign record, or a release that we did not write. What is merely lost is put back while the claim holds.
            self._claim_until = _NEVER
            if led and observer.usurped and not observer.rewound:
                log.error("another process writes this lock under our identity %s: standing down", self.identity)
        if observer.rewound:
            log.warning("the API server has lost part of its past (a restored etcd): starting over, with the full wait")
        if observer.odd_lease is not None and (self._odd_lease is None or observer.odd_lease < self._odd_lease):
            self._odd_lease = observer.odd_lease
            log.warning(
                "%s states a lease of %ss, ours is %ss: all candidates of an election should have the same ttl; "
                "claiming for %.3gs only",
                observer.holder,
                observer.odd_lease,
                lease_seconds(self.timing.ttl),
                self._claim_seconds(),
            )
        self._poke.set()

    def _claim_seconds(self) -> float:
        """How long a claim holds from before its renewal was sent (rule 2)."""
        if self._odd_lease is None:
            return self.timing.renew_deadline
        return min(self.timing.renew_deadline, min(self.timing.ttl, self._odd_lease) / 2)

    def _leads(self, now: float) -> bool:
        return self._claiming and now < self._claim_until

    # Writing.

    async def _renew(self) -> None:
        for view in self._views:
            base = view.observer.state
            if view.sight is Sight.OURS and base is not None:
                await view.put(base, self._hold_again())
            if view.sight is not Sight.OURS:
                await self._take_what_may_be_taken()
                return

    def _hold_again(self) -> Mark:
        mark = self._last_mark
        assert mark is not None
        return replace(mark, record=replace(mark.record, renewed=self._stamp()), token=max(mark.token, self._stored_token()))

    async def _acquire(self) -> None:
        """Compare-and-swap each lock in order, as far as that succeeds."""
        states = [state for view in self._views if (state := view.observer.state) is not None]
        old = next((state.record for state in reversed(states) if state.record is not None), None)
        transitions = 0
        if old is not None and old.holder != PLACEHOLDER:
            transitions = old.transitions + (old.holder != self.identity)
        token = 1 + max(max(state.token, state.revision) for state in states)
        for view, base in zip(self._views, states, strict=True):
            if self._terminating or self._release_at is not None or not self._healthy:
                return
            mark = self._acquiring(transitions, token)
            if view.lock.text_of(mark) == base.text:
                # Our predecessor acquired it within this very unit of time: every write changes the record (rule 3).
                mark = self._acquiring(transitions, token)
            await view.put(base, mark)
            if view.sight is not Sight.OURS:
                return

    def _acquiring(self, transitions: int, token: int) -> Mark:
        stamp = self._stamp()
        return Mark(Record(self.identity, lease_seconds(self.timing.ttl), stamp, stamp, transitions), token, self._instance)

    async def _release(self, held: list[LockView]) -> None:
        """Empty the holders (client-go's convention); whoever sees it may take over at once."""
        half = len(held) < len(self._views)
        for view in reversed(held):
            ours, base = view.observer.ours, view.observer.state
            if ours is not None and base is not None:
                record = replace(ours.mark.record, holder="", lease=1, renewed=self._stamp())
                await view.put(base, replace(ours.mark, record=record, token=max(ours.mark.token, self._stored_token())))
        if half and self._release_at is None:
            # Somebody else has the other half: let them finish, or run out.
            self._stand_at = max(self._stand_at, self._clock.now() + self._rng.uniform(0.5, 1.0) * self.timing.retry_period)

    def _gave_up(self) -> None:
        """Nothing of ours is left on the lock: a candidate like any other, unless terminating."""
        self._release_at = None
        self._claiming = not self._terminating
        self._claim_until = _NEVER

    async def _take_what_may_be_taken(self) -> None:
        """After a look: create what is missing, put back what we lost, or take what is free (rules 4, 6, 9 and 10)."""
        stands = self._clock.now() >= self._stands_from
        if stands or self._clock.now() < self._claim_until:
            await self._create_what_is_missing()
        await self._put_back_what_is_lost()
        if stands and all(view.may_be_taken for view in self._views) and not self._guarded():
            await self._acquire()

    async def _create_what_is_missing(self) -> None:
        for view in self._views:
            if view.sight is Sight.UNKNOWN and view.observer.state is None:
                # Held by nobody, but not free either: this process cannot know whether somebody led a moment ago.
                stamp = self._stamp()
                await view.create(Mark(Record(PLACEHOLDER, lease_seconds(self.timing.ttl), stamp, stamp, 0), 0, ""))

    async def _put_back_what_is_lost(self) -> None:
        for view in self._views:
            if view.sight is Sight.UNKNOWN and self._clock.now() < self._claim_until:
                await self._create_what_is_missing()
            state = view.observer.state
            # Asked again: creating takes time.
            if view.sight is Sight.UNKNOWN and state is not None and self._clock.now() < self._claim_until:
                log.warning("the lock's record was lost (%s): putting it back", state.malformed or "deleted")
                await view.put(state, self._hold_again())

    def _guarded(self) -> bool:
        """Whether somebody freshly holds the other kind of lock, which is being moved away from (rule 10)."""
        guard = self._guard
        return guard is not None and guard.sight is Sight.FOREIGN and not guard.may_be_taken

    def _stamp(self) -> str:
        """The time for a record: grows with every write, whatever the wall clock does (rule 3)."""
        self._last_stamp = max(int(self._clock.wall() * 1e6), self._last_stamp + time_unit(self.timing.ttl))
        return format_time(self._last_stamp, self.timing.ttl)

    # Telling.

    def _complain(self, complaint: str) -> None:
        """Log a trouble once, and once that it is over."""
        if complaint == self._complaint:
            return
        if complaint:
            log.warning("%s%s", complaint, "" if self.has_seen_lock else "; waiting for the API server")
        else:
            log.info("the API server answers again")
        self._complaint = complaint

    async def _announce(self) -> None:
        """Notice every change, also those that no message brings: a deadline that passes."""
        while True:
            self._poke.clear()
            self._announce_change()
            now = self._clock.now()
            times = [self._claim_until if self._claiming else _NEVER, *(view.observer.free_at for view in self._views)]
            await self._sleep(self._poke, min((time for time in times if time > now), default=now + self.timing.ttl))

    def _announce_change(self) -> None:
        view = self.view()
        state = (view.name, view.leading, view.token)
        if state == self._announced:
            return
        if self._announced is not None and view.name and view.name != self._announced[0]:
            self.stats.leader_changes += 1
        self._announced = state
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_change(view)

    async def _sleep(self, event: asyncio.Event, until: float) -> None:
        """Wait until the event is set or the local time has come; clears the event."""
        delay = until - self._clock.now()
        if delay > 0:
            try:
                async with asyncio.timeout(delay):
                    await event.wait()
            except TimeoutError:
                pass
        else:
            await asyncio.sleep(0)
        event.clear()
