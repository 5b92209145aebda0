"""The label of the leading pod, so that a Service can select it. It follows the lock; no election depends on it."""

from __future__ import annotations

from collections.abc import Mapping

from webhook._marks import LEADER
from webhook.controller._elections import Election, Elections
from webhook.controller._events import Events
from webhook.controller._leader import Clock
from webhook.controller._locks import Lock
from webhook.controller._objects import PODS, Objects
from webhook.controller._pods import Candidate
from webhook.controller._store import Key, Store

__all__ = ["Labels"]


class Labels:
    """Settles one election at a time: the pod that leads has the label, and no other candidate."""

    def __init__(
        self,
        objects: Objects,
        elections: Elections,
        locks: Mapping[str, Store[Lock]],
        pods: Store[Candidate],
        events: Events,
        clock: Clock,
        *,
        own: Key,
    ) -> None:
        self._objects = objects
        self._elections = elections
        self._locks = locks
        self._pods = pods
        self._events = events
        self._clock = clock
        self._own = own
        self._told: dict[Key, str] = {}
        self.writes = 0
        """How often a label was written."""

    async def settle(self, key: Key) -> float | None:
        """Put the labels right; returns in how many seconds the leader is given up unless it renews. Raises `ClusterError`."""
        election = self._elections.get(key)
        if not election.candidates:
            self._told.pop(key, None)
            return None
        leader = self.leader(key, election) if key != self._own else ""
        # Off the others first: at no moment are there two.
        for name, candidate in list(election.candidates.items()):
            if candidate.labelled and name != leader:
                await self._label(key[0], name, candidate, leads=False)
        found = election.candidates.get(leader)
        if found is not None:
            if not found.labelled:
                await self._label(key[0], leader, found, leads=True)
            self._tell(key, leader, found)
            # A renewal moves that on, and is no reason to wake up by itself.
            return max(min(lock.free_at for lock in self._held(key, found)) - self._clock.now(), 0.01)
        return None

    def leader(self, key: Key, election: Election) -> str:
        """The candidate that all of its locks name; empty while there is none, or two differ."""
        now = self._clock.now()
        locks = {kind: store.get(key) for kind, store in self._locks.items()}
        names = {lock.holder(now) for lock in locks.values() if lock is not None} - {""}
        name = names.pop() if len(names) == 1 else ""
        found = election.candidates.get(name)
        if found is None or any((lock := locks[kind]) is None or lock.holder(now) != name for kind in found.kinds):
            return ""
        return name

    def _held(self, key: Key, candidate: Candidate) -> list[Lock]:
        return [lock for kind in candidate.kinds if (lock := self._locks[kind].get(key)) is not None]

    async def _label(self, namespace: str, name: str, candidate: Candidate, *, leads: bool) -> None:
        # The uid says which pod of that name is meant.
        body = {"metadata": {"uid": candidate.uid, "labels": {LEADER: "true" if leads else None}}}
        self.writes += 1
        found = await self._objects.patch(PODS, namespace, name, body, "status")
        if found is not None:
            self._pods.put(found)

    def _tell(self, key: Key, leader: str, candidate: Candidate) -> None:
        former = self._told.get(key)
        self._told[key] = leader
        if former is None or former == leader:
            return  # who led before this replica acted was told by another
        note = f"{leader} leads the election {key[1]} now, {former} did before."
        self._events.say(key[0], candidate.owner, "LeaderChanged", "Elect", note)
