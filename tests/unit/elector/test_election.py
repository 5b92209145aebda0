"""The election in simulated time: real code, exact seconds, one trouble at a time.

With a ttl of 10 s a candidate looks and renews every 2.5 s, claims for 5 s, and is believed for 4.5 s by who reads the name
only. Random delays are 0 here, so that every moment can be named.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest

from elector._answers import Answers
from elector._election import Election, Sidecar, View
from elector._errors import NotSent, OutcomeUnknown, WatchRefused
from elector._objects import INSTANCE, RECORD, TOKEN, EndpointsLock
from elector._record import PLACEHOLDER, Record
from elector._timing import Timing
from elector._transport import Response
from tests.simulation.server import ApiServer
from tests.simulation.world import WALL_START, LocalLoop, SimulatedClock, World

REQUEST_LOST, REPLY_LOST, REFUSED_CONNECTION, UNCHANGED = "request lost", "reply lost", "connection refused", "unchanged"
"""What may become of one request; a number of seconds: it reaches the server that much later; a status: it is answered so."""

Fate = str | float | int


class Steady(random.Random):
    """Chance that always gives the least."""

    def uniform(self, a: float, b: float) -> float:
        return a


class Line:
    """The way to the API server: `out` and `back` seconds long, with a fate for each of the next requests of a method."""

    def __init__(self, world: World, server: ApiServer, loop: LocalLoop) -> None:
        self._world = world
        self._server = server
        self._loop = loop
        self.out = self.back = 0.0
        self.cut = False
        self.fates: dict[str, deque[Fate]] = {"GET": deque(), "POST": deque(), "PUT": deque()}
        self.sent: list[tuple[float, str, Any]] = []

    def methods(self, since: float = -1.0) -> list[tuple[float, str]]:
        return [(when, method) for when, method, _ in self.sent if when >= since]

    async def request(self, method: str, path: str, body: bytes | None = None, *, timeout: float) -> Response:
        world = self._world
        fate: Fate = self.fates[method].popleft() if self.fates[method] else ""
        self.sent.append((world.now, method, None if body is None else json.loads(body)))
        if fate == REFUSED_CONNECTION or self.cut:
            raise NotSent("connection refused")
        reply: asyncio.Future[Response] = self._loop.create_future()

        def arrive() -> None:
            if fate == UNCHANGED:
                response = Response(200, json.dumps(self._server.object).encode())
            elif isinstance(fate, int):
                response = Response(fate, json.dumps({"message": "in the way"}).encode())
            else:
                response = self._server.handle(method, path, body)
            if fate != REPLY_LOST:
                world.at(world.now + self.back, lambda: None if reply.done() else reply.set_result(response))

        if fate != REQUEST_LOST:
            world.at(world.now + self.out + (fate if isinstance(fate, float) else 0.0), arrive)
        try:
            async with asyncio.timeout(timeout):
                return await reply
        except TimeoutError as error:
            raise OutcomeUnknown(f"{method}: no reply within {timeout:.3g} s") from error

    def watch(self, path: str, *, timeout: float) -> AsyncGenerator[bytes, None]:
        # Forbidden, as under the original's role: every moment here is one of polling.
        return _refusing(WatchRefused("forbidden", 403))

    async def close(self) -> None:
        pass


async def _refusing(*refusals: WatchRefused) -> AsyncGenerator[bytes, None]:
    for refusal in refusals:
        raise refusal
    yield b""


class Candidate:
    """One process."""

    def __init__(self, stage: Stage, name: str, instance: str, timing: Timing, sidecar: Sidecar, drain: float) -> None:
        world = stage.world
        self.stage = stage
        self.name = name
        # Clocks of different machines have nothing to do with each other.
        self.clock = SimulatedClock(world, 1.0, 4096.0 * len(stage.candidates), 0.0)
        self.loop = LocalLoop(world, self.clock, self._look_at_each_moment)
        self.line = Line(world, stage.server, self.loop)
        self.changes: list[tuple[float, str, bool]] = []
        lock = EndpointsLock(self.line, "default", "example")

        def build() -> None:
            self.election = Election(
                lock, name, instance, timing, self.clock, Steady(), sidecar=sidecar, drain=drain, on_change=self._changed
            )
            self.answers = Answers(self.election, "endpoints")
            self.task = self.loop.create_task(self.election.run())

        self.loop.run_now(build)

    def do(self, action: Callable[[], Any]) -> Any:
        """Something reaches the process from outside."""
        return self.loop.run_now(action)

    @property
    def view(self) -> View:
        return self.election.view()

    def leads(self) -> bool:
        return not self.loop.dead and self.view.leading

    def ended(self) -> bool:
        return self.task.done()

    def kill(self) -> None:
        self.loop.dead = True

    def writes(self, since: float = -1.0) -> list[tuple[float, str]]:
        return [(when, method) for when, method in self.line.methods(since) if method != "GET"]

    def _changed(self, view: View) -> None:
        self.changes.append((self.stage.world.now, view.name, view.leading))

    def _look_at_each_moment(self) -> None:
        leaders = [one.name for one in self.stage.candidates if one.leads()]
        if len(leaders) > 1:
            self.stage.doubles.append(f"at {self.stage.world.now}: {leaders}")


class Stage:
    """One API server and its candidates, over true time from 0."""

    def __init__(self) -> None:
        self.world = World(0)
        self.server = ApiServer()
        self.candidates: list[Candidate] = []
        self.doubles: list[str] = []

    def candidate(
        self,
        name: str = "pod-a",
        *,
        ttl: float = 10.0,
        instance: str = "",
        sidecar: Sidecar = Sidecar.UNSET,
        drain: float = 0.0,
        timing: Timing | None = None,
    ) -> Candidate:
        number = len(self.candidates)
        one = Candidate(self, name, instance or f"instance-{number}", timing or Timing.of(ttl), sidecar, drain)
        self.candidates.append(one)
        return one

    def follower(self, name: str = "pod-a", **options: Any) -> Candidate:
        """A candidate that has seen the lock."""
        one = self.candidate(name, **options)
        self.run(self.now)
        assert one.election.has_seen_lock
        return one

    def leader(self, name: str = "pod-a", **options: Any) -> Candidate:
        """A candidate that leads since its first moment, on a lock that was free."""
        if self.server.object is None:
            self.store(Record("", 1, "t", "t", 0))
        one = self.candidate(name, **options)
        self.run(self.now)
        assert one.leads()
        return one

    def store(self, record: Record | str | None, **annotations: str) -> None:
        """Somebody creates the object, with that record."""
        text = record.to_json() if isinstance(record, Record) else record
        notes = {**annotations, **({} if text is None else {RECORD: text})}
        body = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "example", "annotations": notes}}
        self.server.handle("POST", "", json.dumps(body).encode())

    def overwrite(self, record: Record | str | None) -> None:
        self.server.overwrite(RECORD, record.to_json() if isinstance(record, Record) else record)

    @property
    def now(self) -> float:
        return self.world.now

    def run(self, until: float) -> None:
        self.world.run(until)

    @property
    def annotations(self) -> dict[str, str]:
        assert self.server.object is not None
        found: dict[str, str] = self.server.object["metadata"].get("annotations", {})
        return found

    @property
    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.annotations[RECORD])
        return found

    def end(self) -> None:
        for one in self.candidates:
            one.loop.bury(one.task)
        self.world.run(self.world.now + 1.0)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A stage on which never two lead and no callback fails, whatever the test is about."""
    stage = Stage()
    yield stage
    doubles = list(stage.doubles)
    stage.end()
    assert doubles == []
    assert [failure for one in stage.candidates for failure in one.loop.failures] == []


def foreign(holder: str = "pod-x", lease: int = 10, renewed: str = "t0", transitions: int = 4) -> Record:
    return Record(holder, lease, "t0", renewed, transitions)


# Standing.


def test_a_lock_that_is_missing_is_created_with_nobody_as_holder_and_waited_out(stage: Stage) -> None:
    one = stage.candidate()
    stage.run(0.0)
    assert one.line.methods() == [(0.0, "GET"), (0.0, "POST")]
    assert stage.record["holderIdentity"] == PLACEHOLDER
    assert stage.record["leaseDurationSeconds"] == 10
    assert TOKEN not in stage.annotations
    assert INSTANCE not in stage.annotations
    stage.run(9.999)
    assert one.writes() == [(0.0, "POST")]
    assert (one.view.name, one.view.leading) == ("", False)
    stage.run(10.0)
    assert one.writes() == [(0.0, "POST"), (10.0, "PUT")]
    assert one.leads()
    assert stage.record["holderIdentity"] == "pod-a"
    assert stage.record["leaderTransitions"] == 0


def test_an_object_without_a_record_is_waited_out_too(stage: Stage) -> None:
    stage.store(None)  # as the original creates it
    one = stage.candidate()
    stage.run(9.999)
    assert one.writes() == []
    stage.run(10.0)
    assert one.leads()


def test_a_malformed_record_is_waited_out_and_replaced(stage: Stage) -> None:
    stage.store("garbage")
    one = stage.candidate()
    stage.run(9.999)
    assert (one.writes(), one.view.name) == ([], "")
    stage.run(10.0)
    assert one.leads()
    assert stage.record["holderIdentity"] == "pod-a"


def test_a_released_lock_is_taken_at_once(stage: Stage) -> None:
    stage.store(Record("", 1, "t", "t", 6), **{TOKEN: "500", "note": "keep"})
    one = stage.candidate()
    stage.run(0.0)
    assert one.leads()
    assert one.changes[-1] == (0.0, "pod-a", True)
    assert stage.annotations["note"] == "keep"
    record = stage.record
    assert list(record) == ["holderIdentity", "leaseDurationSeconds", "acquireTime", "renewTime", "leaderTransitions"]
    assert record["leaderTransitions"] == 7
    assert record["acquireTime"] == record["renewTime"] == "2026-09-21T14:13:20Z"
    assert (one.view.token, one.view.transitions) == (501, 7)
    assert stage.annotations[TOKEN] == "501"


def test_the_token_is_above_the_revision_that_was_read(stage: Stage) -> None:
    stage.server.revision = 9000
    stage.store(Record("", 1, "t", "t", 0), **{TOKEN: "12"})
    one = stage.leader()
    assert one.view.token == 9002  # the object was stored at 9001


def test_a_foreign_record_is_followed_and_taken_over_exactly_when_it_has_run_out(stage: Stage) -> None:
    stage.store(foreign())
    one = stage.candidate()
    stage.run(9.999)
    assert (one.view.name, one.view.leading, one.view.transitions) == ("pod-x", False, 4)
    assert one.writes() == []
    stage.run(10.0)
    assert one.leads()
    # The read comes after the time has passed, and only then the write.
    assert one.line.methods(9.0) == [(10.0, "GET"), (10.0, "PUT")]
    assert stage.record["leaderTransitions"] == 5


def test_a_lease_longer_than_our_own_is_waited_for(stage: Stage) -> None:
    stage.store(foreign(lease=60))
    one = stage.candidate()
    stage.run(59.999)
    assert (one.writes(), one.view.name) == ([], "pod-x")
    stage.run(60.0)
    assert one.leads()


def test_a_renewal_in_the_last_moment_is_seen_by_the_read_before_the_take_over(stage: Stage) -> None:
    stage.store(foreign())
    one = stage.candidate()
    stage.world.at(9.9, lambda: stage.overwrite(foreign(renewed="t1")))
    stage.run(19.999)
    assert one.writes() == []
    assert one.view.name == "pod-x"
    stage.run(20.0)
    assert one.leads()


def test_a_read_that_was_sent_before_the_time_has_passed_does_not_count(stage: Stage) -> None:
    # It may show what stood there before a renewal that came in time.
    stage.store(foreign())
    one = stage.candidate()
    one.line.back = 2.4375  # received then, so it runs out at 12.4375: just when the reply to the read of 10 comes
    stage.run(14.87)
    assert (10.0, "GET") in one.line.methods()
    assert one.line.methods(12.0) == [(12.4375, "GET")]
    stage.run(14.875)
    assert one.writes() == [(14.875, "PUT")]


def test_a_holder_that_has_run_out_is_named_no_longer_even_when_nothing_can_be_read(stage: Stage) -> None:
    # #2933, #2930: followers of the original went on naming a leader long gone.
    stage.store(foreign())
    one = stage.candidate()
    stage.run(1.0)
    one.line.cut = True
    stage.run(9.999)
    assert one.view.name == "pod-x"
    stage.run(10.0)
    assert one.view.name == ""
    stage.run(10.001)
    assert one.changes[-1] == (10.0, "", False)


def test_the_leader_dies_and_a_follower_takes_over_within_the_bound(stage: Stage) -> None:
    leader = stage.leader("pod-a")
    stage.run(1.0)
    follower = stage.candidate("pod-b")
    stage.run(6.0)  # the last renewal was at 5, and the follower has just looked
    leader.kill()
    assert follower.view.name == "pod-a"
    stage.run(15.999)
    assert (follower.view.name, follower.view.leading) == ("pod-a", False)
    stage.run(16.0)
    assert follower.leads()
    assert stage.record["leaderTransitions"] == 2


def test_many_on_a_missing_lock_are_one_leader(stage: Stage) -> None:
    many = [stage.candidate(f"pod-{number}") for number in range(5)]
    for number, one in enumerate(many):
        one.line.out = 0.01 * (5 - number)
    stage.run(40.0)
    leaders = [one.name for one in many if one.leads()]
    assert len(leaders) == 1
    assert {one.view.name for one in many} == set(leaders)
    assert sum(leading for one in many for _, _, leading in one.changes) == 1


def test_losing_the_race_to_create_the_lock_is_no_trouble(stage: Stage) -> None:
    one = stage.candidate()
    one.line.out = 1.0
    stage.world.at(2.5, lambda: stage.store(foreign()))  # between its read, which came back at 1, and its POST at 2
    stage.world.at(1.5, lambda: stage.store(foreign()))
    stage.run(5.0)
    assert one.view.name == "pod-x"


# Claiming (rules 1 to 3).


def test_a_claim_counts_from_before_its_write_was_sent(stage: Stage) -> None:
    stage.store(Record("", 1, "t", "t", 0))
    one = stage.candidate()
    one.line.out = one.line.back = 1.0
    stage.run(2.0)  # the read is back, the write goes out
    stage.run(3.999)
    assert not one.leads()
    stage.run(4.0)
    assert one.leads()
    assert one.view.expires_in == pytest.approx(3.0)


def test_a_claim_ends_by_itself_when_asked_after_its_end(stage: Stage) -> None:
    one = stage.leader()
    one.line.cut = True
    stage.run(4.999)
    assert one.view.expires_in == pytest.approx(0.001)
    stage.world.now = 5.0  # no callback has run: the answer alone has to know
    assert (one.view.name, one.view.leading, one.view.expires_in) == ("", False, 0.0)
    stage.run(5.5)
    assert one.changes[-1] == (5.0, "", False)


def test_a_claim_does_not_survive_a_freeze(stage: Stage) -> None:
    one = stage.leader()
    stage.run(1.0)
    one.loop.frozen_until = 13.0
    stage.run(12.999)
    assert not one.view.leading  # had it been asked
    stage.run(13.0)
    # Nobody else was there: the lock is still ours, and the renewal that goes out now makes a claim of its own.
    assert one.view.expires_in == pytest.approx(5.0)


def test_a_renewal_every_quarter_extends_the_claim(stage: Stage) -> None:
    one = stage.leader()
    stage.run(100.0)
    assert one.line.methods(0.1) == [(2.5 * number, "PUT") for number in range(1, 41)]
    assert one.view.expires_in == pytest.approx(5.0)
    assert len([leading for _, _, leading in one.changes if leading]) == 1
    assert stage.record["leaderTransitions"] == 1
    assert stage.record["acquireTime"] < stage.record["renewTime"]


def test_a_write_that_changed_nothing_extends_nothing(stage: Stage) -> None:
    one = stage.leader()
    one.line.fates["PUT"].extend([UNCHANGED] * 100)
    stage.run(4.999)
    assert one.view.expires_in == pytest.approx(0.001)
    stage.run(5.0)
    assert not one.leads()
    assert len(one.writes(2.0)) > 1  # it did try


@pytest.mark.parametrize("drift", [-1.0, -100.0], ids=["stands still", "goes back"])
def test_renew_time_grows_whatever_the_wall_clock_does(stage: Stage, drift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    one = stage.leader()
    monkeypatch.setattr(one.clock, "wall", lambda: WALL_START + (1 + drift) * stage.now)
    stage.run(50.0)
    times = [json.loads(body["metadata"]["annotations"][RECORD])["renewTime"] for _, method, body in one.line.sent if body]
    assert len(times) == 21
    assert times == sorted(set(times))
    assert one.leads()


def test_a_short_ttl_writes_microseconds_and_rounds_its_lease_up(stage: Stage) -> None:
    stage.leader(ttl=2.5)
    assert stage.record["leaseDurationSeconds"] == 3
    assert stage.record["renewTime"] == "2026-09-21T14:13:20.000000Z"


def test_whoever_sees_a_shorter_lease_claims_half_of_it(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.store(foreign(lease=4))
    one = stage.candidate()
    stage.run(10.0)
    assert one.view.expires_in == pytest.approx(2.0)
    assert [record for record in caplog.records if "states a lease of 4s, ours is 10s" in record.getMessage()]
    stage.run(60.0)
    assert one.leads()
    assert len([leading for _, _, leading in one.changes if leading]) == 1  # it renews often enough for that


def test_whoever_sees_a_longer_lease_claims_half_of_its_own(stage: Stage) -> None:
    stage.store(foreign(lease=20))
    one = stage.candidate(timing=Timing.of(10.0, 9.0, 2.5))
    stage.run(20.0)
    assert one.view.expires_in == pytest.approx(5.0)


# Unclear outcomes (rule 5).


def test_a_renewal_whose_reply_is_lost_counts_from_when_it_was_sent(stage: Stage) -> None:
    one = stage.leader()
    one.line.fates["PUT"].append(REPLY_LOST)
    stage.run(5.0)  # sent at 2.5, timed out at 5, read back
    assert one.line.methods(2.0)[:2] == [(2.5, "PUT"), (5.0, "GET")]
    assert one.view.expires_in == pytest.approx(2.5)


def test_a_renewal_that_lands_after_its_time_out_counts_from_when_it_was_sent(stage: Stage) -> None:
    one = stage.leader()
    one.line.fates["PUT"].extend([2.6, 0.0, REQUEST_LOST])
    stage.run(5.05)  # timed out and read back at 5: it is not there yet
    assert not one.leads()
    # It lands at 5.1, so that the next one is a conflict, and the read that follows shows it.
    stage.run(5.3)
    assert [method for _, method in one.line.methods(2.0)] == ["PUT", "GET", "PUT", "GET", "PUT"]
    assert one.view.expires_in == pytest.approx(2.2)


def test_an_acquisition_whose_reply_is_lost_is_ours_when_it_is_read_back(stage: Stage) -> None:
    stage.store(Record("", 1, "t", "t", 0))
    one = stage.candidate()
    one.line.fates["PUT"].append(REPLY_LOST)
    stage.run(2.499)
    assert not one.leads()
    stage.run(2.5)
    assert one.leads()
    assert one.view.expires_in == pytest.approx(2.5)


@pytest.mark.parametrize("fate", [REQUEST_LOST, REPLY_LOST])
def test_a_claim_is_not_made_of_hope(stage: Stage, fate: str) -> None:
    # The outcome cannot be read back either: nothing is claimed beyond the last certain write.
    one = stage.leader()
    one.line.fates["PUT"].extend([fate] * 9)
    one.line.fates["GET"].extend([REQUEST_LOST] * 9)
    stage.run(5.0)
    assert not one.leads()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_error_in_between_does_not_end_the_claim(stage: Stage, status: int) -> None:
    one = stage.leader()
    one.line.fates["PUT"].append(status)
    stage.run(30.0)
    assert len([leading for _, _, leading in one.changes if leading]) == 1
    assert one.leads()


def test_a_conflict_with_others_who_touch_the_object_is_settled_by_reading(stage: Stage) -> None:
    one = stage.leader()
    stage.world.at(1.0, stage.server.touch)
    stage.run(2.5)
    assert one.line.methods(2.0) == [(2.5, "PUT"), (2.5, "GET"), (2.5, "PUT")]
    assert one.view.expires_in == pytest.approx(5.0)
    assert stage.server.object is not None
    assert stage.server.object["subsets"]  # what they wrote is still there


def test_a_conflict_with_another_holder_ends_the_claim_at_once(stage: Stage) -> None:
    one = stage.leader()
    stage.world.at(1.0, lambda: stage.overwrite(foreign()))
    stage.run(2.5)
    assert (one.view.name, one.view.leading) == ("pod-x", False)
    assert one.line.methods(2.0) == [(2.5, "PUT"), (2.5, "GET")]
    stage.run(12.499)
    assert len(one.writes(2.0)) == 1


def test_a_server_that_is_not_there_is_waited_for_and_said_once(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.store(Record("", 1, "t", "t", 0))
    one = stage.candidate()
    one.line.cut = True
    with caplog.at_level(logging.INFO, "elector"):
        stage.run(30.0)
        said = [message for message in caplog.messages if "waiting for the API server" in message]
        assert said == ["connection refused; waiting for the API server"]
        seen = one.election.has_seen_lock
        assert not seen
        # Quick at first, then at the pace of retries (a fifth less by chance): neither silent nor a flood.
        assert 12 <= len(one.line.sent) <= 20
        one.line.cut = False
        stage.run(32.5)
    assert one.leads()
    assert one.election.has_seen_lock
    assert caplog.messages.count("the API server answers again") == 1


# One name, two processes (rule 9).


def test_two_processes_with_one_name_are_two(stage: Stage) -> None:
    first = stage.leader("pod-a")
    second = stage.candidate("pod-a")
    stage.run(9.0)
    assert first.leads()
    # Answering its own name would tell its application that it leads.
    assert (second.view.name, second.view.leading) == ("", False)
    assert second.writes() == []
    first.kill()
    stage.run(17.499)
    assert not second.leads()
    stage.run(17.5)  # it has seen the last renewal, of 7.5, in the same moment
    assert second.leads()
    assert stage.record["leaderTransitions"] == 1  # the holder's name has not changed


def test_our_name_written_by_another_makes_us_stand_down_and_say_so(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    one = stage.leader("pod-a")
    stage.world.at(1.0, lambda: stage.overwrite(foreign("pod-a")))
    stage.run(2.5)
    assert (one.view.name, one.view.leading) == ("", False)
    assert "another process writes this lock under our identity pod-a: standing down" in caplog.messages
    stage.run(12.499)
    assert len(one.writes(2.0)) == 1
    stage.run(12.5)
    assert one.leads()


def test_our_own_predecessors_lock_is_taken_over_at_once(stage: Stage) -> None:
    former = stage.leader("pod-a", instance="uid-1/elector")
    stage.run(3.0)
    token = former.view.token
    former.kill()
    after = stage.candidate("pod-a", instance="uid-1/elector")
    stage.run(3.0)
    assert after.leads()
    assert after.view.token > token
    assert stage.record["leaderTransitions"] == 1


@pytest.mark.parametrize(("name", "instance"), [("pod-a", "uid-2/elector"), ("pod-b", "uid-1/elector")])
def test_anybody_elses_is_not(stage: Stage, name: str, instance: str) -> None:
    former = stage.leader("pod-a", instance="uid-1/elector")
    stage.run(3.0)
    former.kill()
    after = stage.candidate(name, instance=instance)
    stage.run(12.999)
    assert after.writes() == []
    stage.run(13.0)
    assert after.leads()


# Giving up (rule 8).


def test_a_native_sidecar_releases_at_once(stage: Stage) -> None:
    one = stage.leader(sidecar=Sidecar.NATIVE)
    one.do(one.election.tell_name)
    stage.run(1.0)
    one.do(one.election.terminate)
    assert not one.view.leading
    stage.run(1.0)
    assert stage.record["holderIdentity"] == ""
    assert stage.record["leaseDurationSeconds"] == 1
    assert stage.record["leaderTransitions"] == 1
    assert one.changes[-1] == (1.0, "", False)
    stage.run(1.0 + one.election.timing.retry_period)
    assert one.ended()


def test_a_follower_takes_what_was_released_at_its_next_look(stage: Stage) -> None:
    one = stage.leader("pod-a", sidecar=Sidecar.NATIVE)
    stage.run(1.0)
    two = stage.candidate("pod-b")
    stage.run(4.0)
    one.do(one.election.terminate)
    stage.run(6.0)
    assert two.leads()
    assert two.line.methods(4.1) == [(6.0, "GET"), (6.0, "PUT")]


def test_who_told_nobody_releases_at_once(stage: Stage) -> None:
    one = stage.leader(sidecar=Sidecar.UNSET)
    stage.run(1.0)
    one.do(one.election.terminate)
    stage.run(1.0)
    assert stage.record["holderIdentity"] == ""
    stage.run(1.0 + one.election.timing.retry_period)
    assert one.ended()


def test_who_told_the_name_keeps_the_lock_until_it_is_believed_no_more(stage: Stage) -> None:
    one = stage.leader(sidecar=Sidecar.UNSET)
    stage.run(1.0)
    one.do(one.election.tell_name)  # believed until 5.5
    stage.run(2.0)
    one.do(one.election.terminate)
    assert (one.view.name, one.view.leading, one.view.expires_in) == ("", False, 0.0)
    stage.run(5.499)
    assert not one.ended()
    assert one.writes(0.1) == [(2.5, "PUT"), (5.0, "PUT")]  # kept renewed, claimed by nobody
    assert stage.record["holderIdentity"] == "pod-a"
    stage.run(5.5)
    assert one.ended()
    assert stage.record["holderIdentity"] == ""


def test_who_told_the_claim_keeps_the_lock_until_its_end(stage: Stage) -> None:
    one = stage.leader(sidecar=Sidecar.UNSET)
    stage.run(2.6)
    assert one.do(one.election.tell_claim).expires_in == pytest.approx(4.9)
    one.do(one.election.terminate)
    stage.run(7.499)
    assert not one.ended()
    stage.run(7.5)
    assert one.ended()
    assert stage.record["holderIdentity"] == ""


def test_what_was_told_while_not_leading_keeps_nothing(stage: Stage) -> None:
    stage.store(foreign())
    one = stage.candidate()
    stage.run(9.0)
    one.do(one.election.tell_name)
    one.do(one.election.tell_claim)
    stage.run(10.5)
    assert one.leads()
    one.do(one.election.terminate)
    stage.run(10.5)
    assert stage.record["holderIdentity"] == ""


def test_a_classic_sidecar_goes_on_until_the_drain_time_and_then_as_the_unset(stage: Stage) -> None:
    one = stage.leader(sidecar=Sidecar.CLASSIC, drain=20.0)
    stage.run(1.0)
    one.do(one.election.terminate)
    stage.run(20.5)
    assert one.leads()
    one.do(one.election.tell_name)  # believed until 25
    stage.run(20.999)
    assert one.leads()
    stage.run(21.0)
    assert not one.leads()
    stage.run(24.999)
    assert (one.ended(), stage.record["holderIdentity"]) == (False, "pod-a")
    stage.run(25.0)
    assert (one.ended(), stage.record["holderIdentity"]) == (True, "")


def test_a_classic_sidecar_releases_when_its_application_has_ended(stage: Stage) -> None:
    one = stage.leader(sidecar=Sidecar.CLASSIC, drain=20.0)
    one.do(one.election.tell_name)
    stage.run(1.0)
    one.do(one.election.terminate)
    stage.run(3.0)
    assert one.do(one.election.resign)
    assert not one.leads()
    stage.run(3.0)
    assert (one.ended(), stage.record["holderIdentity"]) == (True, "")


@pytest.mark.parametrize("sidecar", list(Sidecar))
def test_who_only_follows_ends_at_once_and_writes_nothing(stage: Stage, sidecar: Sidecar) -> None:
    stage.store(foreign())
    one = stage.candidate(sidecar=sidecar, drain=20.0)
    stage.run(5.1)
    one.do(one.election.terminate)
    stage.run(5.1)
    assert one.ended()
    assert one.writes() == []


@pytest.mark.parametrize("sidecar", list(Sidecar))
def test_nothing_is_acquired_after_termination(stage: Stage, sidecar: Sidecar) -> None:
    stage.store(foreign())
    one = stage.candidate(sidecar=sidecar, drain=20.0)
    one.line.back = 1.0
    stage.run(10.5)  # the read before the take-over is under way
    assert one.line.methods(10.0) == [(10.0, "GET")]
    one.do(one.election.terminate)
    stage.run(30.0)
    assert one.ended()
    assert one.writes() == []


def test_an_acquisition_under_way_at_termination_is_released_and_never_claimed(stage: Stage) -> None:
    stage.store(Record("", 1, "t", "t", 0))
    one = stage.candidate()
    one.line.back = 1.0
    stage.run(1.5)
    assert one.writes() == [(1.0, "PUT")]
    one.do(one.election.terminate)
    stage.run(2.0)
    stage.run(3.0)
    assert one.ended()
    assert stage.record["holderIdentity"] == ""
    assert not any(leading for _, _, leading in one.changes)


def test_terminating_twice_is_terminating_once(stage: Stage) -> None:
    one = stage.leader()
    one.do(one.election.tell_name)
    one.do(one.election.terminate)
    stage.run(1.0)
    one.do(one.election.terminate)
    stage.run(4.499)
    assert not one.ended()
    stage.run(4.5)
    assert one.ended()


def test_a_release_that_cannot_be_written_is_tried_again_and_given_up_in_the_end(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    one = stage.leader(sidecar=Sidecar.NATIVE)
    stage.run(3.0)
    one.line.cut = True
    one.do(one.election.terminate)
    stage.run(22.0)
    assert not one.ended()
    assert len(one.writes(3.0)) > 5
    stage.run(26.0)  # two ttl after the last renewal everybody else has taken over anyway
    assert one.ended()
    assert "the lock could not be released: others take over when it has run out" in caplog.messages


def test_a_release_that_fails_once_comes_through_a_moment_later(stage: Stage) -> None:
    one = stage.leader(sidecar=Sidecar.NATIVE)
    stage.run(1.0)
    one.line.fates["PUT"].append(REFUSED_CONNECTION)
    one.do(one.election.terminate)
    stage.run(1.25)
    assert stage.record["holderIdentity"] == ""


def test_who_resigns_releases_at_once_and_stands_again_a_ttl_later(stage: Stage) -> None:
    one = stage.leader()
    one.do(one.election.tell_name)
    stage.run(1.0)
    token = one.view.token
    assert one.do(one.election.resign)
    assert (one.view.name, one.view.leading) == ("", False)
    stage.run(1.0)
    assert stage.record["holderIdentity"] == ""
    assert not one.ended()
    stage.run(10.999)
    assert len(one.writes(0.5)) == 1  # the release
    stage.run(11.0)
    assert one.leads()
    assert one.view.token > token


def test_who_resigns_lets_others_lead(stage: Stage) -> None:
    one, two = stage.leader("pod-a"), stage.candidate("pod-b")
    stage.run(1.0)
    one.do(one.election.resign)
    stage.run(2.5)
    assert two.leads()
    assert one.view.name in ("", "pod-b")
    stage.run(30.0)
    assert two.leads()
    assert one.view.name == "pod-b"


def test_only_a_leader_can_resign(stage: Stage) -> None:
    stage.store(foreign())
    one = stage.candidate()
    stage.run(9.0)
    assert one.do(one.election.resign) is False
    stage.run(10.0)
    assert one.leads()  # and it costs nothing to have asked


# What others do to the lock (rules 6 and 7).


@pytest.mark.parametrize("loss", ["deleted", "record removed", "garbage", "created anew by others"])
def test_what_is_lost_is_put_back_while_the_claim_holds(stage: Stage, loss: str) -> None:
    one, other = stage.leader("pod-a"), stage.candidate("pod-b")
    token = one.view.token

    def lose() -> None:
        if loss == "record removed":
            stage.overwrite(None)
        elif loss == "garbage":
            stage.overwrite("garbage")
        else:
            stage.server.delete()
            if loss == "created anew by others":
                stage.store(Record("", 1, "t", "t", 0))

    stage.world.at(1.0, lose)
    stage.run(60.0)
    assert one.leads()
    assert [leading for _, _, leading in one.changes if leading] == [True]
    assert one.changes[-1][0] == 0.0  # nobody ever saw it not leading
    assert one.view.token >= token
    assert stage.record["holderIdentity"] == "pod-a"
    assert stage.record["leaderTransitions"] == 1
    assert other.view.name == "pod-a"
    assert not any(leading for _, _, leading in other.changes)


def test_what_is_found_lost_after_the_claims_end_is_not_put_back(stage: Stage) -> None:
    one = stage.leader()
    stage.run(1.0)
    one.line.cut = True
    stage.server.delete()
    stage.run(6.0)
    one.line.cut = False
    stage.run(8.5)
    assert not one.leads()
    assert stage.record["holderIdentity"] == PLACEHOLDER
    stage.run(14.0)
    assert not one.leads()
    stage.run(20.0)
    assert one.leads()


def test_after_its_claim_was_given_up_what_is_lost_stays_lost(stage: Stage) -> None:
    one = stage.leader(sidecar=Sidecar.NATIVE)
    stage.run(1.0)
    stage.server.delete()
    one.do(one.election.terminate)
    stage.run(4.0)
    assert one.ended()
    assert stage.server.object is None or stage.record["holderIdentity"] in ("", PLACEHOLDER)


def test_a_token_grows_also_over_a_deleted_lock(stage: Stage) -> None:
    one = stage.leader("pod-a")
    two = stage.candidate("pod-b")
    stage.run(1.0)
    token = one.view.token
    one.kill()
    stage.server.delete()
    stage.run(30.0)
    assert two.leads()
    assert two.view.token > token


def test_a_server_that_lost_its_past_makes_the_leader_start_over(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    one = stage.leader()
    stage.run(1.0)

    def restore() -> None:
        assert stage.server.object is not None
        stage.server.revision = 50
        stage.server.object["metadata"]["resourceVersion"] = "50"

    stage.world.at(1.0, restore)
    stage.run(2.5)
    assert not one.leads()
    assert any("lost part of its past" in message for message in caplog.messages)
    stage.run(12.499)
    assert not one.leads()
    assert len(one.writes(2.0)) == 1
    stage.run(12.5)
    assert one.leads()


# Telling.


def test_whoever_waits_hears_of_every_change_and_of_a_lapse(stage: Stage) -> None:
    one = stage.leader()
    heard: list[tuple[float, bool]] = []

    async def listen() -> None:
        while True:
            await one.election.changed()
            heard.append((stage.now, one.view.leading))

    task = one.do(lambda: one.loop.create_task(listen()))
    stage.run(1.0)
    one.line.cut = True
    stage.run(6.0)
    assert heard == [(5.0, False)]
    one.line.cut = False
    stage.run(9.0)
    assert [leading for _, leading in heard] == [False, True]
    one.do(task.cancel)
    stage.run(9.0)


def test_how_late_the_loop_is(stage: Stage) -> None:
    one = stage.leader()
    stage.run(2.4)
    assert one.election.stuck_for == pytest.approx(-0.1)
    one.loop.frozen_until = 20.0
    stage.run(12.5)
    assert one.election.stuck_for == pytest.approx(10.0)


def test_a_silent_server_makes_nobody_late(stage: Stage) -> None:
    # Else the liveness probe would restart every elector of a cluster whose API server is down.
    one = stage.leader()
    for method in one.line.fates:
        one.line.fates[method].extend([REQUEST_LOST] * 100)
    latest = 0.0
    for step in range(1, 240):
        stage.run(step / 4)
        latest = max(latest, one.election.stuck_for)
    assert latest <= 5.0  # a write and the read after it
