"""What one process knows of one lock object, and since when by its own clock (rules 3 to 6 and 9 of `docs/election.md`).

No clock of another machine plays a part: a record counts from the moment this process received it, a write of our own from
the moment before it was sent.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from elector._lock import LockState, Mark
from elector._record import PLACEHOLDER, lease_seconds

__all__ = ["Observer", "Sight", "Write"]

_MOST_UNANSWERED = 8
"""Writes that are remembered while nobody knows whether they were carried out: those of two ttls."""


class Sight(enum.Enum):
    """What the lock, as last seen, means to this process."""

    UNSEEN = "not seen yet"
    OURS = "held by a write of this process"
    FREE = "released: free at once"
    FOREIGN = "held by somebody else (or by our name, written by another process)"
    UNKNOWN = "missing, without a record, malformed, or not to be trusted: free once the waiting time is over"


@dataclass(frozen=True, slots=True)
class Write:
    """A write of this process: to which state, when it was sent by its own clock, and what it says."""

    base: LockState
    mark: Mark
    text: str
    sent: float

    @property
    def holds(self) -> bool:
        """Whether it takes or keeps the lock; a release does not."""
        return self.mark.record.holder != ""

    def stands_in(self, state: LockState) -> bool:
        """Whether `state` is what this write made of its base."""
        return state.uid == self.base.uid and state.text == self.text and state.instance in (self.mark.instance, "")

    def may_still_land(self, state: LockState | None) -> bool:
        """Whether the write, unanswered so far, could be applied to `state` later: it compares uid and resourceVersion."""
        return state is not None and (state.uid, state.version) == (self.base.uid, self.base.version)


class Observer:
    """Follows one lock object; `saw` takes every state that a read, a reply or a watch brought.

    `free_at` is the local time from which the lock may be taken although nobody released it: when every claim that any record
    seen so far could stand for has ended.
    """

    def __init__(self, identity: str, instance: str, ttl: float) -> None:
        self._identity = identity
        self._instance = instance
        self._ttl = ttl
        # Seconds that the record seen before the present one stated; before any, our own ttl: there may have been one.
        self._former = ttl
        self._unanswered: list[Write] = []
        self._may_have_predecessor = True
        self.sight = Sight.UNSEEN
        self.state: LockState | None = None
        self.ours: Write | None = None
        self.seen_at = 0.0
        self.free_at = 0.0
        self.rewound = False
        self.odd_lease: int | None = None

    @property
    def holder(self) -> str:
        """The holder that the record names; empty when there is none or it is nobody's."""
        if self.state is None or self.state.record is None or self.state.record.holder == PLACEHOLDER:
            return ""
        return self.state.record.holder

    @property
    def may_hold(self) -> bool:
        """Whether the lock carries our hold, or an unanswered write of ours could still put it there."""
        return self.ours is not None or any(write.holds for write in self._unanswered)

    @property
    def usurped(self) -> bool:
        """Whether the lock carries our own name, written by another process."""
        return self.sight is Sight.FOREIGN and self.holder == self._identity

    @property
    def from_predecessor(self) -> bool:
        """Whether the record is of this very container before its restart: the kubelet ended it before it started us."""
        return self.usurped and self._may_have_predecessor and self.state is not None and self.state.instance == self._instance

    @property
    def last_sent(self) -> float:
        """When the last write that the lock carries, or may still carry, was sent; minus infinity when there is none."""
        writes = [*self._unanswered, *([self.ours] if self.ours is not None else [])]
        return max((write.sent for write in writes), default=float("-inf"))

    def sends(self, write: Write) -> None:
        """A write goes out now: until it is answered, the lock may turn out to carry it."""
        self._unanswered.append(write)
        # Should an older one turn up after all, it is taken for somebody else's: slower, but safe.
        del self._unanswered[:-_MOST_UNANSWERED]

    def certainly_failed(self, write: Write) -> None:
        """The write never left this machine, was refused, or changed nothing."""
        if write in self._unanswered:
            self._unanswered.remove(write)

    def saw(self, state: LockState | None, at: float) -> None:
        """Take in a state received at local time `at`; `state` is None when the object does not exist."""
        before, first = self.state, self.sight is Sight.UNSEEN
        self.rewound = _went_back(before, state)
        known = before is not None and state is not None and before.uid == state.uid and not self.rewound
        self.state = state
        write = None if self.rewound else self._own_write(state)
        self._unanswered = [one for one in self._unanswered if one is not write and one.may_still_land(state)]
        if write is not None and write.holds:
            self._may_have_predecessor = False
        if not first and not self.rewound and self._is_unchanged(before, state):
            return
        self.seen_at = at
        self.ours = write if write is not None and write.holds else None
        if self.ours is not None:
            self.sight, self._former = Sight.OURS, float(self.ours.mark.record.lease)
            return
        record = None if state is None else state.record
        if record is not None and record.holder == "" and (first or known):
            self.sight, self.free_at, self._former = Sight.FREE, at, self._ttl
            return
        if record is None or record.holder in ("", PLACEHOLDER):
            self.sight, stated = Sight.UNKNOWN, self._ttl
        else:
            self.sight, stated = Sight.FOREIGN, float(record.lease)
            self._note_lease(record.lease)
        # Never less than our own ttl: a holder whose record we missed may stand behind this one. And whoever was there before
        # may believe in its claim as long as its record said.
        self.free_at = max(self.free_at, at + max(stated, self._former, self._ttl))
        self._former = stated

    def _is_unchanged(self, before: LockState | None, state: LockState | None) -> bool:
        """Whether nobody can have held the lock between the two states.

        Every acquisition raises the token, and no two records of candidates read the same. Where nothing of that is left, as in
        a lock whose record somebody removes again and again, only an object that was not touched at all shows it.
        """
        if before is None or state is None:
            return before is state
        if (before.uid, before.text, before.instance, before.token) != (state.uid, state.text, state.instance, state.token):
            return False
        says_something = state.record is not None and state.record.holder != ""
        return says_something or self.sight is not Sight.UNKNOWN or before.version == state.version

    def _own_write(self, state: LockState | None) -> Write | None:
        """The write of this process that stands in `state`, be it confirmed or still unanswered."""
        if state is None:
            return None
        candidates = [*self._unanswered, *([self.ours] if self.ours is not None else [])]
        return next((write for write in candidates if write.stands_in(state)), None)

    def _note_lease(self, lease: int) -> None:
        """Remember the shortest lease of others that differs from ours, for as long as this process runs (rule 2)."""
        if lease != lease_seconds(self._ttl) and (self.odd_lease is None or lease < self.odd_lease):
            self.odd_lease = lease


def _went_back(before: LockState | None, state: LockState | None) -> bool:
    """Whether the API server's past is gone: the same object at a lower resourceVersion, as after an etcd restored."""
    return before is not None and state is not None and before.uid == state.uid and state.revision < before.revision
