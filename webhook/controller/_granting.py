"""Grants and labels at work: mirrors of what there is, and workers that settle each election that something happened to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from webhook._marks import GRANT, LOCK, election_of
from webhook.controller._elections import Elections
from webhook.controller._events import Events
from webhook.controller._grants import Grants
from webhook.controller._labels import Labels
from webhook.controller._leader import Clock
from webhook.controller._locks import Lock, lock_of
from webhook.controller._objects import BINDINGS, LOCKS, PODS, ROLES, Json, Kind, Objects
from webhook.controller._pods import SELECTOR, Candidate, candidate_of
from webhook.controller._queue import WorkQueue
from webhook.controller._roles import Binding, Role, binding_of, role_of
from webhook.controller._store import Key, Store

__all__ = ["LEFT_OUT", "Granting"]

LEFT_OUT = ("kube-system", "kube-node-lease")
"""Namespaces in which nothing is injected and nothing is created: their Leases are the cluster's own."""

_GRANTERS = 32
_LABELLERS = 8
"""Elections that are settled at the same time: the API server takes a tenth of a second for a RoleBinding, most of it waiting."""

log = logging.getLogger(__name__)


class Granting:
    """All of it, for as long as this replica leads. It knows nothing when it starts, and remembers nothing."""

    def __init__(
        self,
        objects: Objects,
        clock: Clock,
        *,
        grace: float,
        own: Key,
        instance: str,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        """`grace` in seconds; `own` is the lock of the controller's election, `instance` the name of this replica."""
        self._clock = clock
        self._own = own
        self.elections = Elections()
        self.locks = {name: self._store_of_locks(objects, kind) for name, kind in LOCKS.items()}
        self.roles: Store[Role] = Store(objects, ROLES, f"{GRANT}=true", role_of, self._right_changed)
        self.bindings: Store[Binding] = Store(objects, BINDINGS, f"{GRANT}=true", binding_of, self._right_changed)
        self.pods: Store[Candidate] = Store(objects, PODS, SELECTOR, _candidate, self._pod_changed)
        self._events = Events(objects, clock, instance)
        self.grants = Grants(
            objects, self.elections, self.locks, self.roles, self.bindings, self._events, clock, grace=grace, own=own
        )
        self.labels = Labels(objects, self.elections, self.locks, self.pods, self._events, clock, own=own)
        self._grants_due: WorkQueue[Key] = WorkQueue(self.grants.settle, _GRANTERS, failed)
        self._labels_due: WorkQueue[Key] = WorkQueue(self.labels.settle, _LABELLERS, failed)
        self.ready = asyncio.Event()
        """Set when all that there is has been seen, and is being settled."""

    async def run(self) -> None:
        """Work until cancelled, whatever the API server does."""
        stores: list[Store[Any]] = [*self.locks.values(), self.roles, self.bindings, self.pods]
        async with asyncio.TaskGroup() as group:
            for store in stores:
                group.create_task(store.run())
            group.create_task(self._events.run())
            for store in stores:
                await store.listed.wait()
            # Not before: what was not seen yet would be created a second time.
            group.create_task(self._grants_due.run())
            group.create_task(self._labels_due.run())
            self.ready.set()
            log.info("grants: %d elections, %d pods", len(self.elections), len(self.pods.items))
            await self._grants_due.until_idle()
            log.info("grants: settled")

    def _store_of_locks(self, objects: Objects, kind: Kind) -> Store[Lock]:
        return Store(
            objects,
            kind,
            f"{LOCK}=true",
            lambda found: lock_of(kind, found, self._clock.now()),
            partial(self._lock_changed, kind.plural),
        )

    def _pod_changed(self, pod: Key, former: Candidate | None, new: Candidate | None) -> None:
        for key in self.elections.changed(pod, former, new):
            if former is None or new is None or former.election != new.election:
                self._grants_due.add(key)
            if new is None or former is None or former.labelled != new.labelled:
                self._labels_due.add(key)

    def _lock_changed(self, kind: str, key: Key, former: Lock | None, new: Lock | None) -> None:
        if key[0] in LEFT_OUT or key == self._own:
            return
        if former is not None and new is None:
            self.grants.lost(kind, key, former, certain=not self.locks[kind].listing)
        if former is None or new is None:
            self._grants_due.add(key)
        # Renewals, which are most of what happens, change nothing here.
        if former is None or new is None or former.record.holder != new.record.holder:
            self._labels_due.add(key)

    def _right_changed(self, key: Key, former: Role | Binding | None, new: Role | Binding | None) -> None:
        election = election_of(key[1])
        if election and key[0] not in LEFT_OUT:
            self._grants_due.add((key[0], election))


def _candidate(pod: Json) -> Candidate | None:
    return None if pod["metadata"]["namespace"] in LEFT_OUT else candidate_of(pod)
