"""Where time comes from. Nothing else in this package reads a clock."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]

# The clock that counts suspended time too, where the system has one (Linux): a claim must not survive a closed lid.
_BOOTTIME: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """Two readings in seconds: one to decide by, one to write into records for people to read."""

    def now(self) -> float:
        """Seconds from an arbitrary start; never goes back, counts suspended time. All decisions use this one."""
        ...

    def wall(self) -> float:
        """Seconds since 1970 (UTC), as wrong as the machine's clock is. Written into records, never decided by."""
        ...


class SystemClock:
    """The machine's clocks: `CLOCK_BOOTTIME` where there is one, else `CLOCK_MONOTONIC`."""

    def now(self) -> float:
        return time.clock_gettime(_BOOTTIME)

    def wall(self) -> float:
        return time.time()
