"""Golden files: in `golden/`, each pod beside the patch that it gets.

A change of the patch shows as a change of these files: `python -m tests.unit.webhook.test_golden` writes them anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.webhook.pods import SETTINGS
from webhook._patch import build_patch
from webhook._plan import plan

GOLDEN = Path(__file__).parent / "golden"
PODS = sorted(GOLDEN.glob("*.pod.json"))


def expected_beside(pod: Path) -> Path:
    return pod.with_name(pod.name.replace(".pod.json", ".patch.json"))


def patch_of(pod: Path) -> list[dict[str, Any]]:
    document = json.loads(pod.read_text())
    election, _ = plan(document, SETTINGS)
    return build_patch(document, election)


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod.name.removesuffix(".pod.json"))
def test_the_patch_is_the_golden_one(pod: Path) -> None:
    assert patch_of(pod) == json.loads(expected_beside(pod).read_text())


def test_there_are_golden_pods() -> None:
    assert len(PODS) >= 6
    assert len(list(GOLDEN.iterdir())) == 2 * len(PODS)


if __name__ == "__main__":
    for each in PODS:
        expected_beside(each).write_text(json.dumps(patch_of(each), indent=2) + "\n")
