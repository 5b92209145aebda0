"""Grants against an API server in memory: whatever others do to pods, locks, Roles and RoleBindings."""

from __future__ import annotations

import asyncio

import pytest

from elector.library import PLACEHOLDER, TOKEN
from tests.unit.controller.fake_objects import pod
from tests.unit.controller.scene import ELECTION, GRACE, NS, OWN, Scene, run, settle
from webhook._marks import GRANT, LOCK, role_name
from webhook.controller._objects import BINDINGS, ENDPOINTS, PODS, ROLES

RIGHT = (["endpoints"], ["default"])


def test_a_pod_gets_a_free_lock_and_then_rights() -> None:
    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a")
            await settle()
            assert scene.objects.writes == ["create endpoints", "create roles", "create rolebindings"]
            lock, role, binding = scene.lock(), scene.role(), scene.binding()
            assert lock is not None
            assert lock["metadata"]["labels"] == {LOCK: "true"}
            assert lock["metadata"]["annotations"]["leader-election/name"] == ELECTION
            assert (scene.record()["holderIdentity"], scene.record()["leaseDurationSeconds"]) == ("", 1)
            assert role is not None
            verbs = ["get", "list", "watch", "update"]
            assert role["rules"] == [{"apiGroups": [""], "resources": ["endpoints"], "resourceNames": [ELECTION], "verbs": verbs}]
            assert binding is not None
            assert binding["roleRef"]["name"] == role["metadata"]["name"]
            assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "default", "namespace": NS}]
            # Another pod of the same account changes nothing.
            scene.pod("b")
            await settle()
            assert len(scene.objects.writes) == 3

    run(test)


def test_a_lease_is_created_free_too() -> None:
    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a", lock="endpointsleases")
            await settle()
            lease = scene.lock("leases")
            assert lease is not None
            assert lease["spec"]["holderIdentity"] == ""
            assert lease["spec"]["renewTime"].endswith(".000000Z")
            assert scene.rights == (["endpoints", "leases"], ["default"])

    run(test)


def test_pods_that_do_not_count() -> None:
    """Judged by their containers, not by what their labels say; not those that have ended, nor the cluster's own."""

    async def test(scene: Scene) -> None:
        plain = pod("plain")
        plain["spec"]["initContainers"][0]["args"] = ["--help"]
        scene.objects.put(PODS, NS, plain)
        scene.pod("ended", phase="Succeeded")
        scene.pod("strange", election="Not_A_Name")
        scene.pod("other", lock="configmaps")
        for namespace in ("kube-system", "kube-node-lease"):
            scene.objects.put(PODS, namespace, pod("system"))
        unlabelled = pod("unlabelled")
        unlabelled["metadata"]["labels"] = {}
        scene.objects.put(PODS, NS, unlabelled)
        async with scene.running():
            assert scene.objects.writes == []

    run(test)


def test_accounts_and_kinds_come_at_once_and_go_after_the_grace_time() -> None:
    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a")
            scene.pod("b", account="second", lock="leases")
            await settle()
            assert scene.rights == (["endpoints", "leases"], ["default", "second"])
            scene.objects.remove(PODS, NS, "a")
            await settle()
            await scene.after(GRACE - 1)
            assert scene.rights == (["endpoints", "leases"], ["default", "second"])
            await scene.after(2)
            assert scene.rights == (["leases"], ["second"])
            await scene.after(GRACE)
            assert scene.lock() is None
            assert scene.lock("leases") is not None

    run(test)


def test_all_goes_after_the_last_pod_rights_first() -> None:
    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a")
            await settle()
            scene.objects.remove(PODS, NS, "a")
            await settle()
            scene.objects.writes.clear()
            await scene.after(GRACE - 1)
            assert scene.objects.writes == []
            await scene.after(2)
            assert scene.objects.writes == ["delete rolebindings", "delete roles", "delete endpoints"]
            assert len(scene.granting.elections) == 0

    run(test)


def test_the_grace_time_is_never_less_than_a_ttl() -> None:
    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a", ttl="600s")
            scene.pod("b", account="second", ttl="600s")
            await settle()
            scene.objects.remove(PODS, NS, "b")
            await settle()
            await scene.after(GRACE + 1)
            assert scene.rights[1] == ["default", "second"]
            await scene.after(300)
            assert scene.rights[1] == ["default"]
            scene.objects.remove(PODS, NS, "a")
            await settle()
            await scene.after(GRACE + 1)
            assert scene.rights[1] == ["default"]
            await scene.after(300)
            assert scene.rights[1] == []

    run(test)


def test_a_pod_that_comes_back_in_time_keeps_everything() -> None:
    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a")
            await settle()
            scene.objects.remove(PODS, NS, "a")
            await scene.after(GRACE - 1)
            scene.pod("a2")
            await settle()
            await scene.after(2 * GRACE)
            assert scene.rights == RIGHT
            assert scene.objects.writes == ["create endpoints", "create roles", "create rolebindings"]

    run(test)


def test_a_lock_that_is_still_written_stays() -> None:
    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a")
            await settle()
            scene.objects.remove(PODS, NS, "a")
            await settle()
            scene.clock.time += GRACE - 10
            scene.hold("a")
            await settle()
            await scene.after(20)
            assert scene.rights == ([], [])
            assert scene.lock() is not None
            await scene.after(GRACE)
            assert scene.lock() is None

    run(test)


def test_a_controller_that_comes_new_waits_the_grace_time_anew() -> None:
    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a")
            await settle()
        scene.objects.remove(PODS, NS, "a")
        scene.clock.time += 10 * GRACE
        async with scene.running():
            await scene.after(GRACE - 1)
            assert scene.rights == RIGHT
            await scene.after(2)
            assert scene.rights == ([], [])
            await scene.after(GRACE)
            assert scene.lock() is None

    run(test)


def test_what_others_change_or_delete_is_put_right() -> None:
    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a")
            await settle()
            right = scene.role(), scene.binding()
            for kind in (ROLES, BINDINGS):
                scene.objects.remove(kind, NS, role_name(ELECTION))
                await settle()
                assert scene.rights == RIGHT
            role, binding = scene.role(), scene.binding()
            assert role is not None
            assert binding is not None
            role["rules"].append({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]})
            scene.objects.put(ROLES, NS, role)
            binding["subjects"].append({"kind": "Group", "name": "everybody"})
            scene.objects.put(BINDINGS, NS, binding)
            await settle()
            for found, before in zip((scene.role(), scene.binding()), right, strict=True):
                assert found is not None
                assert before is not None
                assert {key: found[key] for key in found if key != "metadata"} == {
                    key: before[key] for key in before if key != "metadata"
                }
            # What a binding refers to cannot be changed: it is made anew.
            binding["roleRef"]["name"] = "admin"
            scene.objects.remove(BINDINGS, NS, role_name(ELECTION))
            scene.objects.put(BINDINGS, NS, binding)
            await settle()
            found = scene.binding()
            assert found is not None
            assert found["roleRef"]["name"] == role_name(ELECTION)
            assert scene.rights == RIGHT

    run(test)


def test_a_deleted_lock_comes_back_with_its_last_record() -> None:
    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a")
            await settle()
            scene.hold("a", token=41)
            await settle()
            before = scene.lock()
            scene.objects.remove(ENDPOINTS, NS, ELECTION)
            await settle()
            after = scene.lock()
            assert before is not None
            assert after is not None
            assert after["metadata"]["uid"] != before["metadata"]["uid"]
            assert after["metadata"]["annotations"] == before["metadata"]["annotations"]

    run(test)


def test_a_lock_that_was_removed_begins_anew() -> None:
    """Of a kind that no pod uses any more, while there are others; it is no lock that was lost."""

    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a", lock="leases")
            scene.pod("b")
            await settle()
            scene.hold("b")
            await settle()
            scene.objects.remove(PODS, NS, "b")
            await settle()
            await scene.after(GRACE + 1)
            assert scene.lock() is None
            scene.pod("c")
            await settle()
            found = scene.lock()
            assert found is not None
            assert TOKEN not in found["metadata"]["annotations"]

    run(test)


def test_a_lock_that_went_unseen_comes_back_held_by_nobody() -> None:
    """Between two watches somebody may have taken it, before it was deleted."""

    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a", ttl="20s")
            scene.pod("b", ttl="30s")
            await settle()
            scene.hold("", token=41)
            await settle()
            scene.objects.remove_unseen(ENDPOINTS, NS, ELECTION)
            await settle()
            assert (scene.record()["holderIdentity"], scene.record()["leaseDurationSeconds"]) == (PLACEHOLDER, 30)

    run(test)


@pytest.mark.parametrize("past", ["rights", "a running pod", "a started elector"])
def test_without_a_known_past_a_lock_is_not_free(past: str) -> None:
    async def test(scene: Scene) -> None:
        scene.pod("a", phase="Running" if past == "a running pod" else "Pending")
        if past == "rights":
            async with scene.running():
                scene.objects.remove(ENDPOINTS, NS, ELECTION)
            scene.objects.stored.pop(("endpoints", NS, ELECTION), None)
        if past == "a started elector":
            body = pod("a")
            body["status"]["initContainerStatuses"] = [{"name": "leader-elector", "state": {"running": {}}}]
            scene.objects.put(PODS, NS, body)
        async with scene.running():
            assert scene.record()["holderIdentity"] == PLACEHOLDER

    run(test)


def test_a_name_that_is_taken_earns_nothing_until_it_is_adopted() -> None:
    async def test(scene: Scene) -> None:
        theirs = scene.objects.put(ENDPOINTS, NS, {"metadata": {"name": ELECTION}, "subsets": [{"addresses": []}]})
        async with scene.running():
            scene.pod("a")
            await settle()
            assert scene.rights == ([], [])
            assert scene.lock() == theirs
            (event,) = scene.events("NameTaken")
            assert (event["regarding"]["kind"], event["regarding"]["name"]) == ("Pod", "a")
            theirs["metadata"]["labels"] = {LOCK: "true"}
            scene.objects.put(ENDPOINTS, NS, theirs)
            await settle()
            assert scene.rights == RIGHT
            # The label goes: so do the rights, first of all; the object is left as it is.
            scene.objects.writes.clear()
            theirs["metadata"]["labels"] = {}
            scene.objects.put(ENDPOINTS, NS, theirs)
            await settle()
            assert scene.objects.writes[:2] == ["delete rolebindings", "delete roles"]
            assert scene.rights == ([], [])
            found = scene.lock()
            assert found is not None
            assert found["subsets"] == theirs["subsets"]

    run(test)


def test_what_a_person_labelled_is_never_removed() -> None:
    async def test(scene: Scene) -> None:
        scene.objects.put(ENDPOINTS, NS, {"metadata": {"name": ELECTION, "labels": {LOCK: "true"}}})
        async with scene.running():
            scene.pod("a")
            await settle()
            assert scene.rights == RIGHT
            scene.objects.remove(PODS, NS, "a")
            await settle()
            for _ in range(3):
                await scene.after(GRACE + 1)
            assert scene.rights == ([], [])
            assert scene.lock() is not None

    run(test)


def test_a_role_that_is_somebody_elses_is_left_alone() -> None:
    async def test(scene: Scene) -> None:
        theirs = scene.objects.put(ROLES, NS, {"metadata": {"name": role_name(ELECTION)}, "rules": []})
        async with scene.running():
            scene.pod("a")
            await settle()
            assert scene.role() == theirs
            assert scene.binding() is None
            assert "Role leader-election:orders.leader" in scene.events("NameTaken")[0]["note"]

    run(test)


def test_the_controllers_own_lock_is_nobodys() -> None:
    async def test(scene: Scene) -> None:
        scene.objects.put(ENDPOINTS, OWN[0], {"metadata": {"name": OWN[1], "labels": {LOCK: "true"}}})
        scene.objects.put(PODS, OWN[0], pod("greedy", election=OWN[1]))
        async with scene.running():
            assert [one for one in scene.objects.writes if "roles" in one or "bindings" in one] == []
            assert len(scene.events("NameTaken")) == 1

    run(test)


def test_one_election_that_is_refused_holds_up_no_other() -> None:
    async def test(scene: Scene) -> None:
        scene.objects.refuse = {"create leases"}
        async with scene.running():
            scene.pod("a", lock="leases")
            scene.pod("b", election="other.leader")
            await settle()
            assert scene.objects.get(BINDINGS, NS, role_name("other.leader")) is not None
            assert scene.rights == ([], [])
            scene.objects.refuse = set()
            await asyncio.sleep(0.2)  # its turn comes by itself
            await settle()
            assert scene.rights == (["leases"], ["default"])

    run(test)


def test_an_api_server_that_is_away_is_waited_for() -> None:
    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a")
            await settle()
            scene.objects.down = True
            scene.objects.end_watches()
            await settle()
            scene.pod("b", account="second")
            scene.objects.down = False
            await asyncio.sleep(1.2)
            await settle()
            assert scene.rights == (["endpoints"], ["default", "second"])

    run(test)


def test_grants_have_their_label() -> None:
    async def test(scene: Scene) -> None:
        async with scene.running():
            scene.pod("a")
            await settle()
            for found in (scene.role(), scene.binding()):
                assert found is not None
                assert found["metadata"]["labels"] == {GRANT: "true"}

    run(test)
