"""What a candidate can say of an election, and what it knows of the application beside it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Sidecar", "View"]


class Sidecar(enum.Enum):
    """What a SIGTERM says of the application beside us (rule 8)."""

    UNSET = "unset"
    """Nothing: it may still run and believe what it was told."""
    NATIVE = "native"
    """It has ended: the kubelet stops sidecar containers after it (KEP-753)."""
    CLASSIC = "classic"
    """It was told to stop at the same moment and may still be working."""


@dataclass(frozen=True, slots=True)
class View:
    """What this candidate can say at one moment.

    `expires_in` is in seconds, counted from that moment: how long our own claim still holds; 0 when we do not lead.
    """

    name: str
    id: str
    leading: bool
    token: int
    transitions: int
    acquired: str
    renewed: str
    expires_in: float
