"""The record: the original's bytes out, everybody's records in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elector._record import LONGEST_LEASE, PLACEHOLDER, Malformed, Record, format_time, lease_seconds, parse_record, time_unit

ORIGINAL = (
    '{"holderIdentity":"pod-a","leaseDurationSeconds":10,"acquireTime":"2026-11-22T08:04:29Z",'
    '"renewTime":"2026-11-22T08:04:40Z","leaderTransitions":0}'
)
MOMENT = 1_795_334_669_250_000  # 2026-11-22T08:04:29.25Z


def test_writes_the_originals_bytes() -> None:
    record = Record("pod-a", 10, "2026-11-22T08:04:29Z", "2026-11-22T08:04:40Z", 0)
    assert record.to_json() == ORIGINAL


def test_reads_the_originals() -> None:
    assert parse_record(ORIGINAL) == Record("pod-a", 10, "2026-11-22T08:04:29Z", "2026-11-22T08:04:40Z", 0)


def test_reads_a_modern_client_gos() -> None:
    text = (
        '{"holderIdentity":"pod-b_7c1e","leaseDurationSeconds":15,"acquireTime":"2026-11-22T08:04:29.123456Z",'
        '"renewTime":"2026-11-22T08:04:40.654321Z","leaderTransitions":7,"strategy":"OldestEmulationVersion","preferredHolder":""}'
    )
    assert parse_record(text) == Record("pod-b_7c1e", 15, "2026-11-22T08:04:29.123456Z", "2026-11-22T08:04:40.654321Z", 7)


def test_reads_client_gos_release() -> None:
    text = (
        '{"holderIdentity":"","leaseDurationSeconds":1,"acquireTime":"2026-11-22T08:04:40Z",'
        '"renewTime":"2026-11-22T08:04:40Z","leaderTransitions":3}'
    )
    record = parse_record(text)
    assert (record.holder, record.lease, record.transitions) == ("", 1, 3)


def test_reads_pythons() -> None:
    # kubernetes.leaderelection: every number a string, times as str(datetime).
    text = json.dumps(
        {
            "holderIdentity": "candidate-1",
            "leaseDurationSeconds": "17",
            "acquireTime": "2026-11-22 08:04:29.123456",
            "renewTime": "2026-11-22 08:04:40.654321",
            "leaderTransitions": "2",
        }
    )
    assert parse_record(text) == Record("candidate-1", 17, "2026-11-22 08:04:29.123456", "2026-11-22 08:04:40.654321", 2)


@pytest.mark.parametrize("lease", [1, LONGEST_LEASE, "1", str(LONGEST_LEASE)])
def test_the_limits_of_a_lease(lease: object) -> None:
    assert parse_record(json.dumps({"holderIdentity": "a", "leaseDurationSeconds": lease})).lease == int(str(lease))


@pytest.mark.parametrize(
    "lease", [0, -1, LONGEST_LEASE + 1, 10**30, "", "0", "x", "-5", "1.5", "９", "1" * 19, 10.0, 1e400, True, None, [], {}]
)
def test_a_holder_with_another_lease_is_malformed(lease: object) -> None:
    with pytest.raises(Malformed, match="leaseDurationSeconds is not 1 to 3600"):
        parse_record(json.dumps({"holderIdentity": "a", "leaseDurationSeconds": lease}))


def test_a_holder_without_a_lease_is_malformed() -> None:
    with pytest.raises(Malformed, match="leaseDurationSeconds"):
        parse_record('{"holderIdentity":"a"}')


@pytest.mark.parametrize(
    "rest", [{}, {"leaseDurationSeconds": 0}, {"leaseDurationSeconds": "x", "renewTime": 5}, {"leaseDurationSeconds": 10**9}]
)
def test_an_empty_holder_is_free_whatever_else_it_says(rest: dict[str, object]) -> None:
    assert parse_record(json.dumps({"holderIdentity": "", **rest})).holder == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("garbage", "not JSON"),
        ('{"holderIdentity":"a"', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"leaseDurationSeconds":' + "9" * 5000 + "}", "not JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ('"pod-a"', "not a JSON object"),
        ("{}", "holderIdentity"),
        ('{"holderIdentity":null}', "holderIdentity"),
        ('{"holderIdentity":7}', "holderIdentity"),
        ('{"HOLDERIDENTITY":"a","leaseDurationSeconds":10}', "holderIdentity"),
    ],
)
def test_malformed_records_say_why(text: str, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        parse_record(text)


@pytest.mark.parametrize("value", [-3, "x", None, 2.5, True])
def test_what_is_no_count_of_transitions_counts_as_none(value: object) -> None:
    record = parse_record(json.dumps({"holderIdentity": "a", "leaseDurationSeconds": 10, "leaderTransitions": value}))
    assert record.transitions == 0


def test_times_are_never_judged() -> None:
    record = parse_record('{"holderIdentity":"a","leaseDurationSeconds":10,"acquireTime":5,"renewTime":"the day after"}')
    assert (record.acquired, record.renewed) == ("", "the day after")


@given(st.text(), st.integers(1, LONGEST_LEASE), st.integers(0, 10**9))
def test_what_is_written_reads_back(holder: str, lease: int, transitions: int) -> None:
    record = Record(holder, lease, "2026-11-22T08:04:29Z", "2026-11-22T08:04:40Z", transitions)
    assert parse_record(record.to_json()) == record


@given(st.text() | st.from_type(dict[str, int]).map(json.dumps))
def test_anything_is_a_record_or_malformed(text: str) -> None:
    try:
        assert isinstance(parse_record(text), Record)
    except Malformed as error:
        assert str(error)  # noqa: PT017 - either outcome is right; a third would be a crash of the loop


@pytest.mark.parametrize(("ttl", "seconds"), [(1.0, 1), (1.001, 2), (2.5, 3), (9.999, 10), (10.0, 10), (600.0, 600)])
def test_a_lease_is_the_ttl_rounded_up(ttl: float, seconds: int) -> None:
    assert lease_seconds(ttl) == seconds


def test_whole_seconds_as_the_original_and_microseconds_for_a_short_ttl() -> None:
    assert format_time(MOMENT, 10.0) == "2026-11-22T08:04:29Z"
    assert format_time(MOMENT, 5.0) == "2026-11-22T08:04:29Z"
    assert format_time(MOMENT, 4.999) == "2026-11-22T08:04:29.250000Z"


@pytest.mark.parametrize("ttl", [1.0, 4.9, 5.0, 10.0])
@given(st.integers(min_value=0, max_value=4 * 10**15))
def test_one_unit_more_is_another_text(ttl: float, microseconds: int) -> None:
    # Else a renewal would be an identical PUT, which the API server takes without writing it.
    assert format_time(microseconds + time_unit(ttl), ttl) > format_time(microseconds, ttl)


def test_no_pod_can_have_the_placeholders_name() -> None:
    assert "/" in PLACEHOLDER
