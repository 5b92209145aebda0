"""The default name of an election."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.webhook.pods import admit, elector, owner, pod, refuse

ADVICE = "set the annotation leader-election/name"


def owned(by: dict[str, Any] | None, labels: dict[str, str] | None = None) -> dict[str, Any]:
    made = pod()
    made["metadata"]["ownerReferences"] = [by] if by is not None else None
    made["metadata"]["labels"] = labels
    return made


@pytest.mark.parametrize(
    ("by", "labels", "name"),
    [
        (owner("ReplicaSet", "web-5c689d88bb"), {"pod-template-hash": "5c689d88bb"}, "web.leader"),
        (owner("ReplicaSet", "web-a-5c689d88bb"), {"pod-template-hash": "5c689d88bb"}, "web-a.leader"),
        (owner("ReplicaSet", "shop.web-57"), {"pod-template-hash": "57"}, "shop.web.leader"),
        (owner("ReplicaSet", "roll-6b"), {"rollouts-pod-template-hash": "6b"}, "roll.leader"),
        (
            owner("ReplicaSet", "roll-6b"),
            {"pod-template-hash": "other", "rollouts-pod-template-hash": "6b"},
            "roll.leader",
        ),
        (owner("StatefulSet", "db"), None, "db.leader"),
        (owner("DaemonSet", "agent"), {}, "agent.leader"),
        (owner("StatefulSet", "a" * 246), None, "a" * 246 + ".leader"),
    ],
)
def test_a_lasting_owner_names_the_election(by: dict[str, Any], labels: dict[str, str] | None, name: str) -> None:
    assert f"--election={name}" in elector(admit(owned(by, labels)))["args"]


@pytest.mark.parametrize(
    "made",
    [
        owned(None),
        owned({**owner("StatefulSet", "db"), "controller": False}),
        owned(owner("Job", "import-28", "batch/v1")),
        owned(owner("ReplicationController", "old", "v1")),
        owned(owner("StatefulSet", "db", "apps.kruise.io/v1beta1")),
        owned(owner("Sandbox", "x", "example.com/v1")),
        owned(owner("ReplicaSet", "web-5c689d88bb")),
        owned(owner("ReplicaSet", "web-5c689d88bb"), {"pod-template-hash": "abc"}),
        owned(owner("ReplicaSet", "-57"), {"pod-template-hash": "57"}),
        owned(owner("StatefulSet", "a" * 247)),
        owned(owner("StatefulSet", "A")),
        owned({"apiVersion": "apps/v1", "kind": "StatefulSet", "controller": True}),
    ],
)
def test_any_other_pod_needs_a_name(made: dict[str, Any]) -> None:
    assert refuse(made).endswith(ADVICE)
    made["metadata"]["annotations"]["leader-election/name"] = "chosen"
    assert "--election=chosen" in elector(admit(made))["args"]


def test_the_message_says_why() -> None:
    assert refuse(owned(owner("Job", "import-28", "batch/v1"))) == (
        'the pod\'s owner, Job "import-28", does not give an election a name that outlives one roll-out or run: ' + ADVICE
    )
    assert "would have 254 characters, 253 are allowed" in refuse(owned(owner("StatefulSet", "a" * 247)))
