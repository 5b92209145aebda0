"""Go's durations (`10s`, `1m30s`, `1500ms`), as the original's flags take them: https://pkg.go.dev/time#ParseDuration."""

from __future__ import annotations

import re

__all__ = ["format_duration", "parse_duration"]

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST = float(2**63) / 1e9
"""Seconds in Go's longest duration."""
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")


def parse_duration(text: str) -> float:
    """Seconds of a Go duration. Raises `ValueError` when `text` is none, or is negative."""
    if text == "0":
        return 0.0
    seconds, end = 0.0, 0
    for part in _PART.finditer(text):
        if part.start() != end:
            break
        seconds += float(part[1]) * _SECONDS[part[2]]
        end = part.end()
    if not text or end != len(text) or seconds > _LONGEST:
        raise ValueError(f"{text!r} is not a duration such as 10s, 1m30s or 1500ms")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest Go duration of `seconds`, to the millisecond: `10s`, `2.5s`, `1m30s`."""
    minutes, rest = divmod(round(seconds * 1000), 60_000)
    parts = f"{minutes}m" if minutes else ""
    if rest or not minutes:
        parts += f"{rest / 1000:g}s"
    return parts
