"""What has happened so far, counted for `/metrics`."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["BUCKETS", "Stats"]

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds of the histogram of writes: from an idle API server on the same machine to one that is overrun."""


@dataclass(slots=True)
class Stats:
    """Counters since the start; times in seconds."""

    writes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("ok", "conflict", "refused", "failed", "unknown"), 0))
    write_buckets: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))
    write_seconds: float = 0.0
    leader_changes: int = 0

    def wrote(self, result: str, seconds: float) -> None:
        """Count one write to a lock, acquisitions and releases included."""
        self.writes[result] += 1
        self.write_seconds += seconds
        for number, bound in enumerate(BUCKETS):
            self.write_buckets[number] += seconds <= bound
