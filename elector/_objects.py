"""The two kinds of object that can be a lock: an Endpoints object, as the original has it, and a Lease.

Both carry the fencing token and the holder's instance in annotations; the record itself stands in an annotation of the Endpoints
object, and in the `spec` of the Lease.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
from collections.abc import AsyncGenerator
from typing import Any

from elector._durations import format_duration
from elector._errors import OutcomeUnknown, WatchRefused
from elector._lock import Conflict, LockState, Mark, Refused
from elector._record import Malformed, Record, parse_record
from elector._transport import Response, Transport

__all__ = ["INSTANCE", "RECORD", "TOKEN", "EndpointsLock", "LeaseLock"]

log = logging.getLogger("elector")

RECORD = "control-plane.alpha.kubernetes.io/leader"
TOKEN = "leader-election/token"
INSTANCE = "leader-election/holder-instance"

_WATCH_SECONDS = 1800
"""After this long, up to twice as long, the API server ends a watch and it is opened anew, at different times for each."""


class _ObjectLock:
    """What the two kinds have in common: the requests. See `Lock`."""

    kind = ""
    _api = ""
    _identification: dict[str, str]

    def __init__(self, transport: Transport, namespace: str, name: str) -> None:
        self._transport = transport
        self._name = name
        self._collection = f"{self._api}/namespaces/{namespace}/{self.kind}"
        self._path = f"{self._collection}/{name}"
        self._warned = False

    def text_of(self, mark: Mark) -> str:
        raise NotImplementedError

    def _put_record(self, body: dict[str, Any], mark: Mark) -> None:
        """Write the record into a body that is being made; its metadata is already a copy."""
        raise NotImplementedError

    def _record_text(self, body: dict[str, Any]) -> str | None:
        """The record as it stands in an object of the API server; None when there is none."""
        raise NotImplementedError

    async def read(self, timeout: float) -> LockState | None:
        response = await self._transport.request("GET", self._path, timeout=timeout)
        if response.status == 404:
            return None
        return self._state(self._checked(response, f"GET {self._path}"))

    async def watch(self, since: LockState, timeout: float) -> AsyncGenerator[LockState | None, None]:
        # One object, by field selector: that is what a Role limited by resourceNames allows.
        seconds = _WATCH_SECONDS + random.randrange(_WATCH_SECONDS)
        selector = f"fieldSelector=metadata.name%3D{self._name}"
        path = f"{self._collection}?watch=true&{selector}&resourceVersion={since.version}&timeoutSeconds={seconds}"
        async with contextlib.aclosing(self._transport.watch(path, timeout=timeout)) as lines:
            async for line in lines:
                kind, body = _event(line)
                if kind == "DELETED":
                    yield None
                elif kind in ("ADDED", "MODIFIED"):
                    yield self._state(body)

    async def create(self, mark: Mark, timeout: float) -> LockState:
        return await self._write("POST", self._collection, {"metadata": {"name": self._name}}, mark, mark.token, timeout)

    async def replace(self, base: LockState, mark: Mark, timeout: float) -> LockState:
        # With two locks the token may come from the other one. Policies for candidates see one object only, and bound what one
        # write may add by that; the next renewal catches up, since any version of this one is then later than all read before.
        token = min(mark.token, max(base.token, base.revision) + 1)
        return await self._write("PUT", self._path, base.raw, mark, token, timeout)

    async def _write(self, method: str, path: str, base: dict[str, Any], mark: Mark, token: int, timeout: float) -> LockState:
        metadata = dict(base["metadata"])
        annotations = dict(metadata.get("annotations") or {})
        if token:
            annotations[TOKEN] = str(token)
        if mark.instance:
            annotations[INSTANCE] = mark.instance
        body = {**base, **self._identification, "metadata": metadata}
        metadata["annotations"] = annotations
        self._put_record(body, mark)
        # ?timeout bounds the API server's own work, so that a write cannot be applied much later than we waited for it.
        response = await self._transport.request(
            method, f"{path}?timeout={format_duration(timeout)}", json.dumps(body).encode(), timeout=timeout
        )
        return self._state(self._checked(response, f"{method} {path}"))

    def _checked(self, response: Response, what: str) -> dict[str, Any]:
        """The object in a reply. Raises by the status; 5xx leaves open whether a write was carried out."""
        status = response.status
        if 200 <= status < 300:
            if not self._warned and "warning" in response.headers:
                self._warned = True
                log.info("the API server says of the lock: %s", response.headers["warning"][:300])
            try:
                body = json.loads(response.body)
            except ValueError as error:
                raise OutcomeUnknown(f"{what}: the reply is not JSON") from error
            if not isinstance(body, dict) or not isinstance(body.get("metadata"), dict):
                raise OutcomeUnknown(f"{what}: the reply is not an object of the API")
            return body
        reason = f"{what}: {status} {_message(response.body)}".rstrip()
        # A PUT to an object that is gone answers 404 or 409 (uid precondition), depending on the resource; a POST answers 404
        # when the namespace is missing.
        if status == 409 or (status == 404 and what.startswith("PUT")):
            raise Conflict(reason)
        if status >= 500:
            raise OutcomeUnknown(reason)
        raise Refused(reason, status)

    def _state(self, body: dict[str, Any]) -> LockState:
        metadata = body["metadata"]
        annotations = metadata.get("annotations") or {}
        text = self._record_text(body)
        record: Record | None = None
        malformed = ""
        if text is not None:
            try:
                record = parse_record(text)
            except Malformed as error:
                malformed = str(error)
        token = annotations.get(TOKEN, "")
        return LockState(
            uid=metadata.get("uid", ""),
            version=metadata.get("resourceVersion", ""),
            text=text,
            record=record,
            malformed=malformed,
            token=int(token) if token.isascii() and token.isdigit() and len(token) <= 18 else 0,
            instance=annotations.get(INSTANCE, ""),
            raw=body,
        )


class EndpointsLock(_ObjectLock):
    """The original's lock: an annotation of an Endpoints object (core/v1)."""

    kind = "endpoints"
    _api = "/api/v1"
    _identification = {"apiVersion": "v1", "kind": "Endpoints"}  # noqa: RUF012 - a constant

    def text_of(self, mark: Mark) -> str:
        return mark.record.to_json()

    def _put_record(self, body: dict[str, Any], mark: Mark) -> None:
        body["metadata"]["annotations"][RECORD] = mark.record.to_json()

    def _record_text(self, body: dict[str, Any]) -> str | None:
        text = (body["metadata"].get("annotations") or {}).get(RECORD)
        return text if isinstance(text, str) else None


class LeaseLock(_ObjectLock):
    """A Lease: https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/lease-v1/, client-go's present lock."""

    kind = "leases"
    _api = "/apis/coordination.k8s.io/v1"
    _identification = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}  # noqa: RUF012 - a constant

    def text_of(self, mark: Mark) -> str:
        return json.dumps(_record_of(_spec_of(mark.record)))

    def _put_record(self, body: dict[str, Any], mark: Mark) -> None:
        body["spec"] = {**(body.get("spec") or {}), **_spec_of(mark.record)}

    def _record_text(self, body: dict[str, Any]) -> str | None:
        spec = body.get("spec")
        # A Lease that nobody has held yet has no holder at all; a released one has an empty one.
        if not isinstance(spec, dict) or "holderIdentity" not in spec:
            return None
        return json.dumps(_record_of(spec))


def _spec_of(record: Record) -> dict[str, Any]:
    return {
        "holderIdentity": record.holder,
        "leaseDurationSeconds": record.lease,
        "acquireTime": _micro_time(record.acquired),
        "renewTime": _micro_time(record.renewed),
        "leaseTransitions": record.transitions,
    }


def _record_of(spec: dict[str, Any]) -> dict[str, Any]:
    """A Lease's spec as the original's record, which names one field differently."""
    names = ("holderIdentity", "leaseDurationSeconds", "acquireTime", "renewTime")
    return {**{name: spec.get(name) for name in names}, "leaderTransitions": spec.get("leaseTransitions")}


def _micro_time(text: str) -> str | None:
    """A time of a record as the API's MicroTime is written, with all six digits; None for no time."""
    if not text:
        return None
    return text if "." in text else text.replace("Z", ".000000Z")


def _event(line: bytes) -> tuple[str, dict[str, Any]]:
    """Kind and object of one watch event. Raises `WatchRefused` for an ERROR event, `OutcomeUnknown` for what is none."""
    try:
        event = json.loads(line)
        kind, body = event["type"], event["object"]
    except (ValueError, TypeError, KeyError) as error:
        raise OutcomeUnknown("watch: a line is not an event of the API") from error
    if kind == "ERROR":
        code = body.get("code")
        raise WatchRefused(f"watch: {body.get('message', '')}"[:300], code if isinstance(code, int) else 500)
    return kind, body


def _message(body: bytes) -> str:
    """The message of a `Status` reply, cut short."""
    try:
        status = json.loads(body)
    except ValueError:
        return ""
    message = status.get("message") if isinstance(status, dict) else None
    return message[:300] if isinstance(message, str) else ""
