"""What one process makes of the states it sees: rules 3 to 6 and 9, one by one, by its own clock alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from elector._lock import LockState, Mark
from elector._observer import Observer, Sight, Write
from elector._record import PLACEHOLDER, Malformed, Record, parse_record

TTL = 10.0
ME, MINE = "pod-a", "pod-a-uid/elector"
OTHERS = "pod-b-uid/elector"


def record(holder: str, lease: int = 10, renewed: str = "t0", transitions: int = 0) -> Record:
    return Record(holder, lease, "t0", renewed, transitions)


def state(what: Record | str | None, version: int = 1, *, uid: str = "u-1", instance: str = "", token: int = 0) -> LockState:
    """A lock object with that record (or text, or none)."""
    text = what.to_json() if isinstance(what, Record) else what
    parsed, malformed = None, ""
    if text is not None:
        try:
            parsed = parse_record(text)
        except Malformed as error:
            malformed = str(error)
    raw: dict[str, Any] = {"metadata": {"uid": uid, "resourceVersion": str(version)}}
    return LockState(uid, str(version), text, parsed, malformed, token, instance, raw)


def observer(ttl: float = TTL) -> Observer:
    return Observer(ME, MINE, ttl)


def write(base: LockState, holder: str = ME, renewed: str = "t1", sent: float = 0.0, lease: int = 10) -> Write:
    mark = Mark(record(holder, lease, renewed), 7, MINE)
    return Write(base, mark, mark.record.to_json(), sent)


def landed(what: Write, version: int) -> LockState:
    return state(what.mark.record, version, uid=what.base.uid, instance=what.mark.instance, token=7)


def holding(sent: float = 0.0) -> tuple[Observer, Write]:
    """An observer whose process has just got the lock (version 2)."""
    watching = observer()
    free = state(record(""), 1)
    watching.saw(free, 0.0)
    mine = write(free, sent=sent)
    watching.sends(mine)
    watching.saw(landed(mine, 2), sent + 1.0)
    assert watching.sight is Sight.OURS
    return watching, mine


def ours(watching: Observer) -> Write | None:
    return watching.ours


def test_nothing_seen_yet() -> None:
    watching = observer()
    assert watching.sight is Sight.UNSEEN
    assert watching.holder == ""
    assert not watching.may_hold
    assert not watching.usurped


# Rule 4: stale is what has not changed for the time that it states, since this process received it.


def test_a_foreign_record_counts_from_its_receipt_for_what_it_states() -> None:
    watching = observer()
    watching.saw(state(record("pod-b", 30)), 100.0)
    assert (watching.sight, watching.holder) == (Sight.FOREIGN, "pod-b")
    assert (watching.seen_at, watching.free_at) == (100.0, 130.0)


def test_times_in_the_record_play_no_part() -> None:
    for renewed in ("2001-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "rubbish", ""):
        watching = observer()
        watching.saw(state(record("pod-b", 10, renewed)), 5.0)
        assert watching.free_at == 15.0


def test_less_than_our_own_ttl_is_never_waited() -> None:
    # A holder whose record was missed may stand behind the one that is seen.
    watching = observer()
    watching.saw(state(record("pod-b", 1)), 5.0)
    assert watching.free_at == 15.0


def test_every_renewal_starts_the_time_anew() -> None:
    watching = observer()
    watching.saw(state(record("pod-b", 10, "t1"), 1), 0.0)
    watching.saw(state(record("pod-b", 10, "t2"), 2), 4.0)
    assert watching.free_at == 14.0


def test_the_same_record_again_does_not() -> None:
    # Else a lock that others touch (a Service's controller) would never run out.
    watching = observer()
    watching.saw(state(record("pod-b"), 1), 0.0)
    watching.saw(state(record("pod-b"), 1), 4.0)
    watching.saw(state(record("pod-b"), 9), 8.0)
    assert (watching.seen_at, watching.free_at) == (0.0, 10.0)
    assert watching.state is not None
    assert watching.state.version == "9"  # but the next write compares with what stands there now


def test_a_change_of_the_instance_alone_is_a_change() -> None:
    watching = observer()
    watching.saw(state(record("pod-b"), 1, instance="x"), 0.0)
    watching.saw(state(record("pod-b"), 2, instance="y"), 4.0)
    assert watching.free_at == 14.0


def test_a_change_of_the_token_alone_is_a_change() -> None:
    # Somebody acquired the lock in between, and then a stranger wrote the same record over it a second time.
    watching = observer()
    watching.saw(state(record("stranger"), 1, token=3), 0.0)
    watching.saw(state(record("stranger"), 9, token=7), 8.0)
    assert watching.free_at == 18.0


def test_a_new_holder_without_a_release_is_waited_for_as_long_as_the_former_stated() -> None:
    watching = observer()
    watching.saw(state(record("pod-b", 60), 1), 0.0)
    watching.saw(state(record("pod-c", 10), 2), 50.0)
    assert watching.free_at == 110.0  # pod-b may believe in its claim until then
    watching.saw(state(record("pod-c", 10, "t1"), 3), 55.0)
    assert watching.free_at == 110.0  # and a renewal of pod-c does not make that shorter


def test_after_a_release_the_former_holder_counts_no_more() -> None:
    watching = observer()
    watching.saw(state(record("pod-b", 60), 1), 0.0)
    watching.saw(state(record("", 1), 2), 5.0)
    watching.saw(state(record("pod-c", 10), 3), 6.0)
    assert watching.free_at == 16.0


# Rule 6: what is free at once, and what is only unknown.


def test_an_empty_holder_is_free_at_once() -> None:
    watching = observer()
    watching.saw(state(record("", 1)), 3.0)
    assert (watching.sight, watching.free_at, watching.holder) == (Sight.FREE, 3.0, "")


def test_a_release_seen_later_is_free_at_once() -> None:
    watching = observer()
    watching.saw(state(record("pod-b", 60), 1), 0.0)
    watching.saw(state(record("", 1), 2), 5.0)
    assert (watching.sight, watching.free_at) == (Sight.FREE, 5.0)


def test_an_empty_holder_under_a_new_uid_is_not_free() -> None:
    # Somebody deleted the lock and created it anew: the one who led has released nothing.
    watching = observer()
    watching.saw(state(record("pod-b", 30), 1), 0.0)
    watching.saw(state(record("", 1), 9, uid="u-2"), 5.0)
    assert (watching.sight, watching.free_at) == (Sight.UNKNOWN, 35.0)
    watching.saw(state(record("", 1), 9, uid="u-2"), 20.0)
    assert (watching.sight, watching.free_at) == (Sight.UNKNOWN, 35.0)


def test_an_empty_holder_after_the_object_was_missing_is_not_free() -> None:
    watching = observer()
    watching.saw(None, 0.0)
    watching.saw(state(record("", 1), 9), 1.0)
    assert (watching.sight, watching.free_at) == (Sight.UNKNOWN, 11.0)


@pytest.mark.parametrize("what", [None, "garbage", "{}", '{"holderIdentity":"x","leaseDurationSeconds":0}'])
def test_no_record_or_a_malformed_one_is_unknown(what: str | None) -> None:
    watching = observer()
    watching.saw(state(what), 3.0)
    assert (watching.sight, watching.holder, watching.free_at) == (Sight.UNKNOWN, "", 13.0)


def test_a_missing_object_is_unknown_even_at_first_sight() -> None:
    watching = observer()
    watching.saw(None, 3.0)
    assert (watching.sight, watching.free_at) == (Sight.UNKNOWN, 13.0)


@pytest.mark.parametrize("lost", [None, state(None, 2), state("garbage", 2), state(None, 2, uid="u-2")])
def test_what_is_lost_is_waited_for_as_long_as_it_stated(lost: LockState | None) -> None:
    watching = observer()
    watching.saw(state(record("pod-b", 60), 1), 0.0)
    watching.saw(lost, 20.0)
    assert (watching.sight, watching.free_at) == (Sight.UNKNOWN, 80.0)


def test_the_placeholder_is_nobody_and_waited_out() -> None:
    watching = observer()
    watching.saw(None, 0.0)
    watching.saw(state(record(PLACEHOLDER), 1), 1.0)
    assert (watching.sight, watching.holder, watching.free_at) == (Sight.UNKNOWN, "", 11.0)


@pytest.mark.parametrize("what", [None, "garbage", "{}", '{"holderIdentity":7}'])
def test_what_says_nothing_has_to_stand_still_as_a_whole(what: str | None) -> None:
    # Somebody may have acquired the lock between two looks, and lost the record in the same way again.
    watching = observer()
    watching.saw(state(what, 1), 0.0)
    watching.saw(state(what, 1), 5.0)
    assert watching.free_at == 10.0
    watching.saw(state(what, 2), 8.0)
    assert watching.free_at == 18.0


def test_the_placeholder_may_be_touched_by_others() -> None:
    watching = observer()
    watching.saw(state(record(PLACEHOLDER), 1), 0.0)
    watching.saw(state(record(PLACEHOLDER), 2), 8.0)
    assert watching.free_at == 10.0


def test_still_missing_does_not_start_the_time_anew() -> None:
    watching = observer()
    watching.saw(None, 0.0)
    watching.saw(None, 5.0)
    assert watching.free_at == 10.0


# Rule 5: a state is ours when it is any write of this process that is still unanswered, with that write's time.


def test_a_write_in_its_reply_is_ours_since_before_it_was_sent() -> None:
    watching, mine = holding(sent=3.0)
    assert watching.ours is mine
    assert watching.ours.sent == 3.0
    assert watching.may_hold
    assert not watching.usurped


def test_a_write_that_landed_although_it_timed_out_is_recognised() -> None:
    watching, first = holding()
    base = landed(first, 2)
    late = write(base, renewed="t2", sent=5.0)
    watching.sends(late)
    watching.saw(base, 8.0)  # read after the time-out: not there yet
    assert watching.ours is first
    watching.saw(landed(late, 3), 9.0)
    assert watching.ours is late
    assert watching.ours.sent == 5.0


def test_of_two_unanswered_writes_the_one_that_stands_there_counts() -> None:
    watching, first = holding()
    base = landed(first, 2)
    one, two = write(base, renewed="t2", sent=5.0), write(base, renewed="t3", sent=8.0)
    watching.sends(one)
    watching.sends(two)
    watching.saw(landed(one, 3), 9.0)
    assert ours(watching) is one
    # The other compared with a resourceVersion that is gone: it can land no more.
    watching.saw(state(record(ME, renewed="t3"), 4, instance=MINE), 10.0)
    assert ours(watching) is None
    assert watching.usurped


def test_a_write_may_land_as_long_as_its_base_stands() -> None:
    watching = observer()
    base = state(record("pod-b"), 1)
    watching.saw(base, 0.0)
    mine = write(base, sent=11.0)
    watching.sends(mine)
    watching.saw(base, 13.0)
    assert watching.may_hold
    watching.saw(state(record("pod-b"), 2), 14.0)  # touched by somebody: the write compares with version 1
    assert not watching.may_hold


def test_a_write_that_never_left_holds_nothing() -> None:
    watching = observer()
    base = state(record(""), 1)
    watching.saw(base, 0.0)
    mine = write(base)
    watching.sends(mine)
    assert watching.may_hold
    watching.certainly_failed(mine)
    assert not watching.may_hold


def test_a_write_does_not_stand_in_a_new_object_with_the_same_text() -> None:
    watching, mine = holding()
    watching.saw(replace(landed(mine, 9), uid="u-2"), 4.0)
    assert watching.ours is None
    assert watching.usurped


def test_a_write_does_not_stand_under_anothers_instance() -> None:
    # Two processes with one name in the same second write the same text.
    watching = observer()
    base = state(record(""), 1)
    watching.saw(base, 0.0)
    mine = write(base)
    watching.sends(mine)
    watching.saw(replace(landed(mine, 2), instance=OTHERS), 1.0)
    assert watching.ours is None
    assert watching.usurped


def test_our_record_after_others_touched_the_object_is_still_ours() -> None:
    watching, mine = holding()
    watching.saw(landed(mine, 8), 4.0)
    assert watching.ours is mine


def test_our_release_is_free_at_once() -> None:
    watching, mine = holding()
    released = write(landed(mine, 2), holder="", lease=1, renewed="t2", sent=4.0)
    assert not released.holds
    watching.sends(released)
    watching.saw(landed(released, 3), 4.5)
    assert (watching.sight, watching.ours, watching.may_hold) == (Sight.FREE, None, False)


def test_what_we_lost_is_waited_for_as_our_own_record_stated() -> None:
    watching, _ = holding()
    watching.saw(None, 20.0)
    assert (watching.sight, watching.free_at) == (Sight.UNKNOWN, 30.0)
    assert not watching.may_hold


# Rule 9: our name, written by somebody else.


def test_our_name_that_we_did_not_write_is_foreign() -> None:
    watching = observer()
    watching.saw(state(record(ME), 1, instance=OTHERS), 0.0)
    assert (watching.sight, watching.free_at) == (Sight.FOREIGN, 10.0)
    assert watching.usurped
    assert not watching.may_hold
    assert not watching.from_predecessor


def test_without_an_instance_it_is_no_predecessors() -> None:
    # The original writes none.
    watching = observer()
    watching.saw(state(record(ME), 1), 0.0)
    assert not watching.from_predecessor


def test_our_name_and_our_instance_is_our_predecessors() -> None:
    watching = observer()
    watching.saw(state(record(ME), 1, instance=MINE), 0.0)
    assert watching.from_predecessor


def test_our_instance_under_another_name_is_not() -> None:
    watching = observer()
    watching.saw(state(record("pod-b"), 1, instance=MINE), 0.0)
    assert not watching.from_predecessor


def test_once_we_have_held_there_is_no_predecessor_any_more() -> None:
    watching, _ = holding()
    watching.saw(state(record(ME, renewed="t9"), 3, instance=MINE), 4.0)
    assert watching.usurped
    assert not watching.from_predecessor


# Rule 7, as far as reading goes: a resourceVersion that went down.


def test_a_past_that_is_gone_makes_everything_unknown() -> None:
    watching, mine = holding()
    watching.saw(landed(mine, 8), 4.0)
    watching.saw(landed(mine, 2), 6.0)  # the very state we wrote, but an older past
    assert watching.rewound
    assert watching.ours is None
    assert watching.free_at == 16.0


def test_after_a_lost_past_even_an_empty_holder_is_waited_out() -> None:
    watching = observer()
    watching.saw(state(record("pod-b", 30), 50), 0.0)
    watching.saw(state(record(""), 20), 5.0)
    assert watching.rewound
    assert (watching.sight, watching.free_at) == (Sight.UNKNOWN, 35.0)


def test_a_lower_version_of_another_object_is_no_lost_past() -> None:
    watching = observer()
    watching.saw(state(record("pod-b"), 50), 0.0)
    watching.saw(state(record("pod-b"), 20, uid="u-2"), 5.0)
    assert not watching.rewound


# Rule 2: others' leases.


def test_the_shortest_lease_of_others_is_remembered() -> None:
    watching = observer()
    watching.saw(state(record("pod-b", 10), 1), 0.0)
    assert watching.odd_lease is None
    for version, (lease, expected) in enumerate([(20, 20), (6, 6), (8, 6), (10, 6)], start=2):
        watching.saw(state(record("pod-b", lease), version), float(version))
        assert watching.odd_lease == expected


def test_a_ttl_that_is_rounded_up_in_its_record_is_the_same() -> None:
    watching = observer(ttl=2.5)
    watching.saw(state(record("pod-b", 3)), 0.0)
    assert watching.odd_lease is None
