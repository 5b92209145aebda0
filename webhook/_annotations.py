"""The pod annotations: one declared schema, from which parsing, messages and the reference are made.

A row is one field of `Annotations`. Its order here is the order of the reference and of the problems in a denial.
"""
# A row is a call that returns the dataclass's field, which ruff cannot see:
# ruff: noqa: RUF009

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Literal, TypeVar

from webhook._errors import quoted
from webhook._names import LONGEST_NAME
from webhook._settings import Sidecar
from webhook._values import choice, image, local_url, mapped, number, quantity, subdomain, whole_seconds

__all__ = [
    "DRAIN",
    "ENABLED",
    "INJECTED",
    "NAME",
    "PORT",
    "PREFIX",
    "ROWS",
    "SIDECAR",
    "Annotations",
    "Row",
    "parse",
    "warn_of_unknown",
]

PREFIX = "leader-election/"
ENABLED = PREFIX + "enabled"
NAME = PREFIX + "name"
PORT = PREFIX + "port"
DRAIN = PREFIX + "drain"
SIDECAR = PREFIX + "sidecar"
INJECTED = PREFIX + "injected"
"""Written by the webhook, as a label too: a report for people and selectors, never read back."""

Lock = Literal["endpoints", "leases", "endpointsleases"]
Listen = Literal["localhost", "all"]
LogLevel = Literal["debug", "info", "warning", "error"]

T = TypeVar("T")

_CHART = "the chart's"
_QUANTITY = "a Kubernetes quantity above 0, such as 100m or 64Mi"


@dataclass(frozen=True, slots=True)
class Row:
    """What is declared about one annotation: texts for people, and how a value is read.

    `parse` takes the annotation's value and raises `ValueError` when it is not allowed.
    """

    key: str
    means: str
    allowed: str
    default: str
    parse: Callable[[str], Any]


def _row(key: str, parse: Callable[[str], T], *, means: str, allowed: str, default: T, shown: str) -> T:
    """Declare a row as a dataclass field, typed as its value; `shown` is the default in words."""
    row = Row(PREFIX + key, means, allowed, shown, parse)
    return field(default=default, metadata={"row": row})


@dataclass(frozen=True, slots=True)
class Annotations:
    """What a pod's annotations ask for, read and checked; None where the operator's settings decide."""

    enabled: bool = _row(
        "enabled",
        mapped({"true": True, "false": False}),
        means="whether the elector is added to the pod",
        allowed='"true" or "false"',
        default=False,
        shown="not injected",
    )
    name: str | None = _row(
        "name",
        subdomain,
        means="the election; candidates with the same name in one namespace compete",
        allowed=f"a DNS subdomain (lower-case letters, digits, - and .) of at most {LONGEST_NAME} characters",
        default=None,
        shown="the owner's name and .leader",
    )
    lock: Lock = _row(
        "lock",
        choice("endpoints", "leases", "endpointsleases"),
        means="the kind of object that holds the lock; the last is both, to move from the first to the second",
        allowed="endpoints, leases or endpointsleases",
        default="endpoints",
        shown="endpoints",
    )
    ttl: int = _row(
        "ttl",
        whole_seconds(1, 600),
        means="how long a leader that went silent is still waited for",
        allowed="a Go duration in whole seconds from 1s to 10m",
        default=10,
        shown="10s",
    )
    port: int = _row(
        "port",
        number(1024, 65534),
        means="the port on which the elector answers; the next one serves its probes and metrics",
        allowed="a number from 1024 to 65534",
        default=4040,
        shown="4040",
    )
    listen: Listen = _row(
        "listen",
        choice("localhost", "all"),
        means="where the elector answers: on 127.0.0.1 and ::1, or on every address of the pod",
        allowed="localhost or all",
        default="localhost",
        shown="localhost",
    )
    sidecar: Sidecar | None = _row(
        "sidecar",
        choice("native", "classic"),
        means="an init container that keeps running (kubelet 1.29 or newer), or a container beside the others",
        allowed="native or classic",
        default=None,
        shown=_CHART,
    )
    health: str | None = _row(
        "health",
        local_url,
        means="the pod stands for election only while this URL of its application answers 2xx",
        allowed="an http:// URL on localhost, 127.0.0.1 or [::1], with a port and a path if need be",
        default=None,
        shown="none",
    )
    drain: int | None = _row(
        "drain",
        whole_seconds(0, 86_400),
        means="how long after SIGTERM a classic sidecar goes on claiming, unless the application resigns",
        allowed="a Go duration in whole seconds from 0s to 24h",
        default=None,
        shown="the pod's grace period less 2 s",
    )
    image: str | None = _row(
        "image",
        image,
        means="the elector's image",
        allowed="an image reference",
        default=None,
        shown=_CHART,
    )
    cpu_request: str | None = _row(
        "cpu-request", quantity, means="CPU that the elector requests", allowed=_QUANTITY, default=None, shown=_CHART
    )
    cpu_limit: str | None = _row(
        "cpu-limit", quantity, means="CPU that the elector may use", allowed=_QUANTITY, default=None, shown=_CHART
    )
    memory_request: str | None = _row(
        "memory-request",
        quantity,
        means="memory that the elector requests",
        allowed=_QUANTITY,
        default=None,
        shown=_CHART,
    )
    memory_limit: str | None = _row(
        "memory-limit", quantity, means="memory that the elector may use", allowed=_QUANTITY, default=None, shown=_CHART
    )
    log_level: LogLevel | None = _row(
        "log-level",
        choice("debug", "info", "warning", "error"),
        means="how much the elector logs",
        allowed="debug, info, warning or error",
        default=None,
        shown=_CHART,
    )


_FIELDS: dict[str, tuple[str, Row]] = {f.metadata["row"].key: (f.name, f.metadata["row"]) for f in fields(Annotations)}
ROWS: tuple[Row, ...] = tuple(row for _, row in _FIELDS.values())
"""Every annotation that a pod may carry for us, in the order of the reference."""


def parse(annotations: Mapping[str, str]) -> tuple[Annotations, dict[str, str]]:
    """Read a pod's annotations, ours among any others.

    Returns what they ask for and, by annotation, a sentence for each wrong one with its value and what is allowed; the
    default stands in for a wrong value, so that the caller can go on and collect what else is wrong.
    """
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for key, (name, row) in _FIELDS.items():
        if key not in annotations:
            continue
        try:
            values[name] = row.parse(annotations[key])
        except ValueError:
            problems[key] = f"annotation {key} is {quoted(annotations[key])}, allowed is {row.allowed}"
    return Annotations(**values), problems


def warn_of_unknown(annotations: Mapping[str, str]) -> list[str]:
    """A sentence for each annotation under our prefix that we do not know, with the nearest that we do."""
    unknown = [k for k in annotations if k.startswith(PREFIX) and k not in _FIELDS and k != INJECTED]
    return [f"annotation {key} is unknown{_suggestion(key)}" for key in sorted(unknown)]


def _suggestion(key: str) -> str:
    # Without the prefix, which would make everything alike.
    known = [row.key.removeprefix(PREFIX) for row in ROWS]
    near = get_close_matches(key.removeprefix(PREFIX).lower(), known, n=1)
    return f", did you mean {PREFIX}{near[0]}?" if near else ""
