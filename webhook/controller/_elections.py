"""The elections that there are, by their candidates, and who and what was wanted a moment ago."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from webhook.controller._pods import Candidate
from webhook.controller._store import Key

__all__ = ["Election", "Elections"]

What = Literal["account", "kind"]


class Election:
    """One election: its candidates by the names of their pods."""

    __slots__ = ("candidates", "lingering", "longest_ttl")

    def __init__(self) -> None:
        self.candidates: dict[str, Candidate] = {}
        self.lingering: dict[tuple[What, str], float] = {}
        """What no candidate needs any more, and since when (local time)."""
        self.longest_ttl = 0
        """Of all candidates that it has had, in seconds."""

    @property
    def accounts(self) -> set[str]:
        """The service accounts of its candidates."""
        return {one.account for one in self.candidates.values()}

    @property
    def kinds(self) -> set[str]:
        """The kinds of locks that its candidates use."""
        return {kind for one in self.candidates.values() for kind in one.kinds}

    def keep(self, what: What, there: Iterable[str], now: float, grace: float) -> set[str]:
        """What is to have rights: what candidates need, and what of `there` (has them now) they needed until less than `grace`
        seconds ago, or nobody knows until when."""
        needed = self.accounts if what == "account" else self.kinds
        unneeded = set(there) - needed
        for key in [key for key in self.lingering if key[0] == what and key[1] not in unneeded]:
            del self.lingering[key]
        return needed | {one for one in unneeded if now < self.lingering.setdefault((what, one), now) + grace}

    def due(self, now: float, grace: float) -> float | None:
        """In how many seconds the next thing has to go; None: nothing waits."""
        waits = [since + grace - now for since in self.lingering.values() if since + grace > now]
        return min(waits) if waits else None


class Elections:
    """All of them, by namespace and name."""

    def __init__(self) -> None:
        self._found: dict[Key, Election] = {}

    def __iter__(self) -> Iterator[Key]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: Key) -> Election:
        """The election; one without candidates when there is none of that name."""
        return self._found.get(key) or Election()

    def known(self, key: Key) -> Election:
        """The election, remembered from now on."""
        return self._found.setdefault(key, Election())

    def forget(self, key: Key) -> None:
        """Nothing is left of it."""
        found = self._found.get(key)
        if found is not None and not found.candidates:
            del self._found[key]

    def changed(self, pod: Key, former: Candidate | None, new: Candidate | None) -> set[Key]:
        """A pod has become `new`; returns the elections that this concerns."""
        namespace, name = pod
        concerned = set()
        if former is not None:
            key = (namespace, former.election)
            self.known(key).candidates.pop(name, None)
            concerned.add(key)
        if new is not None:
            key = (namespace, new.election)
            election = self.known(key)
            election.candidates[name] = new
            election.longest_ttl = max(election.longest_ttl, new.ttl)
            concerned.add(key)
        return concerned
