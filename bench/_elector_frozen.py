"""A leader that stands still for a while with requests in flight, and what it answers when it goes on.

What counts as wrong is decided by the API server's log, in which every candidate writes as a user of its own. An answer was
computed somewhere between `begin`, which is the later of when it was asked for and when the process was continued, and
`received`. An answer by which the frozen candidate names itself is wrong

- for sure a second leader: when another one's write of the lock was done before `begin`, and the candidate itself has written
  nothing since that the API server had received before `received`;
- past its claim: when none of its own writes can carry the claim: each was either received by the API server at or after
  `received`, or more than the renew deadline (half a ttl) before `begin`. A write is sent before it is received, so this errs
  in the candidate's favour.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from signal import SIGCONT, SIGSTOP

import h11

from bench._elector_audit import Request
from bench._elector_group import OURS, SETTLE, TTL, Candidate, Group
from bench._elector_http import Connection
from bench._elector_table import say

__all__ = ["FACTORS", "Frozen", "freeze", "judge"]

FACTORS = (0.6, 0.9, 1.2, 2.0)
"""How long the leader stands still, in ttls."""

_FRESH = 5
"""Requests on connections of their own that are sent while it stands still."""

_AFTER = TTL / 2
"""Seconds for which it is asked after it went on."""


@dataclass(frozen=True, slots=True)
class _Answer:
    asked: float
    received: float
    names_itself: bool


@dataclass
class Frozen:
    """One round; times by the wall clock."""

    user: str
    continued: float
    answers: list[_Answer] = field(default_factory=list)
    """Those received after it went on."""


async def freeze(group: Group, factor: float, rounds: int) -> list[Frozen]:
    """Stop the leader for `factor` ttls while it is asked, continue it, and keep what it answers."""
    found = []
    for number in range(rounds):
        leader = await group.agreed(group.candidates)
        paths = ["/", "/v1/leader", "/v1/leading"] if group.kind == OURS else ["/", "/", "/"]
        answers: list[_Answer] = []
        readers = [asyncio.create_task(_ask_on(leader, path, answers)) for path in paths]
        await asyncio.sleep(0.2)
        began = time.monotonic()
        leader.signal(SIGSTOP)
        try:
            for each in range(_FRESH):
                await asyncio.sleep(factor * TTL / (_FRESH + 1))
                readers.append(asyncio.create_task(_ask_on(leader, paths[each % len(paths)], answers)))
            await asyncio.sleep(began + factor * TTL - time.monotonic())
        finally:
            continued = leader.signal(SIGCONT)
        await asyncio.sleep(_AFTER)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        late = [answer for answer in answers if answer.received > continued]
        found.append(Frozen(leader.user, continued, late))
        say(f"{group.election}: frozen for {factor:g} ttl {number + 1}/{rounds}: {len(late)} answers since it went on")
        await group.agreed(group.candidates)
        await asyncio.sleep(SETTLE)
    return found


def judge(rounds: list[Frozen], election: str, log: list[Request]) -> tuple[int, int, int]:
    """How many answers named a second leader, how many were past the claim (and not the former), and how many there were."""
    writes = [request for request in log if request.written and request.concerns(election)]
    second = past = 0
    for one in rounds:
        for answer in one.answers:
            if answer.names_itself:
                begin = max(answer.asked, one.continued)
                if _is_second(one, begin, answer, writes):
                    second += 1
                elif not any(write.user == one.user and begin - TTL / 2 < write.received < answer.received for write in writes):
                    past += 1
    return second, past, sum(len(one.answers) for one in rounds)


def _is_second(one: Frozen, begin: float, answer: _Answer, writes: list[Request]) -> bool:
    others = [write.done for write in writes if write.user != one.user and write.done < begin]
    if not others:
        return False
    own = (write for write in writes if write.user == one.user and write.received < answer.received)
    return not any(write.done > max(others) for write in own)


async def _ask_on(leader: Candidate, path: str, answers: list[_Answer]) -> None:
    """Ask one request after another, each sent as soon as the one before it is answered."""
    async with Connection(leader.port) as connection:
        while True:
            asked = time.time()
            try:
                status, body = await connection.get(path)
            except (OSError, h11.RemoteProtocolError):
                await asyncio.sleep(0.05)
                continue
            answers.append(_Answer(asked, time.time(), _names(leader, path, status, body)))
            await asyncio.sleep(0.02)


def _names(leader: Candidate, path: str, status: int, body: bytes) -> bool:
    if path == "/v1/leading":
        return status == 200
    answer = json.loads(body)
    return bool(answer["name"] == leader.name or answer.get("leading"))
