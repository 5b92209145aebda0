"""Durations as Go writes them (`1m30s`), which is how people write them in Kubernetes.

The elector has a parser of its own: the admission process shares no code with the sidecar.
"""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["SECOND", "parse_duration"]

SECOND = 1_000_000_000
"""One second in the unit of this module, the nanosecond."""

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # the micro sign
    "\u03bcs": 1_000,  # the Greek letter, which Go takes too
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3_600 * SECOND,
}
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_WHOLE = re.compile(rf"[-+]?(?:{_PART.pattern})+")
_LONGEST = 64  # characters; nobody writes longer ones, and it bounds the work


def parse_duration(text: str) -> int:
    """The duration `text` in nanoseconds, by the grammar of Go's `time.ParseDuration` (below 1 ns is cut off).

    Raises `ValueError` when it is none.
    """
    if text in ("0", "+0", "-0"):
        return 0
    if len(text) > _LONGEST or not _WHOLE.fullmatch(text):
        raise ValueError("not a Go duration")
    total = sum(Fraction(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return int(-total if text.startswith("-") else total)
