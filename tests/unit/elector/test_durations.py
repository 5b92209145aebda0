"""Go's durations, as flags and the API server's `?timeout=` have them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elector._durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("10s", 10.0),
        ("1m30s", 90.0),
        ("1500ms", 1.5),
        ("1.5s", 1.5),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("2h45m", 9900.0),
        ("1h1m1s1ms1us1ns", 3661.001001001),
        ("7us", 7e-6),
        ("7µs", 7e-6),  # U+00B5, the micro sign
        ("7μs", 7e-6),  # U+03BC, the letter mu
        ("1s1s", 2.0),
        ("30s1m", 90.0),
    ],
)
def test_reads_what_go_reads(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "s",
        ".s",
        "10 s",
        " 10s",
        "10s ",
        "10s\n",
        "10sec",
        "1d",
        "-5s",
        "1,5s",
        "1e3s",
        "1..5s",
        "10S",
        "１０s",
        "nan",
        "inf",
    ],
)
def test_refuses_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.25, "0.25s"),
        (2.5, "2.5s"),
        (10.0, "10s"),
        (59.9996, "1m"),
        (60.0, "1m"),
        (90.0, "1m30s"),
        (600.0, "10m"),
        (3600.0, "60m"),
        (1.2344, "1.234s"),
    ],
)
def test_writes_the_shortest(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(min_value=0, max_value=10**8))
def test_what_it_writes_reads_back_to_the_millisecond(milliseconds: int) -> None:
    # `?timeout=` is written so: a reader that got more than was meant would let a write land late.
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, abs=1e-9)
