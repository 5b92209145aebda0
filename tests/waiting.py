"""Waiting for what other processes do: for a condition, at most so long, and never for a time alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["eventually", "until"]

T = TypeVar("T")

_LOOKS_EVERY = 0.02


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> float:
    """Wait until it holds; returns how many seconds that took."""
    began = time.monotonic()
    eventually(condition, what, seconds)
    return time.monotonic() - began


def eventually(look: Callable[[], T | None], what: str, seconds: float = 60.0) -> T:
    """Look until there is something; returns it."""
    began = time.monotonic()
    while not (thing := look()):
        assert time.monotonic() - began < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(_LOOKS_EVERY)
    return thing
