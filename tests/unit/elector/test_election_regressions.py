"""Bugs of the election that were found once, each with the test that shows it."""

from __future__ import annotations

import json

import pytest

from elector._election import Sidecar
from elector._record import Malformed, Record, parse_record
from elector._server import Request
from tests.unit.elector.test_election import REQUEST_LOST, Stage, foreign, stage

__all__ = ["stage"]

FREE = Record("", 1, "t", "t", 0)


def test_refused_writes_are_not_remembered_and_do_not_hold_up_the_end(stage: Stage) -> None:
    stage.store(foreign())
    one = stage.candidate()
    one.line.fates["PUT"].extend([403] * 1000)
    stage.run(300.0)
    one.do(one.election.terminate)
    stage.run(301.0)
    assert one.ended()


def test_a_lost_acquisition_does_not_hold_up_the_end_for_ever(stage: Stage) -> None:
    stage.store(FREE)
    one = stage.candidate()
    one.line.fates["PUT"].append(REQUEST_LOST)
    stage.run(1.0)
    one.do(one.election.terminate)
    stage.run(21.0)
    assert one.ended()


def test_conflicts_that_a_read_does_not_explain_are_paced(stage: Stage) -> None:
    one = stage.leader()
    one.line.fates["PUT"].extend([409] * 1000)
    one.line.out = one.line.back = 0.001
    stage.run(5.5)
    assert len(one.line.methods(2.5)) < 20


def test_the_process_ends_as_soon_as_the_lock_is_released(stage: Stage) -> None:
    one = stage.leader(sidecar=Sidecar.NATIVE, ttl=600.0)
    stage.run(1.0)
    one.do(one.election.terminate)
    stage.run(1.1)
    assert one.ended()


def test_an_application_that_resigns_while_we_wait_for_its_beliefs_to_end_is_heard(stage: Stage) -> None:
    one = stage.leader()
    one.do(one.election.tell_claim)
    stage.run(1.0)
    one.do(one.election.terminate)
    stage.run(2.0)
    assert stage.record["holderIdentity"] == "pod-a"
    assert one.do(one.election.resign)
    stage.run(2.1)
    assert stage.record["holderIdentity"] == ""


def test_resigning_counts_also_while_the_claim_has_lapsed(stage: Stage) -> None:
    one = stage.leader()
    one.line.cut = True
    stage.run(6.0)
    assert one.do(one.election.resign)
    one.line.cut = False
    stage.run(8.0)
    assert not one.leads()
    assert stage.record["holderIdentity"] == ""


def test_resigning_counts_also_while_the_lock_is_being_acquired(stage: Stage) -> None:
    stage.store(FREE)
    one = stage.candidate()
    one.line.back = 1.0
    stage.run(1.5)
    assert one.do(one.election.resign)
    stage.run(4.0)
    assert not one.leads()
    assert stage.record["holderIdentity"] == ""


def test_a_released_lock_is_not_asked_for_again_and_again_after_a_failure(stage: Stage) -> None:
    stage.store(FREE)
    one = stage.candidate()
    # Once the turns went round without time passing, until the pause after the failure was over.
    one.line.fates["PUT"].append(503)
    stage.run(1.0)
    assert one.leads()
    assert len(one.line.sent) < 8


def test_half_a_character_in_a_record_is_malformed_and_answers_go_on(stage: Stage) -> None:
    text = '{"holderIdentity":"a\\ud800","leaseDurationSeconds":10}'
    with pytest.raises(Malformed):
        parse_record(text)
    stage.store(text)
    one = stage.candidate()
    stage.run(1.0)
    coroutine = one.answers(Request("GET", "/", "", "127.0.0.1"))
    with pytest.raises(StopIteration) as stop:
        one.do(lambda: coroutine.send(None))
    assert stop.value.value.body == b'{"name":""}'


def test_more_transitions_than_go_can_read_are_not_written_back(stage: Stage) -> None:
    record = json.loads(foreign().to_json())
    stage.store(json.dumps({**record, "leaderTransitions": 10**30}))
    one = stage.candidate()
    stage.run(11.0)
    assert one.leads()
    assert stage.record["leaderTransitions"] == 2**31 - 1


def test_a_predecessor_that_led_for_less_than_a_second_is_followed_at_once(stage: Stage) -> None:
    """From a ttl of 5 s on records have whole seconds: the successor's read the same, and counted as unchanged."""
    stage.store(FREE)
    former = stage.candidate("pod-a", instance="uid-1/elector", ttl=30.0)
    stage.run(0.2)
    assert former.leads()
    former.kill()
    after = stage.candidate("pod-a", instance="uid-1/elector", ttl=30.0)
    stage.run(0.4)
    assert after.leads()


def test_a_successor_keeps_the_lock_as_long_as_its_predecessor_may_be_believed(stage: Stage) -> None:
    """The application beside it goes on, with what it was told before the restart."""
    former = stage.leader("pod-a", instance="uid-1/elector")
    stage.run(3.0)
    former.kill()
    after = stage.candidate("pod-a", instance="uid-1/elector")
    stage.run(3.2)
    assert after.leads()
    after.do(after.election.terminate)
    stage.run(7.9)
    assert stage.record["holderIdentity"] == "pod-a"
    stage.run(8.5)
    assert stage.record["holderIdentity"] == ""
