"""A simulated API server: an Endpoints object and a Lease, under the real one's rules for writes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from elector._transport import Response

__all__ = ["ENDPOINTS", "LEASES", "ApiServer"]


ENDPOINTS, LEASES = "endpoints", "leases"

Deliver = Callable[[bytes | None], None]


class ApiServer:
    """Answers requests at once; the network around it makes them late, lost or double. One object of each kind."""

    def __init__(self) -> None:
        self.revision = 100
        self.uids = 0
        self.objects: dict[str, dict[str, Any]] = {}
        self.up = True
        self.compacted = 0
        self.watchers: list[tuple[str, Deliver]] = []
        self._events: list[tuple[int, str, bytes]] = []

    @property
    def object(self) -> dict[str, Any] | None:
        """The Endpoints object."""
        return self.objects.get(ENDPOINTS)

    def handle(self, method: str, path: str, body: bytes | None) -> Response:
        """One request, as https://kubernetes.io/docs/reference/using-api/api-concepts/ has it."""
        kind = _kind(path)
        here = self.objects.get(kind)
        if method == "GET":
            return _found(here) if here is not None else _status(404, "NotFound")
        sent = json.loads(body or b"{}")
        if method == "POST":
            if here is not None:
                return _status(409, "AlreadyExists")
            return self._store(kind, sent, self._new_uid(), 201)
        uid, version = sent["metadata"].get("uid"), sent["metadata"].get("resourceVersion")
        if here is None:
            # An object may be created by PUT; only a uid prevents it.
            return _status(409, "Conflict") if uid else self._store(kind, sent, self._new_uid(), 201)
        metadata = here["metadata"]
        if (uid and uid != metadata["uid"]) or (version and version != metadata["resourceVersion"]):
            return _status(409, "Conflict")
        if _content(sent) == _content(here):
            return _found(here)
        return self._store(kind, sent, metadata["uid"], 200)

    # Watching.

    def watch(self, path: str, since: int, deliver: Deliver) -> bytes | None:
        """Deliver every event after `since`, then each new one, and None at the end. Returns an ERROR event when too old."""
        if since < self.compacted:
            return json.dumps({"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}}).encode()
        kind = _kind(path)
        for revision, of, line in self._events:
            if revision > since and of == kind:
                deliver(line)
        self.watchers.append((kind, deliver))
        return None

    def unwatch(self, deliver: Deliver) -> None:
        self.watchers = [watcher for watcher in self.watchers if watcher[1] is not deliver]

    def end_watches(self) -> None:
        watchers, self.watchers = self.watchers, []
        for _, deliver in watchers:
            deliver(None)

    def compact(self) -> None:
        """Forget all events so far: whoever watches from before now is told that it is too late."""
        self.compacted = self.revision
        self._events.clear()

    def _tell(self, event: str, kind: str, body: dict[str, Any]) -> None:
        line = json.dumps({"type": event, "object": body}).encode()
        self._events.append((self.revision, kind, line))
        if len(self._events) > 200:
            self.compacted = self._events[99][0]
            del self._events[:100]
        for of, deliver in self.watchers:
            if of == kind:
                deliver(line)

    # What others do to the objects.

    def delete(self, kind: str = ENDPOINTS) -> None:
        last = self.objects.pop(kind, None)
        self.revision += 1
        if last is not None:
            self._tell("DELETED", kind, {**last, "metadata": {**last["metadata"], "resourceVersion": str(self.revision)}})

    def overwrite(self, annotation: str, text: str | None) -> None:
        """A stranger writes the record of the Endpoints object, or removes it."""
        if self.object is None:
            return
        changed = copy.deepcopy(self.object)
        annotations = changed["metadata"].setdefault("annotations", {})
        if text is None:
            annotations.pop(annotation, None)
        else:
            annotations[annotation] = text
        self._store(ENDPOINTS, changed, changed["metadata"]["uid"], 200)

    def overwrite_lease(self, spec: dict[str, Any]) -> None:
        """A stranger writes the spec of the Lease."""
        lease = self.objects.get(LEASES)
        if lease is not None:
            self._store(LEASES, {**lease, "spec": spec}, None, 200)

    def touch(self) -> None:
        """A Service's controller changes the addresses of the Endpoints object."""
        if self.object is not None:
            subsets = [{"addresses": [{"ip": f"10.0.0.{self.revision % 200}"}]}]
            self._store(ENDPOINTS, {**self.object, "subsets": subsets}, None, 200)

    def _new_uid(self) -> str:
        self.uids += 1
        return f"uid-{self.uids}"

    def _store(self, kind: str, sent: dict[str, Any], uid: str | None, status: int) -> Response:
        self.revision += 1
        metadata = {**sent["metadata"], "resourceVersion": str(self.revision)}
        if uid is not None:
            metadata["uid"] = uid
        stored = self.objects[kind] = {**sent, "metadata": metadata}
        self._tell("MODIFIED" if status == 200 else "ADDED", kind, stored)
        return Response(status, json.dumps(stored).encode())


def _kind(path: str) -> str:
    return LEASES if "/leases" in path else ENDPOINTS


def _found(body: dict[str, Any] | None) -> Response:
    return Response(200, json.dumps(body).encode())


def _content(sent: dict[str, Any]) -> dict[str, Any]:
    metadata = {key: value for key, value in sent["metadata"].items() if key not in ("resourceVersion", "uid")}
    return {**sent, "metadata": metadata}


def _status(code: int, reason: str) -> Response:
    return Response(code, json.dumps({"kind": "Status", "code": code, "reason": reason, "message": reason}).encode())
