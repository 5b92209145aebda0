"""The leader election record: the JSON that the original and client-go keep in an annotation.

Its times are for people. Nothing here or elsewhere decides by them: a candidate judges a record by its own clock, from the
moment it received it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

__all__ = ["PLACEHOLDER", "Malformed", "Record", "format_time", "lease_seconds", "parse_record", "time_unit"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

LONGEST_LEASE = 3600
"""Seconds. A record that claims more than this is no record: it would lock everybody out (client-go writes 15 to 137)."""

PLACEHOLDER = "leader-election/placeholder"
"""The holder of a lock object that has just been created: nobody. No pod can have this name (it has a slash), so candidates
wait the record out like any other and name nobody meanwhile."""

_MOST_TRANSITIONS = 2**31 - 2
"""Go reads the number into an int, of 32 bits on some machines; one more has to fit."""

_FINE_TTL = 5.0
"""Seconds of ttl below which times carry microseconds: every renewal must change the record, and whole seconds would not."""


class Malformed(ValueError):
    """The annotation holds something that is not a leader election record; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Record:
    """One leader election record, as https://pkg.go.dev/k8s.io/client-go/tools/leaderelection/resourcelock describes it.

    `holder` is empty when the lock is free; `lease` is in whole seconds; the times are as they were written.
    """

    holder: str
    lease: int
    acquired: str
    renewed: str
    transitions: int

    def to_json(self) -> str:
        """The original's JSON: its fields, its order, no spaces."""
        return json.dumps(
            {
                "holderIdentity": self.holder,
                "leaseDurationSeconds": self.lease,
                "acquireTime": self.acquired,
                "renewTime": self.renewed,
                "leaderTransitions": self.transitions,
            },
            separators=(",", ":"),
            ensure_ascii=False,
        )


def parse_record(text: str) -> Record:
    """Read what any elector may have written. Raises `Malformed`.

    Numbers may be strings and times may have any form (Python's `kubernetes.leaderelection` writes both). An empty holder is
    free whatever else the record says; with a holder, the lease has to be 1 to 3600 seconds.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed("it is not JSON") from error
    if not isinstance(fields, dict):
        raise Malformed("it is not a JSON object")
    holder = fields.get("holderIdentity")
    if not isinstance(holder, str) or not _is_text(holder):
        raise Malformed("holderIdentity is not a string")
    lease = _whole(fields.get("leaseDurationSeconds"))
    if holder and not 1 <= lease <= LONGEST_LEASE:
        raise Malformed(f"leaseDurationSeconds is not 1 to {LONGEST_LEASE}")
    return Record(
        holder=holder,
        lease=lease,
        acquired=_text(fields.get("acquireTime")),
        renewed=_text(fields.get("renewTime")),
        transitions=min(max(0, _whole(fields.get("leaderTransitions"))), _MOST_TRANSITIONS),
    )


def lease_seconds(ttl: float) -> int:
    """The ttl as a record states it: whole seconds, rounded up, since others wait for what is stated."""
    return math.ceil(ttl)


def time_unit(ttl: float) -> int:
    """Microseconds by which times in the records of an election with this ttl can differ at least."""
    return 1_000_000 if ttl >= _FINE_TTL else 1


def format_time(microseconds: int, ttl: float) -> str:
    """RFC 3339 in UTC of a time since 1970: whole seconds as the original writes, microseconds for a short `ttl`."""
    moment = _EPOCH + timedelta(microseconds=microseconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ" if ttl >= _FINE_TTL else "%Y-%m-%dT%H:%M:%S.%fZ")


def _whole(value: object) -> int:
    """A whole number, as a number or as a string of digits; -1 for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return -1


def _text(value: object) -> str:
    return value if isinstance(value, str) and _is_text(value) else ""


def _is_text(value: str) -> bool:
    """Whether it can be written down: JSON may escape half a character, which is none."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
