"""An API server in memory for grants and labels: it compares uids and versions, selects by labels, and tells those who watch."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import AsyncGenerator
from typing import Any

from webhook.controller._errors import ClusterError, Conflict, Expired, Refused
from webhook.controller._objects import Change, Json, Kind, Page

__all__ = ["FakeObjects", "pod"]


class FakeObjects:
    """What `Objects` promises. Every call gives others a chance to run, before it takes effect."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, str, str], Json] = {}
        self.writes: list[str] = []
        self.down = False
        self.refuse: set[str] = set()
        """Writes, such as `create roles`, that a policy refuses."""
        self._version = itertools.count(101)
        self._last = 100
        self._watchers: list[tuple[Kind, str, asyncio.Queue[Change | None]]] = []

    # What a person does.

    def put(self, kind: Kind, namespace: str, body: Json) -> Json:
        """Create or change an object, whoever it belongs to."""
        key = (kind.plural, namespace, body["metadata"]["name"])
        former = self.stored.get(key)
        new = copy.deepcopy(body)
        metadata = new["metadata"]
        metadata.update(namespace=namespace, resourceVersion=self._next())
        metadata["uid"] = former["metadata"]["uid"] if former else f"uid-{metadata['resourceVersion']}"
        self.stored[key] = new
        self._tell(kind, former, new)
        return copy.deepcopy(new)

    def remove(self, kind: Kind, namespace: str, name: str) -> None:
        """Delete an object."""
        former = self.stored.pop((kind.plural, namespace, name))
        self._tell(kind, former, None)

    def remove_unseen(self, kind: Kind, namespace: str, name: str) -> None:
        """Delete an object while no watch is open; each then has to list again."""
        self.end_watches()
        del self.stored[kind.plural, namespace, name]
        self._next()

    def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        found = self.stored.get((kind.plural, namespace, name))
        return copy.deepcopy(found)

    def end_watches(self) -> None:
        """As an API server that is restarted."""
        for _, _, queue in self._watchers:
            queue.put_nowait(None)

    # What the controller does.

    async def read(self, kind: Kind, namespace: str, name: str) -> Json | None:
        await self._reached("read", kind)
        return self.get(kind, namespace, name)

    async def create(self, kind: Kind, namespace: str, body: Json) -> Json:
        await self._reached("create", kind)
        if (kind.plural, namespace, body["metadata"]["name"]) in self.stored:
            raise Conflict("exists")
        self.writes.append(f"create {kind.plural}")
        return self.put(kind, namespace, body)

    async def replace(self, kind: Kind, namespace: str, name: str, body: Json) -> Json:
        await self._reached("replace", kind)
        former = self.stored.get((kind.plural, namespace, name))
        wanted = body["metadata"]
        if former is None or any(former["metadata"][key] != wanted[key] for key in ("uid", "resourceVersion")):
            raise Conflict("changed")
        self.writes.append(f"replace {kind.plural}")
        return self.put(kind, namespace, body)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str, version: str) -> None:
        await self._reached("delete", kind)
        former = self.stored.get((kind.plural, namespace, name))
        if former is None:
            return
        if former["metadata"]["uid"] != uid or former["metadata"]["resourceVersion"] != version:
            raise Conflict("changed")
        self.writes.append(f"delete {kind.plural}")
        self.remove(kind, namespace, name)

    async def patch(self, kind: Kind, namespace: str, name: str, body: Json, part: str = "") -> Json | None:
        await self._reached("patch", kind)
        former = self.get(kind, namespace, name)
        if former is None:
            return None
        if body.get("metadata", {}).get("uid", former["metadata"]["uid"]) != former["metadata"]["uid"]:
            raise Conflict("another of that name")
        self.writes.append(f"patch {kind.plural}")
        return self.put(kind, namespace, _merged(former, body))

    async def page(self, kind: Kind, selector: str, more: str = "") -> Page:
        await self._reached("list", kind)
        found = [body for (plural, _, _), body in sorted(self.stored.items()) if plural == kind.plural and _has(body, selector)]
        begin = int(more or 0)
        return Page(copy.deepcopy(found[begin : begin + 2]), str(self._last), str(begin + 2) if begin + 2 < len(found) else "")

    async def watch(self, kind: Kind, selector: str, version: str) -> AsyncGenerator[Change, None]:
        await self._reached("watch", kind)
        if int(version) != self._last:
            # Something happened between list and watch, which this one does not keep.
            raise Expired("too old for a fake")
        queue: asyncio.Queue[Change | None] = asyncio.Queue()
        watcher = (kind, selector, queue)
        self._watchers.append(watcher)
        try:
            while (change := await queue.get()) is not None:
                yield change
        finally:
            self._watchers.remove(watcher)

    async def _reached(self, what: str, kind: Kind) -> None:
        await asyncio.sleep(0)
        if self.down:
            raise ClusterError("no reply within 5 s")
        if f"{what} {kind.plural}" in self.refuse:
            raise Refused(f"{what} {kind.plural}: denied", 422)

    def _next(self) -> str:
        self._last = next(self._version)
        return str(self._last)

    def _tell(self, kind: Kind, former: Json | None, new: Json | None) -> None:
        version = new["metadata"]["resourceVersion"] if new else self._next()
        for watched, selector, queue in self._watchers:
            if watched is not kind:
                continue
            before, after = former is not None and _has(former, selector), new is not None and _has(new, selector)
            if after:
                queue.put_nowait(Change(False, copy.deepcopy(new or {})))
            elif before and former is not None:
                # As the API server has it: its last state, at the version at which it went.
                gone = copy.deepcopy(former)
                gone["metadata"]["resourceVersion"] = version
                queue.put_nowait(Change(True, gone))


def _has(body: Json, selector: str) -> bool:
    key, equals, value = selector.partition("=")
    labels = body["metadata"].get("labels") or {}
    return labels.get(key) == value if equals else key in labels


def _merged(former: Any, change: Any) -> Any:
    """A merge patch (RFC 7396)."""
    if not isinstance(change, dict):
        return change
    result = dict(former) if isinstance(former, dict) else {}
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def pod(name: str, *, election: str = "orders.leader", account: str = "default", lock: str = "endpoints", **more: Any) -> Json:
    """An injected pod. `more`: `owner`, `ttl`, `phase`, `labels`."""
    args = [f"--election={election}", f"--ttl={more.get('ttl', '10s')}"] + ([f"--lock={lock}"] if lock != "endpoints" else [])
    owner = more.get("owner")
    return {
        "metadata": {
            "name": name,
            "labels": {"leader-election/injected": "native", **more.get("labels", {})},
            "ownerReferences": [{**owner, "controller": True}] if owner else [],
        },
        "spec": {
            "serviceAccountName": account,
            "initContainers": [{"name": "leader-elector", "args": args}],
            "containers": [{"name": "app"}],
        },
        "status": {"phase": more.get("phase", "Pending")},
    }
