"""Figures and how they are shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Row", "say", "spread", "table"]

_BEGAN = time.monotonic()


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, what is asked for, and both sides' figures in the same unit."""

    what: str
    must: str
    stretch: str
    ours: str
    rival: str


def spread(values: Sequence[float], unit: str, digits: int) -> str:
    """Median and maximum."""
    return f"{median(values):.{digits}f} / {max(values):.{digits}f} {unit}" if values else "none"


def table(rows: Sequence[Row], rival: str) -> str:
    """In Markdown."""
    lines = [f"| | must reach | stretch | this elector | {rival} |", "|---|---|---|---|---|"]
    lines += [f"| {row.what} | {row.must} | {row.stretch} | {row.ours} | {row.rival} |" for row in rows]
    return "\n".join(lines)


def say(text: str) -> None:
    """Progress, apart from the table."""
    print(f"[{time.monotonic() - _BEGAN:6.1f} s] {text}", file=sys.stderr, flush=True)
