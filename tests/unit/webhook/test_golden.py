"""Golden files: in `golden/`, each pod beside the patch that it gets, or the message with which it is denied.

A change of either shows as a change of these files: `python -m tests.unit.webhook.test_golden` writes them anew.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonpatch
import pytest

from tests.unit.webhook.pods import SETTINGS, operations, respond, review
from webhook._containers import is_injected

GOLDEN = Path(__file__).parent / "golden"
PODS = sorted(GOLDEN.glob("*.pod.json"))


def answered(pod: Path) -> tuple[Path, str]:
    """The file that stands beside a pod, and what it should hold."""
    response, _ = respond(review(json.loads(pod.read_text())))
    stem = pod.name.removesuffix(".pod.json")
    if response["allowed"]:
        return pod.with_name(f"{stem}.patch.json"), json.dumps(operations(response), indent=2) + "\n"
    return pod.with_name(f"{stem}.denied.txt"), response["status"]["message"] + "\n"


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod.name.removesuffix(".pod.json"))
def test_the_answer_is_the_golden_one(pod: Path) -> None:
    beside, content = answered(pod)
    assert content == beside.read_text()


@pytest.mark.parametrize("patch", sorted(GOLDEN.glob("*.patch.json")), ids=lambda patch: patch.name.removesuffix(".patch.json"))
def test_the_golden_patch_can_be_applied_and_only_once(patch: Path) -> None:
    before = json.loads(patch.with_name(patch.name.replace(".patch.", ".pod.")).read_text())
    after = jsonpatch.apply_patch(copy.deepcopy(before), json.loads(patch.read_text()))
    assert is_injected(after)
    assert not is_injected(before)
    response, _ = respond(review(after), SETTINGS)
    assert operations(response) == []


def test_there_are_golden_pods_and_one_answer_for_each() -> None:
    names = sorted(path.name for path in GOLDEN.iterdir())
    assert names == sorted(path.name for pod in PODS for path in (pod, answered(pod)[0]))
    assert len(list(GOLDEN.glob("*.patch.json"))) >= 10
    assert len(list(GOLDEN.glob("*.denied.txt"))) >= 5


if __name__ == "__main__":
    for each in PODS:
        file, text = answered(each)
        file.write_text(text)
