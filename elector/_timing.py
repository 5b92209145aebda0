"""The times of an election, all derived from the ttl unless they are set (rule 2 of `docs/election.md`)."""

from __future__ import annotations

from dataclasses import dataclass

from elector._durations import format_duration
from elector._errors import SettingsError

__all__ = ["LONGEST_TTL", "SHORTEST_TTL", "Timing"]

SHORTEST_TTL, LONGEST_TTL = 1.0, 600.0


@dataclass(frozen=True, slots=True)
class Timing:
    """All in seconds. Raises `SettingsError` when the times do not fit together, naming the rule they break."""

    ttl: float
    """Others may take over when the record has not changed for this long."""
    renew_deadline: float
    """A claim holds this long from the moment before its renewal was sent."""
    retry_period: float
    """Between two renewals, and between two looks where watching is not possible; also the bound of each request."""

    @classmethod
    def of(cls, ttl: float, renew_deadline: float | None = None, retry_period: float | None = None) -> Timing:
        """The original's proportions: claim for half a ttl, retry every quarter."""
        return cls(
            ttl,
            ttl / 2 if renew_deadline is None else renew_deadline,
            ttl / 4 if retry_period is None else retry_period,
        )

    def __post_init__(self) -> None:
        if not SHORTEST_TTL <= self.ttl <= LONGEST_TTL:
            raise SettingsError(f"--ttl is {format_duration(self.ttl)}: allowed is 1s to 10m")
        if not 0 < self.renew_deadline <= 0.9 * self.ttl:
            raise SettingsError(
                f"--renew-deadline is {format_duration(self.renew_deadline)}: allowed is more than 0s and at most 0.9 of the "
                f"ttl of {format_duration(self.ttl)}, so that a claim has ended everywhere before others may take over"
            )
        if not 0 < self.retry_period <= self.renew_deadline / 1.2:
            raise SettingsError(
                f"--retry-period is {format_duration(self.retry_period)}: allowed is more than 0s and at most the renew "
                f"deadline of {format_duration(self.renew_deadline)} divided by 1.2, so that a claim can be renewed in time"
            )

    @property
    def belief(self) -> float:
        """How long an application may act on one answer of `/` that names its own pod (rule 2)."""
        return 0.9 * (self.ttl - self.renew_deadline)

    @property
    def spread(self) -> float:
        """The longest random delay before taking a free lock, so that a hundred candidates do not write at once."""
        return min(0.05, self.ttl / 100)

    def pause_after(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row: short at first, since a claim is running out, then a retry period."""
        return min(self.retry_period, self.retry_period / 10 * 2.0 ** min(failures - 1, 8))
