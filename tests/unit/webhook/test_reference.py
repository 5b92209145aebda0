"""The reference of the annotations is made from their schema."""

from __future__ import annotations

from pathlib import Path

from webhook._annotations import ROWS
from webhook._reference import reference

PAGE = Path(__file__).parents[3] / "docs" / "annotations.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == reference(), "run `python -m webhook._reference > docs/annotations.md`"


def test_the_reference_names_every_annotation_with_its_default() -> None:
    lines = reference().splitlines()
    for row in ROWS:
        (line,) = [line for line in lines if line.startswith(f"| `{row.key}` |")]
        assert row.means in line
        assert row.allowed in line
        assert line.endswith(f"| {row.default} |")
