"""Reading single values, for annotations and settings alike: each parser takes a text and raises `ValueError`.

What is allowed is said where a value is declared; nothing here makes messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from webhook._durations import SECOND, parse_duration
from webhook._names import is_subdomain
from webhook._quantities import parse_quantity

__all__ = [
    "address",
    "choice",
    "image",
    "local_url",
    "mapped",
    "number",
    "path",
    "quantity",
    "subdomain",
    "whole_seconds",
]

T = TypeVar("T")

_LONGEST_TEXT = 2048  # characters of an image reference or a URL
_LOCAL_URL = re.compile(r"http://(localhost|127\.0\.0\.1|\[::1\])(:(?P<port>[0-9]{1,5}))?(/[!\"$-~]*)?")  # no fragment


def mapped(values: Mapping[str, T]) -> Callable[[str], T]:
    """One of the keys of `values`, read as its value."""

    def parse(text: str) -> T:
        if text not in values:
            raise ValueError(text)
        return values[text]

    return parse


def choice(*values: T) -> Callable[[str], T]:
    """One of `values`, which are strings."""
    return mapped({str(value): value for value in values})


def number(low: int, high: int) -> Callable[[str], int]:
    """A decimal number from `low` to `high`."""
    digits = len(str(high))

    def parse(text: str) -> int:
        # int() alone would also take signs, blanks, underscores and other scripts' digits.
        if not (text.isascii() and text.isdecimal() and len(text) <= digits and low <= int(text) <= high):
            raise ValueError(text)
        return int(text)

    return parse


def whole_seconds(low: int, high: int) -> Callable[[str], int]:
    """A Go duration of whole seconds from `low` to `high`, in seconds."""

    def parse(text: str) -> int:
        seconds, rest = divmod(parse_duration(text), SECOND)
        if rest or not low <= seconds <= high:
            raise ValueError(text)
        return seconds

    return parse


def subdomain(text: str) -> str:
    """A DNS-1123 subdomain."""
    if not is_subdomain(text):
        raise ValueError(text)
    return text


def quantity(text: str) -> str:
    """A Kubernetes quantity above 0, as it was written."""
    if parse_quantity(text) <= 0:
        raise ValueError(text)
    return text


def image(text: str) -> str:
    """An image reference. The container runtime knows its grammar; here it must only be one printable word."""
    if not re.fullmatch(r"[!-~]+", text) or len(text) > _LONGEST_TEXT:
        raise ValueError(text)
    return text


def local_url(text: str) -> str:
    """An http URL of this pod's own loopback, as the elector takes it: a port and a path if need be."""
    found = _LOCAL_URL.fullmatch(text) if len(text) <= _LONGEST_TEXT else None
    if found is None or not 1 <= int(found["port"] or 80) <= 65535:
        raise ValueError(text)
    return text


def path(text: str) -> Path:
    """A path, which need not exist."""
    if not text:
        raise ValueError(text)
    return Path(text)


def address(text: str) -> tuple[str, int]:
    """`HOST:PORT`, `[IPv6]:PORT` or `:PORT` as host (empty when there is none) and port."""
    match = re.fullmatch(r"(?:\[(?P<ipv6>[0-9a-fA-F:.]+)\]|(?P<host>[^\s:\[\]/]*)):(?P<port>[0-9]{1,5})", text)
    if match is None or int(match["port"]) > 65535:
        raise ValueError(text)
    return match["ipv6"] or match["host"] or "", int(match["port"])
