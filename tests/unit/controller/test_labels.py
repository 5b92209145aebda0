"""The label of the leading pod follows the lock."""

from __future__ import annotations

import json

from elector.library import PLACEHOLDER, RECORD
from tests.unit.controller.fake_objects import pod
from tests.unit.controller.scene import ELECTION, NS, Scene, run, settle
from webhook._marks import LEADER
from webhook.controller._objects import ENDPOINTS, LEASES, PODS


def test_it_follows_the_holder_and_is_taken_off_the_former_first() -> None:
    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a")
            scene.pod("b")
            await settle()
            assert scene.labelled == []
            for leader in ("a", "b", "a"):
                scene.objects.writes.clear()
                scene.hold(leader)
                await settle()
                assert scene.labelled == [leader]
            assert [one for one in scene.objects.writes if one == "patch pods"] == ["patch pods"] * 2
            # A renewal writes nothing.
            scene.objects.writes.clear()
            scene.hold("a", token=8)
            await settle()
            assert scene.objects.writes == []

    run(test)


def test_nobody_leads() -> None:
    """A release, a placeholder, a stranger, a record that nobody can read: no pod has the label."""

    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a")
            await settle()
            for other in ("", PLACEHOLDER, "stranger"):
                scene.hold("a")
                await settle()
                assert scene.labelled == ["a"]
                scene.hold(other)
                await settle()
                assert scene.labelled == []
            scene.hold("a")
            await settle()
            found = scene.lock()
            assert found is not None
            found["metadata"]["annotations"][RECORD] = "garbage"
            scene.objects.put(ENDPOINTS, NS, found)
            await settle()
            assert scene.labelled == []

    run(test)


def test_a_leader_that_went_silent_loses_it_when_its_lease_has_ended() -> None:
    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a")
            await settle()
            scene.hold("a", lease=10)
            await settle()
            await scene.after(9.9)
            assert scene.labelled == ["a"]
            await scene.after(0.2)
            assert scene.labelled == []

    run(test)


def test_a_label_that_somebody_else_put_on_is_taken_off() -> None:
    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a")
            await settle()
            scene.hold("a")
            scene.pod("b", labels={LEADER: "true"})
            await settle()
            assert scene.labelled == ["a"]

    run(test)


def test_of_a_pair_both_locks_have_to_say_so() -> None:
    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a", lock="endpointsleases")
            scene.pod("b", lock="endpointsleases")
            await settle()
            scene.hold("a")
            await settle()
            assert scene.labelled == []
            lease = scene.lock("leases")
            assert lease is not None
            for holder, labelled in (("b", []), ("a", ["a"])):
                lease["spec"].update(holderIdentity=holder, leaseDurationSeconds=10)
                scene.objects.put(LEASES, NS, lease)
                await settle()
                assert scene.labelled == labelled

    run(test)


def test_it_catches_up_after_the_controller_was_away() -> None:
    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a")
            scene.pod("b")
            await settle()
            scene.hold("a")
            await settle()
        scene.hold("b")
        assert scene.labelled == ["a"]
        async with scene.running():
            assert scene.labelled == ["b"]
            # Who led before this replica acted was told by another.
            assert scene.events("LeaderChanged") == []

    run(test)


def test_another_pod_of_the_same_name_is_not_labelled() -> None:
    """The uid says which is meant."""

    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a")
            await settle()
            candidate = scene.granting.pods.get((NS, "a"))
            assert candidate is not None
            scene.objects.remove(PODS, NS, "a")
            scene.pod("a")
            scene.hold("a")
            await settle()
            assert scene.labelled == ["a"]
            found = scene.objects.get(PODS, NS, "a")
            assert found is not None
            assert found["metadata"]["uid"] != candidate.uid

    run(test)


def test_a_change_is_told_to_the_owner() -> None:
    async def test(scene: Scene) -> None:
        owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "u-web"}
        async with scene.running():
            scene.pod("web-0", owner=owner)
            scene.pod("web-1", owner=owner)
            await settle()
            scene.hold("web-0")
            await settle()
            assert scene.events("LeaderChanged") == []
            scene.hold("")
            await settle()
            scene.hold("web-1")
            await settle()
            (event,) = scene.events("LeaderChanged")
            assert event["note"] == f"web-1 leads the election {ELECTION} now, web-0 did before."
            assert (event["regarding"]["kind"], event["regarding"]["uid"]) == ("StatefulSet", "u-web")
            assert json.dumps(event["eventTime"]).endswith('Z"')

    run(test)


def test_two_owners_of_one_election_are_told() -> None:
    """But not two ReplicaSets of one Deployment, in a roll-out."""

    def replica_set(name: str) -> dict[str, str]:
        return {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": f"u-{name}"}

    async def test(scene: Scene) -> None:
        async with scene.running():
            for revision in ("5c689d88bb", "6d7f9c5b4"):
                labels = {"pod-template-hash": revision}
                scene.objects.put(PODS, NS, pod(f"web-{revision}", owner=replica_set(f"web-{revision}"), labels=labels))
            await settle()
            assert scene.events("DifferentOwners") == []
            labels = {"pod-template-hash": "aaaa"}
            scene.objects.put(PODS, NS, pod("api-aaaa", owner=replica_set("api-aaaa"), labels=labels))
            await settle()
            told = scene.events("DifferentOwners")
            assert len(told) == 2
            assert "Deployment api, Deployment web" in told[0]["note"]

    run(test)
