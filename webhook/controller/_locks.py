"""Lock objects as the controller sees and creates them. It never writes one that there is: that is the candidates' part."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from elector.library import INSTANCE, PLACEHOLDER, RECORD, TOKEN, Malformed, Record, format_time, parse_record
from webhook._findings import part
from webhook._marks import ELECTION, LOCK
from webhook.controller._objects import ENDPOINTS, Json, Kind

__all__ = ["Lock", "is_labelled", "lock_of", "lock_to_create"]

_COARSE = 10.0
"""A ttl whose records have whole seconds."""

_NOBODY = Record("", 1, "", "", 0)


@dataclass(frozen=True, slots=True)
class Lock:
    """A labelled lock, and since when its state is known."""

    revision: int
    uid: str
    created: bool
    """Whether the controller created it; else a person gave it the label."""
    record: Record
    """Of nobody, when there is none or it cannot be read."""
    seen_at: float
    """The local time at which this state was received."""
    past: Json = field(repr=False)
    """What of it a successor is to have: annotations and spec."""

    @property
    def free_at(self) -> float:
        """The local time at which its holder, if any, has to be given up unless something comes."""
        return self.seen_at + self.record.lease

    def holder(self, now: float) -> str:
        """Who holds it as far as is known; empty for nobody."""
        return "" if self.record.holder == PLACEHOLDER or now >= self.free_at else self.record.holder


def is_labelled(found: Json) -> bool:
    """Whether it is a lock on which rights may be given."""
    return part(found, "metadata", "labels").get(LOCK) == "true"


def lock_of(kind: Kind, found: Json, now: float) -> Lock:
    """What is kept of a labelled lock that was received at the local time `now`."""
    metadata = found["metadata"]
    annotations = {key: value for key, value in part(metadata, "annotations").items() if key in (RECORD, TOKEN, INSTANCE)}
    spec = {} if kind is ENDPOINTS else part(found, "spec")
    try:
        record = parse_record(annotations[RECORD]) if kind is ENDPOINTS else _record_of(spec)
    except (Malformed, KeyError):
        record = _NOBODY
    return Lock(
        revision=int(metadata["resourceVersion"]),
        uid=metadata["uid"],
        created=part(metadata, "annotations").get(ELECTION) == metadata["name"],
        record=record,
        seen_at=now,
        past={"annotations": annotations, **({"spec": spec} if spec else {})},
    )


def _record_of(spec: dict[str, Any]) -> Record:
    holder, lease = spec.get("holderIdentity"), spec.get("leaseDurationSeconds")
    if not isinstance(holder, str) or not isinstance(lease, int):
        raise Malformed("the Lease has no holder yet")
    return Record(holder, lease, str(spec.get("acquireTime") or ""), str(spec.get("renewTime") or ""), 0)


def lock_to_create(kind: Kind, name: str, *, past: Json | None, wait: int, wall: float) -> Json:
    """The body of a lock that is to be created, at the time `wall` (seconds since 1970).

    `past` is the last that is known of a former one. Without that it is held by nobody for `wait` seconds; 0: it is free at once.
    """
    body: Json = {"metadata": {"name": name, "labels": {LOCK: "true"}, "annotations": {ELECTION: name}}}
    annotations = body["metadata"]["annotations"]
    if past is not None:
        annotations.update(past["annotations"])
        if "spec" in past:
            body["spec"] = past["spec"]
        return body
    time = format_time(int(wall * 1e6), _COARSE)
    record = Record(PLACEHOLDER if wait else "", max(wait, 1), time, time, 0)
    if kind is ENDPOINTS:
        annotations[RECORD] = record.to_json()
    else:
        fine = time.replace("Z", ".000000Z")
        body["spec"] = {
            "holderIdentity": record.holder,
            "leaseDurationSeconds": record.lease,
            "acquireTime": fine,
            "renewTime": fine,
            "leaseTransitions": 0,
        }
    return body
