"""A mirror of all objects of a kind that have a label: listed once, then watched. Of each only what is needed is kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from webhook.controller._errors import ClusterError, Expired
from webhook.controller._objects import Json, Kind, Objects

__all__ = ["Entry", "Key", "Store"]

Key = tuple[str, str]
"""Namespace and name."""

_PAUSE = 1.0
"""Seconds before a list or a watch that failed is tried again."""

log = logging.getLogger(__name__)


class Entry(Protocol):
    """What is kept of an object."""

    @property
    def revision(self) -> int:
        """Its resourceVersion: of two states of one object the one with the higher number is the later (KEP-5504)."""
        ...


T = TypeVar("T", bound=Entry)


class Store(Generic[T]):
    """The mirror. `changed` is called with key, former and new entry (None: there is none) after each change."""

    def __init__(
        self,
        objects: Objects,
        kind: Kind,
        selector: str,
        read: Callable[[Json], T | None],
        changed: Callable[[Key, T | None, T | None], None],
    ) -> None:
        """`read` gives what is kept of an object; None when it does not count."""
        self.kind = kind
        self.items: dict[Key, T] = {}
        self.listed = asyncio.Event()
        """Set from the first complete list on."""
        self._objects = objects
        self._selector = selector
        self._read = read
        self._changed = changed
        self._latest = 0
        self.listing = False
        """Whether a list is being taken in: what it lacks may have changed unseen before it was deleted."""

    def get(self, key: Key) -> T | None:
        return self.items.get(key)

    def put(self, found: Json, *, rewound: bool = False) -> None:
        """Take in a state of an object, from a watch, a list or the reply to a write."""
        key = _key(found)
        former, new = self.items.get(key), self._read(found)
        if former is not None and new is not None and new.revision <= former.revision and not rewound:
            return  # the reply to a write came first
        self._set(key, former, new)

    def drop(self, key: Key, revision: int, *, rewound: bool = False) -> None:
        """It was deleted, or lost its label, at that version."""
        former = self.items.get(key)
        if former is not None and (former.revision <= revision or rewound):
            self._set(key, former, None)

    async def run(self) -> None:
        """List and watch until cancelled, whatever the API server does."""
        version = ""
        complaint = ""
        while True:
            try:
                if not version:
                    version = await self._list()
                    self.listed.set()
                version = await self._watch(version)
                complaint = ""
            except Expired:
                version = ""
            except ClusterError as error:
                # Whatever it was: an API server that knows less than before, as after a restored etcd, refuses to watch on.
                version = ""
                if str(error) != complaint:
                    complaint = str(error)
                    log.warning("%s", complaint)
                await asyncio.sleep(_PAUSE)

    async def _list(self) -> str:
        """Take in all that there is, page by page; what is not among it is gone. Returns the version of the list."""
        self.listing = True
        try:
            return await self._take_list()
        finally:
            self.listing = False

    async def _take_list(self) -> str:
        seen: set[Key] = set()
        version, more = "", ""
        while True:
            page = await self._objects.page(self.kind, self._selector, more)
            # Pages continue the first one's version.
            version, more = version or page.version, page.more
            rewound = int(version) < self._latest
            for found in page.items:
                seen.add(_key(found))
                self.put(found, rewound=rewound)
            if not more:
                break
        for key in self.items.keys() - seen:
            # What was created after the list is told by the watch.
            self.drop(key, int(version), rewound=rewound)
        self._latest = int(version)
        return version

    async def _watch(self, version: str) -> str:
        async for change in self._objects.watch(self.kind, self._selector, version):
            version = str(change.object["metadata"]["resourceVersion"])
            self._latest = int(version)
            if change.bookmark:
                continue
            if change.gone:
                self.drop(_key(change.object), int(version))
            else:
                self.put(change.object)
        return version

    def _set(self, key: Key, former: T | None, new: T | None) -> None:
        if new is not None:
            self.items[key] = new
        elif former is not None:
            del self.items[key]
        if former is not None or new is not None:
            self._changed(key, former, new)


def _key(found: Json) -> Key:
    metadata = found["metadata"]
    return metadata["namespace"], metadata["name"]
