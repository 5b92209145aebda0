"""What `check` finds: a verdict and a sentence each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Finding", "Verdict", "fine", "note", "part", "unknown", "wrong"]


class Verdict(StrEnum):
    """How a finding is marked for people."""

    FINE = "ok"
    WRONG = "WRONG"
    UNKNOWN = "?"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence, without a full stop, and its verdict."""

    verdict: Verdict
    text: str


def fine(text: str) -> Finding:
    """As it has to be."""
    return Finding(Verdict.FINE, text)


def wrong(text: str) -> Finding:
    """Something that has to be changed."""
    return Finding(Verdict.WRONG, text)


def unknown(text: str) -> Finding:
    """What could not be found out, and why."""
    return Finding(Verdict.UNKNOWN, text)


def note(text: str) -> Finding:
    """Worth knowing, but neither right nor wrong."""
    return Finding(Verdict.NOTE, text)


def part(document: Any, *steps: str) -> dict[str, Any]:
    """The object at the end of a way into a document, empty when there is none."""
    for step in steps:
        document = document.get(step) if isinstance(document, dict) else None
    return document if isinstance(document, dict) else {}
