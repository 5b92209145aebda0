"""Rights: per election its lock, a Role limited to it, and a RoleBinding to its candidates' service accounts.

Rights are given only on locks with our label; a name that is taken earns none. They go before the lock does.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from webhook._marks import LOCK, role_name
from webhook.controller._elections import Election, Elections
from webhook.controller._errors import Conflict
from webhook.controller._events import Events
from webhook.controller._leader import Clock
from webhook.controller._locks import Lock, is_labelled, lock_to_create
from webhook.controller._objects import BINDINGS, LOCKS, ROLES, Json, Kind, Objects
from webhook.controller._roles import Binding, Role, binding_to_write, role_to_write
from webhook.controller._store import Key, Store

__all__ = ["Grants"]

_TAKEN_AGAIN = 30.0
"""Seconds after which a name that was taken is tried again: nobody tells when an object without our label goes."""

log = logging.getLogger(__name__)


class Grants:
    """Settles one election at a time: what is there becomes what has to be there."""

    def __init__(
        self,
        objects: Objects,
        elections: Elections,
        locks: Mapping[str, Store[Lock]],
        roles: Store[Role],
        bindings: Store[Binding],
        events: Events,
        clock: Clock,
        *,
        grace: float,
        own: Key,
    ) -> None:
        """`grace`: seconds for which rights and locks outlive the last pod that needs them. `own` is the controller's lock."""
        self._objects = objects
        self._elections = elections
        self._locks = locks
        self._roles = roles
        self._bindings = bindings
        self._events = events
        self._clock = clock
        self._grace = grace
        self._own = own
        self._past: dict[tuple[str, Key], tuple[Lock, bool]] = {}
        self.taken: set[Key] = set()
        """Elections with a name that somebody else's object has."""

    def lost(self, kind: str, key: Key, lock: Lock, *, certain: bool) -> None:
        """A lock was deleted, or lost its label. `certain`: `lock` is the last state that it had."""
        if self._elections.get(key).candidates:
            self._past[kind, key] = (lock, certain)

    async def settle(self, key: Key) -> float | None:
        """Do all that is due for an election; returns in how many seconds something will be. Raises `ClusterError`."""
        if key == self._own:
            # Whoever names an election so must not stand in the controller's.
            return self._tell_taken(key, LOCKS["endpoints"])
        election, now = self._elections.known(key), self._clock.now()
        grace = max(self._grace, election.longest_ttl)
        role, binding = self._roles.get(_rights(key)), self._bindings.get(_rights(key))
        created = {kind for kind, store in self._locks.items() if (lock := store.get(key)) is not None and lock.created}
        accounts = election.keep("account", (binding and binding.accounts) or (), now, grace)
        kinds = election.keep("kind", created | set((role and role.kinds) or ()), now, grace)
        taken = [kind for kind in sorted(election.kinds) if not await self._has_lock(key, kind, election)]
        granted = frozenset(kind for kind in kinds if self._locks[kind].get(key) is not None)
        if granted and accounts:
            free = await self._give_role(key, granted) and await self._give_binding(key, frozenset(accounts))
            taken += [] if free else ["roles"]
        else:
            await self._take_rights(key)
        waits = [election.due(now, grace)]
        waits += [await self._remove_lock(key, kind, grace) for kind in sorted(created - kinds)]
        self._tell_owners(key, election)
        if taken:
            self.taken.add(key)
            waits.append(_TAKEN_AGAIN)
            for kind in taken:
                self._tell_taken(key, LOCKS.get(kind, ROLES))
        else:
            self.taken.discard(key)
        if not election.candidates and not self._is_left(key):
            self._elections.forget(key)
            for kind in self._locks:
                self._past.pop((kind, key), None)
        return min((wait for wait in waits if wait is not None), default=None)

    # The lock

    async def _has_lock(self, key: Key, kind: str, election: Election) -> bool:
        """Whether there is a lock with our label, which is created where there is no object of that name."""
        store, (namespace, name) = self._locks[kind], key
        if store.get(key) is not None:
            return True
        past, certain = self._past.get((kind, key), (None, False))
        body = self._lock_body(key, kind, election, past, certain=certain)
        try:
            store.put(await self._objects.create(LOCKS[kind], namespace, body))
        except Conflict:
            found = await self._objects.read(LOCKS[kind], namespace, name)
            if found is None:
                raise
            if not is_labelled(found):
                return False
            store.put(found)
        else:
            log.info("%s %s/%s: %s", kind, namespace, name, "created" if past is None else "deleted by somebody, created again")
        self._past.pop((kind, key), None)
        return True

    def _lock_body(self, key: Key, kind: str, election: Election, past: Lock | None, *, certain: bool) -> Json:
        wall = self._clock.wall()
        if past is not None and certain:
            return lock_to_create(LOCKS[kind], key[1], past=past.past, wait=0, wall=wall)
        # Where there are rights there was a lock; where an elector has run, somebody may have led by one that nobody saw.
        unseen = past is not None or self._roles.get(_rights(key)) is not None
        unseen = unseen or any(one.may_lead for one in election.candidates.values())
        return lock_to_create(LOCKS[kind], key[1], past=None, wait=election.longest_ttl if unseen else 0, wall=wall)

    async def _remove_lock(self, key: Key, kind: str, grace: float) -> float | None:
        """Delete a lock that nobody needs any more and nobody uses; returns in how many seconds to look again."""
        lock = self._locks[kind].get(key)
        if lock is None:
            return None
        left = lock.seen_at + max(grace, lock.record.lease) - self._clock.now()
        if left > 0:
            return left
        await self._delete(LOCKS[kind], key, key[1], self._locks[kind], lock)
        # Not lost: the next one begins anew.
        self._past.pop((kind, key), None)
        return None

    # Rights

    async def _give_role(self, key: Key, kinds: frozenset[str]) -> bool:
        """Whether there is such a Role; false when the name is somebody else's."""
        role = self._roles.get(_rights(key))
        if role is not None and role.kinds == kinds:
            return True
        return await self._write(ROLES, key, role_to_write(key[1], kinds), self._roles, role)

    async def _give_binding(self, key: Key, accounts: frozenset[str]) -> bool:
        binding = self._bindings.get(_rights(key))
        if binding is not None and binding.accounts == accounts:
            return True
        if binding is not None and not binding.binds:
            # What it refers to cannot be changed.
            await self._delete(BINDINGS, key, role_name(key[1]), self._bindings, binding)
            binding = None
        return await self._write(BINDINGS, key, binding_to_write(key[0], key[1], accounts), self._bindings, binding)

    async def _take_rights(self, key: Key) -> None:
        binding, role = self._bindings.get(_rights(key)), self._roles.get(_rights(key))
        if binding is not None:
            await self._delete(BINDINGS, key, role_name(key[1]), self._bindings, binding)
        if role is not None:
            await self._delete(ROLES, key, role_name(key[1]), self._roles, role)

    async def _write(
        self, kind: Kind, key: Key, body: Json, store: Store[Role] | Store[Binding], former: Role | Binding | None
    ) -> bool:
        """Create it, or put it in the place of `former`; false when an object without our label has the name."""
        namespace, name = key[0], role_name(key[1])
        if former is not None:
            body["metadata"].update(uid=former.uid, resourceVersion=str(former.revision))
            store.put(await self._objects.replace(kind, namespace, name, body))
            log.info("%s %s/%s: put right", kind.name, namespace, name)
            return True
        try:
            store.put(await self._objects.create(kind, namespace, body))
        except Conflict:
            found = await self._objects.read(kind, namespace, name)
            if found is None or (found["metadata"].get("labels") or {}).keys() >= body["metadata"]["labels"].keys():
                raise  # its turn comes when it is known
            return False
        return True

    async def _delete(
        self, kind: Kind, key: Key, name: str, store: Store[Lock] | Store[Role] | Store[Binding], found: Lock | Role | Binding
    ) -> None:
        await self._objects.delete(kind, key[0], name, found.uid, str(found.revision))
        store.drop((key[0], name), found.revision)
        log.info("%s %s/%s: removed", kind.name, key[0], name)

    def _is_left(self, key: Key) -> bool:
        """Whether anything is there that has to go one day."""
        locks = [store.get(key) for store in self._locks.values()]
        rights = self._roles.get(_rights(key)) is not None or self._bindings.get(_rights(key)) is not None
        return rights or any(lock is not None and lock.created for lock in locks)

    # Telling

    def _tell_taken(self, key: Key, kind: Kind) -> float | None:
        election = self._elections.get(key)
        name = role_name(key[1]) if kind is ROLES else key[1]
        advice = f"label it {LOCK}=true if it is to be the lock, or choose" if kind is not ROLES else "remove it, or choose"
        note = f"{kind.name} {name} is not this election's: no rights are given. Please {advice} another leader-election/name."
        for pod, candidate in election.candidates.items():
            self._events.say(key[0], Events.of_pod(pod, candidate.uid), "NameTaken", "Grant", note, warning=True)
        return _TAKEN_AGAIN if election.candidates else None

    def _tell_owners(self, key: Key, election: Election) -> None:
        owners = {one.owner.lasting: one.owner for one in election.candidates.values()}
        if len(owners) < 2:
            return
        names = ", ".join(sorted(owners)[:5])
        note = f"Candidates of the election {key[1]} have different owners: {names}. Is that meant?"
        for owner in owners.values():
            self._events.say(key[0], owner, "DifferentOwners", "Grant", note, warning=True)


def _rights(key: Key) -> Key:
    """Where an election's Role and RoleBinding are."""
    return key[0], role_name(key[1])
