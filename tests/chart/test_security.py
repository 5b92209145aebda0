"""The tables of docs/security.md are those of the chart."""

import pytest

from tests.chart.security import DOCUMENT, with_tables

pytestmark = pytest.mark.long


def test_the_tables_are_up_to_date() -> None:
    text = DOCUMENT.read_text()
    assert text == with_tables(text), "run python -m tests.chart.security"


def test_a_change_of_the_chart_would_show() -> None:
    text = DOCUMENT.read_text()
    stale = text.replace("| pods/status | any | patch |", "| pods/status | any | patch, update |")
    assert stale != text
    assert with_tables(stale) == text
