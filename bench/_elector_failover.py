"""How long it takes until all others agree on a new leader, and until a reader of events elsewhere has it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from signal import SIGKILL, SIGTERM

import h11

from bench._elector_audit import Request
from bench._elector_group import OURS, Candidate, Group, named_in
from bench._elector_http import Connection
from bench._elector_table import say

__all__ = ["HandOver", "event_delays", "hand_over", "kill"]

_POLL = 0.002
"""Seconds between two questions while waiting for a hand-over: the figure is that much too high at most."""


@dataclass
class HandOver:
    """One SIGTERM of a leader; times by the wall clock."""

    signalled: float
    agreed: float
    leader: str
    user: str
    """The new leader's."""
    heard: list[float] = field(default_factory=list)
    """When the readers of events on the candidates that do not lead had the new leader."""


async def hand_over(group: Group, rounds: int) -> list[HandOver]:
    """SIGTERM the leader, and ask the others until they agree on a new one."""
    found = []
    for number in range(rounds):
        old = await group.agreed(group.candidates)
        others = [one for one in group.candidates if one is not old]
        heard: dict[str, list[tuple[float, str]]] = {one.name: [] for one in others}
        readers = [asyncio.create_task(_read_events(one, heard[one.name])) for one in others if group.kind == OURS]
        try:
            await asyncio.sleep(0.5)  # each tells the leader at once
            assert not readers or all(heard.values()), "a stream of events without its first"
            signalled = old.signal(SIGTERM)
            new, agreed = await _agreement(others, old, _POLL)
            await asyncio.sleep(0.3)  # for the events
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
        times = [next((at for at, name in heard[one.name] if name == new.name), float("inf")) for one in others if one is not new]
        found.append(HandOver(signalled, agreed, new.name, new.user, times if readers else []))
        say(f"{group.election}: SIGTERM {number + 1}/{rounds}: agreed after {agreed - signalled:.3f} s")
        await group.restarted(old)
    return found


async def kill(group: Group, rounds: int) -> list[float]:
    """SIGKILL the leader as soon as a watch of the lock tells a renewal; seconds until all others agree on a new one."""
    found = []
    for number in range(rounds):
        old = await group.agreed(group.candidates)
        others = [one for one in group.candidates if one is not old]
        async with aclosing(group.holders()) as holders:
            async for _, holder in holders:
                if holder == old.name:
                    break
            killed = old.signal(SIGKILL)
        _, agreed = await _agreement(others, old, 0.02)
        found.append(agreed - killed)
        say(f"{group.election}: SIGKILL {number + 1}/{rounds}: agreed after {agreed - killed:.3f} s")
        await group.restarted(old)
    return found


def event_delays(rounds: Iterable[HandOver], election: str, log: list[Request]) -> list[float]:
    """Seconds from when the API server received the write that made somebody the leader until each reader had the event."""
    delays = []
    for one in rounds:
        writes = (request for request in log if request.user == one.user and request.written and request.concerns(election))
        made = next(request.received for request in writes if request.received > one.signalled)
        delays += [heard - made for heard in one.heard]
    return delays


async def _agreement(others: list[Candidate], old: Candidate, every: float) -> tuple[Candidate, float]:
    """The one whom all others name, and the wall-clock time of the answer that completed the agreement."""
    heard: dict[str, tuple[str, float]] = {}
    names = {one.name: one for one in others}

    def agreed() -> bool:
        named = {name for name, _ in heard.values()}
        return len(heard) == len(others) and len(named) == 1 and named <= set(names)

    async def ask(one: Candidate) -> None:
        async with Connection(one.port) as connection:
            while not agreed():
                try:
                    name = named_in(json.loads((await connection.get("/"))[1]))
                except (OSError, h11.RemoteProtocolError):
                    continue
                assert name is not None
                if heard.get(one.name, ("", 0.0))[0] != name:
                    heard[one.name] = (name, time.time())
                await asyncio.sleep(every)

    async with asyncio.timeout(60.0):
        await asyncio.gather(*(ask(one) for one in others))
    (name,) = {name for name, _ in heard.values()}
    return names[name], max(at for _, at in heard.values())


async def _read_events(one: Candidate, heard: list[tuple[float, str]]) -> None:
    async with Connection(one.port) as connection:
        async for received, line in connection.lines("/v1/leader/events"):
            if line.startswith("data:"):
                heard.append((received, str(json.loads(line.removeprefix("data:"))["name"])))
