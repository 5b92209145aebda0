"""What an elector costs: to start, to keep, and its API server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench._elector_audit import Request
from bench._elector_group import Candidate, Group
from bench._elector_http import Connection, fetch
from bench._elector_process import cpu_seconds, memory
from bench._elector_table import say

__all__ = ["Start", "Steady", "Window", "rate", "requests", "start", "steady"]

REQUESTS = 10_000
"""To each candidate before its memory is looked at: half on four connections that are kept, half on one each."""

_AT_ONCE = 4
_SETTLE = 15.0
"""Seconds after which a group that agrees is taken to be steady."""


@dataclass(frozen=True)
class Start:
    """One start of a candidate that joins an election with a leader: seconds of time and of CPU, until each of these."""

    answers: float
    names: float
    cpu: float
    """Until it names the leader."""


@dataclass
class Steady:
    """Of each candidate of a group."""

    cpu: list[float] = field(default_factory=list)
    """Milliseconds per second."""
    before: list[tuple[float, float]] = field(default_factory=list)
    """Memory resident and private, MB, without any request but ours for agreement."""
    after: list[tuple[float, float]] = field(default_factory=list)
    """The same after `REQUESTS` requests."""


@dataclass(frozen=True)
class Window:
    """A stretch of time in which a group was left alone; wall clock."""

    election: str
    begin: float
    end: float


async def start(group: Group, rounds: int, wrapper: Sequence[str] = ()) -> list[Start]:
    """Start one more candidate, and ask it until it names the leader; then end it."""
    found = []
    one = Candidate(group, len(group.candidates))
    for number in range(rounds):
        began = time.monotonic()
        one.start(wrapper)
        answered = 0.0
        while True:
            answer = await fetch(one.port)
            if answer is not None and not answered:
                answered = time.monotonic()
            if answer is not None and answer["name"]:
                break
            await asyncio.sleep(0.005)
        took = Start(answered - began, time.monotonic() - began, cpu_seconds(one.pid))
        await one.end()
        found.append(took)
        say(
            f"{group.election}: start {number + 1}/{rounds}{' under a limit' if wrapper else ''}: "
            f"answers after {took.answers:.3f} s, names the leader after {took.names:.3f} s, {1000 * took.cpu:.0f} ms CPU"
        )
    return found


async def steady(group: Group, seconds: float) -> Steady:
    """CPU over so many seconds in which nobody asks, and memory before and after many requests."""
    await asyncio.sleep(_SETTLE)
    found = Steady()
    before = [cpu_seconds(one.pid) for one in group.candidates]
    began = time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    found.cpu = [1000 * (cpu_seconds(one.pid) - was) / took for one, was in zip(group.candidates, before, strict=True)]
    found.before = [memory(one.pid) for one in group.candidates]
    for one in group.candidates:
        await asyncio.gather(*(_ask_often(one, REQUESTS // _AT_ONCE) for _ in range(_AT_ONCE)))
    await asyncio.sleep(5.0)
    found.after = [memory(one.pid) for one in group.candidates]
    say(f"{group.election}: CPU {max(found.cpu):.2f} ms/s, memory {max(found.after)[0]:.1f} / {max(found.after)[1]:.1f} MB")
    return found


async def requests(group: Group, minutes: float) -> Window:
    """Leave a group that is steady alone for so long."""
    await asyncio.sleep(_SETTLE)
    begin = time.time()
    await asyncio.sleep(60 * minutes)
    return Window(group.election, begin, time.time())


def rate(window: Window, log: list[Request]) -> float:
    """Requests per second for that election that the API server received in the window, of whatever kind."""
    times = (request.received for request in log if request.concerns(window.election))
    return sum(window.begin <= at < window.end for at in times) / (window.end - window.begin)


async def _ask_often(one: Candidate, count: int) -> None:
    async with Connection(one.port) as connection:
        for _ in range(count // 2):
            await connection.get("/")
    for _ in range(count // 2):
        async with Connection(one.port) as connection:
            await connection.get("/")
