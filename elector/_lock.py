"""The lock: one object of the API server that carries the record, changed only by compare-and-swap.

Every write carries the uid **and** the resourceVersion that were read: without the uid a PUT to a deleted object re-creates
it, without the resourceVersion it overwrites. It sends the object as it was read, so nothing else in it is lost.
See https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Protocol

from elector._errors import TransportError
from elector._record import Record

__all__ = ["Conflict", "Lock", "LockState", "Mark", "Refused"]


class Conflict(TransportError):
    """The object is no longer as it was read, or exists already: read it before anything else."""


class Refused(TransportError):
    """The API server refuses the request (rights, quota, an admission policy, too many requests); `status` says how."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Mark:
    """What a candidate puts on the lock: its record, the fencing token, and which process wrote it.

    A placeholder has no token (0) and no instance (empty); both annotations are left out then.
    """

    record: Record
    token: int
    instance: str


@dataclass(frozen=True, slots=True)
class LockState:
    """The lock object as the API server gave it.

    `text` is the record as it stands in the object (None: there is none); `record` what it means (None: none, or malformed,
    then `malformed` says why). `token` is 0 when there is none.
    """

    uid: str
    version: str
    text: str | None
    record: Record | None
    malformed: str
    token: int
    instance: str
    raw: dict[str, Any] = field(repr=False)

    @property
    def revision(self) -> int:
        """The resourceVersion as a number, which it is on every API server backed by etcd (KEP-5504); 0 where it is not."""
        return int(self.version) if self.version.isascii() and self.version.isdigit() else 0


class Lock(Protocol):
    """One lock object. Every call makes one request and raises `NotSent`, `OutcomeUnknown`, `Refused` or `Conflict`."""

    @property
    def kind(self) -> str:
        """`endpoints` or `leases`, as people name it."""
        ...

    def text_of(self, mark: Mark) -> str:
        """The record of `mark` as `LockState.text` will have it once it is written."""
        ...

    async def read(self, timeout: float) -> LockState | None:
        """A quorum read (no resourceVersion is named); None when there is no such object."""
        ...

    def watch(self, since: LockState, timeout: float) -> AsyncGenerator[LockState | None, None]:
        """The object's states after `since`, as they come; None when it was deleted. Ends when the server ends it.

        `timeout` bounds the wait for the first byte. Raises `WatchRefused`, with status 410 when `since` is too long ago.
        """
        ...

    async def create(self, mark: Mark, timeout: float) -> LockState:
        """Create the object with this mark; `Conflict` when it exists."""
        ...

    async def replace(self, base: LockState, mark: Mark, timeout: float) -> LockState:
        """Put the mark on the object, which must still be exactly `base`; `Conflict` when it is not."""
        ...
