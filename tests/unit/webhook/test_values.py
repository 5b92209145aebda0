"""Durations, quantities, names: reading what people write."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhook._durations import SECOND, parse_duration
from webhook._errors import quoted
from webhook._names import is_subdomain
from webhook._quantities import parse_quantity


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("1m", 60),
        ("1m30s", 90),
        ("1h", 3600),
        ("1.5m", 90),
        (".5m", 30),
        ("1.s", 1),
        ("1000ms", 1),
        ("1000000us", 1),
        ("1000000\u00b5s", 1),
        ("1000000\u03bcs", 1),
        ("1000000000ns", 1),
        ("+2s", 2),
        ("-2s", -2),
        ("0", 0),
    ],
)
def test_a_duration_is_read_as_go_does(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds * SECOND


@pytest.mark.parametrize(
    "text", ["", "10", "s", "10 s", " 10s", "10s\n", "10S", "1d", "1e3s", ".s", "--1s", "\u0661s", "1s-1s", "1" * 99 + "s"]
)
def test_what_go_refuses_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a Go duration"):
        parse_duration(text)


def test_below_a_nanosecond_is_cut_off() -> None:
    assert parse_duration("1.9999ns") == 1


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("100m", "0.1"),
        ("0.1", "0.1"),
        (1, "1"),
        (0.5, "0.5"),
        ("1Gi", "1073741824"),
        ("1024Mi", "1073741824"),
        ("1k", "1000"),
        ("1M", "1000000"),
        ("1e3", "1000"),
        ("1E3", "1000"),
        ("1E", "1000000000000000000"),
        ("5n", "0.000000005"),
        ("7u", "0.000007"),
    ],
)
def test_a_quantity_is_a_number(value: Any, number: str) -> None:
    assert parse_quantity(value) == Decimal(number)


@pytest.mark.parametrize("value", ["", "1 Gi", "Gi", "1K", "1gi", "one", None, True, [], "1e999", "nan"])
def test_what_is_no_quantity_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        parse_quantity(value)


@pytest.mark.parametrize("name", ["a", "web.leader", "0", "a-b.c-d", "a" * 253])
def test_subdomains(name: str) -> None:
    assert is_subdomain(name)


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a..b", ".a", "a.", "a.-b", "a\n", "a" * 254, "\u00e4"])
def test_not_subdomains(name: str) -> None:
    assert not is_subdomain(name)


@given(st.text(max_size=200))
def test_a_quoted_value_stays_on_one_line_and_short(text: str) -> None:
    line = quoted(text)
    assert line.isprintable()
    assert line[0] == line[-1] == '"'
    assert len(line) <= 2 + 10 * (64 + 3)
