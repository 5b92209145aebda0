"""The health gate: what it takes to give up, and to stand again."""

from __future__ import annotations

import asyncio

import pytest

from elector._health import HealthGate
from tests.unit.elector.test_election import Stage, stage

__all__ = ["stage"]


def test_two_successes_let_stand_and_three_failures_give_up() -> None:
    changes: list[bool] = []
    gate = HealthGate("http://localhost:1/", changes.append)
    gate.judge("")
    assert changes == []
    gate.judge("")
    assert changes == [True]
    for answer in ("HTTP 500", "HTTP 500", "", "HTTP 500", "HTTP 500"):
        gate.judge(answer)
    assert changes == [True]
    gate.judge("no answer within 1 s")
    assert changes == [True, False]


@pytest.mark.parametrize(
    ("reply", "wrong"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "HTTP 503"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "HTTP 302"),
        (b"", "closed"),
        (b"SSH-2.0-garbage\r\n\r\n", "illegal"),
    ],
)
def test_only_2xx_is_healthy(reply: bytes, wrong: str) -> None:
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(reply)
        writer.close()

    async def check() -> str:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await HealthGate(f"http://127.0.0.1:{port}/healthz?x=1", lambda healthy: None)._answer()

    found = asyncio.run(check())
    assert seen[0].startswith(b"GET /healthz?x=1 HTTP/1.1\r\n")
    assert (found == "") == (wrong == "")
    assert wrong in found.lower() or wrong in found


def test_nobody_there_is_not_healthy() -> None:
    assert asyncio.run(HealthGate("http://127.0.0.1:1", lambda healthy: None)._answer()) != ""


def test_who_is_not_healthy_gives_up_once_it_is_believed_no_more_and_stands_again_a_ttl_later(stage: Stage) -> None:
    one = stage.leader()
    stage.run(1.0)
    one.do(one.election.tell_name)  # believed until 5.5
    one.do(lambda: one.election.set_healthy(False))
    assert not one.leads()
    stage.run(5.4)
    assert stage.record["holderIdentity"] == "pod-a"
    stage.run(5.6)
    assert stage.record["holderIdentity"] == ""
    one.do(lambda: one.election.set_healthy(True))
    stage.run(10.9)
    assert not one.leads()
    stage.run(11.1)
    assert one.leads()


def test_an_unhealthy_candidate_acquires_nothing(stage: Stage) -> None:
    one = stage.leader()
    one.do(lambda: one.election.set_healthy(False))
    stage.run(100.0)
    assert not one.leads()
    assert stage.record["holderIdentity"] == ""


def test_sigterm_after_being_stuck_releases_nothing(stage: Stage) -> None:
    one = stage.leader()
    one.loop.frozen_until = 40.0
    stage.run(41.0)
    one.do(one.election.terminate)
    stage.run(41.5)
    assert one.ended()
    assert stage.record["holderIdentity"] == "pod-a"
