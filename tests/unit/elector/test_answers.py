"""What the elector answers: the original's bytes, and the fields, waits and refusals under `/v1/`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from elector._answers import StatusAnswers
from elector._election import Sidecar
from elector._record import Record
from elector._server import Reply, Request
from tests.unit.elector.test_election import REQUEST_LOST, Candidate, Stage, foreign


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.end()


class Asked:
    """A request on its way: the reply, when it came, and at what time."""

    def __init__(self, one: Candidate, request: Request) -> None:
        self.reply: Reply | None = None
        self.at = -1.0

        async def ask() -> None:
            self.reply = await one.answers(request)
            self.at = one.stage.now

        self.task: asyncio.Task[None] = one.do(lambda: one.loop.create_task(ask()))
        one.stage.run(one.stage.now)

    @property
    def json(self) -> Any:
        assert self.reply is not None
        assert isinstance(self.reply.body, bytes)
        return json.loads(self.reply.body)


def ask(one: Candidate, path: str, query: str = "", *, method: str = "GET", client: str = "127.0.0.1") -> Asked:
    return Asked(one, Request(method, path, query, client))


def reply(one: Candidate, path: str, query: str = "", *, method: str = "GET", client: str = "127.0.0.1") -> Reply:
    asked = ask(one, path, query, method=method, client=client)
    assert asked.reply is not None, "the answer was held back"
    return asked.reply


# The original's answer.


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/anything", "/a/b/c", "/v1", "/v2/leader", "/healthz", "/%2e", "//"])
def test_every_path_and_method_outside_v1_has_the_originals_bytes(stage: Stage, path: str, method: str) -> None:
    found = reply(stage.leader("pod-a"), path, method=method)
    assert (found.status, found.body, found.content_type) == (200, b'{"name":"pod-a"}', "application/json")


def test_who_is_not_known_has_no_name(stage: Stage) -> None:
    one = stage.candidate()
    assert reply(one, "/").body == b'{"name":""}'
    stage.run(1.0)
    assert reply(one, "/").body == b'{"name":""}'  # the placeholder is nobody


def test_another_leader_is_named(stage: Stage) -> None:
    stage.store(foreign("pod-x"))
    assert reply(stage.follower(), "/").body == b'{"name":"pod-x"}'


def test_a_deposed_leader_does_not_name_itself(stage: Stage) -> None:
    # #690.
    one = stage.leader("pod-a")
    one.line.cut = True
    stage.world.now = 5.0  # no callback has run since the claim ended
    assert reply(one, "/").body == b'{"name":""}'


@pytest.mark.parametrize("path", ["/", "/v1/leader", "/v1/leading"])
def test_an_answer_that_names_ourselves_holds_as_long_as_the_claim(stage: Stage, path: str) -> None:
    # A process that is stopped between making the answer and sending it asks this when it goes on.
    one = stage.leader("pod-a")
    one.line.cut = True
    found = reply(one, path)
    stage.world.now = 4.99
    assert found.holds()
    stage.world.now = 5.0
    assert not found.holds()


def test_an_answer_that_names_another_may_be_sent_whenever(stage: Stage) -> None:
    stage.store(foreign("pod-x"))
    found = reply(stage.follower(), "/")
    stage.world.now = 1000.0
    assert found.holds()


def test_a_name_that_another_process_took_is_not_answered(stage: Stage) -> None:
    stage.store(foreign("pod-a"))
    assert reply(stage.follower("pod-a"), "/").body == b'{"name":""}'


@pytest.mark.parametrize(
    ("holder", "body"),
    [
        ("<a&b>", rb'{"name":"\u003ca\u0026b\u003e"}'),
        ('q"\\', rb'{"name":"q\"\\"}'),
        ("line\nend\ttab", rb'{"name":"line\nend\ttab"}'),
        ("\u2028\u2029", rb'{"name":"\u2028\u2029"}'),
        ("\x01\x1f", rb'{"name":"\u0001\u001f"}'),
        ("pód-ä", '{"name":"pód-ä"}'.encode()),
        ("🐑", '{"name":"🐑"}'.encode()),
    ],
)
def test_a_name_is_quoted_as_go_does(stage: Stage, holder: str, body: bytes) -> None:
    stage.store(foreign(holder))
    assert reply(stage.follower(), "/").body == body


def test_naming_ourselves_is_remembered_and_others_are_not(stage: Stage) -> None:
    # What was said decides how long the lock is kept after a SIGTERM.
    one = stage.leader()
    stage.run(1.0)
    reply(one, "/")
    one.do(one.election.terminate)
    stage.run(5.4)
    assert stage.record["holderIdentity"] == "pod-a"
    stage.run(5.5)
    assert stage.record["holderIdentity"] == ""


# /v1/leader.


def test_all_that_is_known_of_the_leader(stage: Stage) -> None:
    stage.store(Record("", 1, "t", "t", 6))
    one = stage.candidate("pod-a", ttl=12.0)
    stage.run(1.0)
    asked = ask(one, "/v1/leader")
    assert asked.reply is not None
    assert asked.reply.status == 200
    assert asked.reply.content_type == "application/json"
    assert ("Cache-Control", "no-store") in asked.reply.headers
    assert asked.json == {
        "name": "pod-a",
        "id": "pod-a",
        "leading": True,
        "token": 102,
        "transitions": 7,
        "acquired": "2026-09-21T14:13:20Z",
        "renewed": "2026-09-21T14:13:20Z",
        "expires_in": 5.0,
        "lock": "endpoints",
        "ttl": 12.0,
    }


def test_a_follower_has_no_claim(stage: Stage) -> None:
    stage.store(foreign("pod-x", transitions=4), **{"leader-election/token": "77"})
    asked = ask(stage.follower("pod-a"), "/v1/leader")
    assert (asked.json["name"], asked.json["id"], asked.json["leading"]) == ("pod-x", "pod-a", False)
    assert (asked.json["expires_in"], asked.json["token"], asked.json["transitions"]) == (0, 77, 4)


def test_what_is_left_is_rounded_down(stage: Stage) -> None:
    one = stage.leader()
    stage.run(1.0004)
    assert ask(one, "/v1/leader").json["expires_in"] == 3.999
    stage.run(2.4999)
    assert ask(one, "/v1/leader").json["expires_in"] == 2.5
    one.line.cut = True
    stage.run(4.9996)
    found = ask(one, "/v1/leader").json
    assert (found["leading"], found["expires_in"]) == (True, 0.0)


def test_a_claim_that_was_told_is_kept_after_sigterm(stage: Stage) -> None:
    one = stage.leader()
    stage.run(1.0)
    reply(one, "/v1/leader")
    one.do(one.election.terminate)
    stage.run(4.9)
    assert stage.record["holderIdentity"] == "pod-a"
    stage.run(5.0)
    assert stage.record["holderIdentity"] == ""


# Waiting.


def test_without_a_wait_nothing_is_held_back(stage: Stage) -> None:
    one = stage.leader("pod-a")
    assert ask(one, "/v1/leader", "not=pod-a").json["name"] == "pod-a"
    assert ask(one, "/v1/leader", "wait=0s&not=pod-a").json["name"] == "pod-a"


def test_an_answer_that_differs_already_is_given_at_once(stage: Stage) -> None:
    one = stage.leader("pod-a")
    for query in ("wait=30s&not=pod-b", "wait=30s&not=", "wait=30s&since=5", "wait=30s&not=pod-a&since=5"):
        assert ask(one, "/v1/leader", query).json["name"] == "pod-a"


def test_an_answer_is_held_back_until_the_name_is_another(stage: Stage) -> None:
    one = stage.leader("pod-a")
    asked = ask(one, "/v1/leader", "wait=30s&not=pod-a")
    stage.world.at(1.0, lambda: stage.overwrite(foreign("pod-x")))
    stage.run(2.4)
    assert asked.reply is None
    stage.run(2.5)
    assert (asked.json["name"], asked.at) == ("pod-x", 2.5)


def test_the_empty_name_is_a_name_to_wait_for_and_from(stage: Stage) -> None:
    stage.store(foreign("pod-x"))
    one = stage.candidate("pod-a")
    stage.run(1.0)
    one.line.cut = True
    until_unknown = ask(one, "/v1/leader", "wait=30s&not=pod-x")
    stage.run(11.0)
    assert (until_unknown.json["name"], until_unknown.at) == ("", 10.0)
    until_known = ask(one, "/v1/leader", "wait=30s&not=")
    stage.run(12.0)
    assert until_known.reply is None
    one.line.cut = False
    stage.run(15.0)
    assert until_known.json["name"] == "pod-a"


def test_a_claim_that_lapses_ends_the_wait_by_itself(stage: Stage) -> None:
    one = stage.leader("pod-a")
    for method in one.line.fates:
        one.line.fates[method].extend([REQUEST_LOST] * 20)
    asked = ask(one, "/v1/leader", "wait=30s&not=pod-a")
    stage.run(4.999)
    assert asked.reply is None
    stage.run(5.1)
    assert (asked.json["name"], asked.json["leading"], asked.at) == ("", False, 5.0)


def test_an_answer_is_held_back_until_the_token_is_another(stage: Stage) -> None:
    one = stage.leader("pod-a")
    token = ask(one, "/v1/leader").json["token"]
    stage.run(1.0)
    one.do(one.election.resign)
    stage.run(2.0)
    asked = ask(one, "/v1/leader", f"wait=30s&since={token}")
    stage.run(10.9)
    assert asked.reply is None
    stage.run(11.1)  # it leads again, under a new token
    assert asked.json["token"] > token
    assert asked.json["leading"] is True


def test_the_end_of_our_own_claim_ends_a_wait_for_another_token(stage: Stage) -> None:
    one = stage.leader("pod-a")
    one.line.cut = True
    token = ask(one, "/v1/leader").json["token"]
    asked = ask(one, "/v1/leader", f"wait=30s&since={token}")
    stage.run(4.9)
    assert asked.reply is None
    stage.run(5.1)
    assert (asked.json["leading"], asked.json["token"], asked.at) == (False, token, 5.0)


def test_the_wait_ends_with_what_holds_then(stage: Stage) -> None:
    one = stage.leader("pod-a")
    asked = ask(one, "/v1/leader", "wait=1500ms&not=pod-a")
    stage.run(1.499)
    assert asked.reply is None
    stage.run(1.5)
    assert (asked.json["name"], asked.at) == ("pod-a", 1.5)
    assert asked.json["expires_in"] == 3.5  # of that moment, not of the request's


def test_no_wait_is_longer_than_ten_minutes(stage: Stage) -> None:
    one = stage.leader("pod-a")
    asked = ask(one, "/v1/leader", "wait=24h&not=pod-a")
    stage.run(599.9)
    assert asked.reply is None
    stage.run(600.0)
    assert asked.json["name"] == "pod-a"


def test_a_reader_that_goes_away_leaves_nothing(stage: Stage) -> None:
    one = stage.leader("pod-a")
    asked = ask(one, "/v1/leader", "wait=30s&not=pod-a")
    one.do(asked.task.cancel)
    stage.run(0.1)
    assert asked.task.cancelled()


@pytest.mark.parametrize("query", ["wait=x", "wait=30", "wait=", "wait=-1s", "since=x", "since=", "wait=1s&since=1.5"])
def test_a_query_that_makes_no_sense_is_refused(stage: Stage, query: str) -> None:
    asked = ask(stage.leader(), "/v1/leader", query)
    assert asked.reply is not None
    assert asked.reply.status == 400
    assert query in asked.json["error"]


@pytest.mark.parametrize(
    "query", ["wait=10s&not=p%C3%B3d+%26%3d", "not=p%c3%b3d%20%26%3D&wait=10s", "not=x&wait=10s&not=pód+%26="]
)
def test_a_name_in_the_query_is_decoded(stage: Stage, query: str) -> None:
    stage.store(foreign("pód &="))
    one = stage.follower()
    asked = ask(one, "/v1/leader", query)
    assert asked.reply is None
    stage.run(9.0)
    assert asked.reply is None
    stage.run(10.0)
    assert (asked.json["name"], asked.at) == ("", 10.0)  # it has run out


@pytest.mark.parametrize("query", ["%", "%%", "%zz", "=", "&&", "a=b=c", "not", "%ff=%fe", "not=%"])
def test_a_strange_query_is_no_trouble(stage: Stage, query: str) -> None:
    assert ask(stage.leader(), "/v1/leader", query).json["name"] == "pod-a"


# /v1/leader/events.


def test_an_event_at_once_and_at_every_change(stage: Stage) -> None:
    one = stage.leader("pod-a")
    stream = reply(one, "/v1/leader/events")
    assert (stream.status, stream.content_type) == (200, "text/event-stream")
    assert ("Cache-Control", "no-store") in stream.headers
    body = stream.body
    assert not isinstance(body, bytes)
    heard: list[tuple[float, bytes]] = []

    async def listen(stream: AsyncIterator[bytes]) -> None:
        async for piece in stream:
            heard.append((stage.now, piece))  # noqa: PERF401 - as they come

    task = one.do(lambda: one.loop.create_task(listen(body)))
    stage.run(0.0)
    assert heard == [(0.0, b'event: leader\ndata: {"name": "pod-a", "leading": true, "token": 102}\n\n')]
    stage.world.at(16.0, lambda: stage.overwrite(foreign("pod-x")))
    stage.run(29.0)
    assert [when for when, _ in heard] == [0.0, 15.0, 17.5, 27.5, 27.5]
    assert heard[1][1] == b":\n\n"
    assert json.loads(heard[2][1].partition(b"data: ")[2]) == {"name": "pod-x", "leading": False, "token": 102}
    # pod-x has run out, and a moment later the lock is taken.
    assert json.loads(heard[3][1].partition(b"data: ")[2])["name"] == ""
    assert json.loads(heard[4][1].partition(b"data: ")[2])["leading"] is True
    one.do(task.cancel)
    stage.run(29.0)


def test_an_event_is_no_claim(stage: Stage) -> None:
    # Hints only: who was told nothing else is released without waiting.
    one = stage.leader()
    body = reply(one, "/v1/leader/events").body
    assert not isinstance(body, bytes)

    async def first() -> None:
        async for _ in body:
            return

    one.do(lambda: one.loop.create_task(first()))
    stage.run(1.0)
    one.do(one.election.terminate)
    stage.run(1.0)
    assert stage.record["holderIdentity"] == ""


# /v1/leading, /v1/resign, and what there is not.


def test_leading_is_200_and_not_leading_409(stage: Stage) -> None:
    one = stage.leader("pod-a")
    assert (reply(one, "/v1/leading").status, ask(one, "/v1/leading").json["leading"]) == (200, True)
    one.line.cut = True
    stage.world.now = 5.0
    assert (reply(one, "/v1/leading").status, ask(one, "/v1/leading").json["leading"]) == (409, False)


def test_leading_is_believed_as_long_as_the_name(stage: Stage) -> None:
    one = stage.leader()
    stage.run(1.0)
    reply(one, "/v1/leading")
    one.do(one.election.terminate)
    stage.run(5.4)
    assert stage.record["holderIdentity"] == "pod-a"
    stage.run(5.5)
    assert stage.record["holderIdentity"] == ""


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_resigning_is_for_the_pod_itself(stage: Stage, client: str) -> None:
    one = stage.leader(sidecar=Sidecar.NATIVE)
    asked = ask(one, "/v1/resign", method="POST", client=client)
    assert asked.reply is not None
    assert (asked.reply.status, asked.json) == (200, {"resigned": True})
    assert stage.record["holderIdentity"] == ""
    assert ask(one, "/v1/resign", method="POST", client=client).json == {"resigned": False}


@pytest.mark.parametrize(
    "client", ["10.0.0.7", "192.168.1.1", "::ffff:10.0.0.7", "fe80::1%eth0", "2001:db8::1", "", "localhost", "x"]
)
def test_resigning_is_for_nobody_else(stage: Stage, client: str) -> None:
    one = stage.leader()
    assert reply(one, "/v1/resign", method="POST", client=client).status == 403
    assert one.leads()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_resigning_takes_a_post(stage: Stage, method: str) -> None:
    # A browser or a crawler of the pod's paths must not depose anybody.
    one = stage.leader()
    found = reply(one, "/v1/resign", method=method)
    assert found.status == 405
    assert ("Allow", "POST") in found.headers
    assert one.leads()


@pytest.mark.parametrize("path", ["/v1/leader", "/v1/leader/events", "/v1/leading"])
def test_reading_takes_a_get(stage: Stage, path: str) -> None:
    one = stage.leader()
    found = reply(one, path, method="POST")
    assert found.status == 405
    assert ("Allow", "GET, HEAD") in found.headers
    assert reply(one, path, method="HEAD").status == 200


@pytest.mark.parametrize("path", ["/v1/", "/v1/leaders", "/v1/leader/", "/v1/Leader"])
def test_what_there_is_not_under_v1_is_404_and_names_what_there_is(stage: Stage, path: str) -> None:
    asked = ask(stage.leader(), path)
    assert asked.reply is not None
    assert asked.reply.status == 404
    assert "/v1/leader" in asked.json["error"]


# The status server.


def status(one: Candidate, path: str) -> Reply:
    coroutine = StatusAnswers(one.election, "endpoints", "0")(Request("GET", path, "", "10.0.0.7"))
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    found = stop.value.value
    assert isinstance(found, Reply)
    return found


def test_ready_is_who_has_seen_the_lock(stage: Stage) -> None:
    one = stage.candidate()
    one.line.cut = True
    stage.run(1.0)
    assert status(one, "/readyz").status == 503
    one.line.cut = False
    stage.run(3.0)
    assert status(one, "/readyz").status == 200


def test_healthy_is_who_moves_whatever_the_api_server_does(stage: Stage) -> None:
    one = stage.leader()
    for method in one.line.fates:
        one.line.fates[method].extend([REQUEST_LOST] * 100)
    for moment in range(60):
        stage.run(float(moment))
        assert status(one, "/healthz").status == 200
    one.loop.frozen_until = 90.0
    stage.run(75.0)
    assert status(one, "/healthz").status == 200  # late, but less than two ttls
    stage.run(85.0)
    assert status(one, "/healthz").status == 503


def test_metrics_are_what_prometheus_reads(stage: Stage) -> None:
    one = stage.leader()
    stage.run(6.0)
    body = status(one, "/metrics").body
    assert isinstance(body, bytes)
    lines = body.decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values["elector_leading"] == "1"
    assert values["elector_claim_remaining_seconds"] == "4.000"
    assert values["elector_record_age_seconds"] == "1.000"
    assert values["elector_fencing_token"] == "102"
    assert values['elector_lock_writes_total{result="ok"}'] == "3"
    assert values['elector_lock_write_duration_seconds_bucket{le="0.005"}'] == "3"
    assert values["elector_lock_write_duration_seconds_count"] == "3"
    named = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {name.split("{")[0].removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in values} == named


def test_other_paths_of_the_status_server_are_404(stage: Stage) -> None:
    assert status(stage.candidate(), "/").status == 404
