"""Managed rights on a real API server: annotate a pod, and it has what it needs; nothing else has anything."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from typing import Any

import kubernetes.client
import pytest

from sandbox import Sandbox
from tests.api.managed import Managed, Pod, managed
from tests.waiting import until

pytestmark = [pytest.mark.api, pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Sandbox]:
    """A control plane of this module's own: a registration concerns the whole cluster."""
    with Sandbox.start(audit=True) as started:
        yield started


@pytest.fixture(scope="module")
def release(cluster: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    with managed(cluster, tmp_path_factory.mktemp("release"), ["--set=rbac.grace=3s"]) as found:
        yield found


@pytest.mark.parametrize("lock", ["endpoints", "leases", "endpointsleases"])
def test_an_annotated_pod_leads_with_nothing_configured(release: Managed, lock: str) -> None:
    namespace = release.namespace()
    pods = [release.pod(namespace, name, lock=lock) for name in ("a", "b")]
    # A kubelet takes longer to start a container than the rights take; this test might not.
    release.until_rights(*pods)
    programs = [release.start(pod) for pod in pods]
    kind = "leases" if lock == "leases" else "endpoints"

    def holder() -> str:
        found = release.lock(namespace, kind=kind)
        if found is None:
            return ""
        return found["spec"].get("holderIdentity", "") if kind == "leases" else release.holder(namespace)

    until(lambda: holder() in ("a", "b"), "one of them leads", seconds=20)
    leader = holder()
    until(lambda: release.labelled(namespace) == [leader], "the leader has the label", seconds=5)
    role = release.role(namespace)
    assert role is not None
    kinds = ["endpoints", "leases"] if lock == "endpointsleases" else [lock]
    assert [rule["resources"] for rule in role["rules"]] == [[one] for one in kinds]
    assert all(rule["resourceNames"] == ["orders.leader"] for rule in role["rules"])
    release.stop(next(pod for pod in pods if pod.name == leader))
    until(lambda: holder() not in ("", leader), "the other one leads", seconds=20)
    until(lambda: release.labelled(namespace) == [holder()], "the label follows", seconds=5)
    release.delete(*pods)
    for program in programs:
        assert " 403 " not in program.log.read_text(), program.log.read_text()


def rights_of(release: Managed, namespace: str) -> tuple[list[str], list[str]]:
    """The kinds of locks that there are rights on, and who has them."""
    role = release.role(namespace)
    return [rule["resources"][0] for rule in role["rules"]] if role else [], release.accounts(namespace)


def test_rights_follow_the_pods(release: Managed) -> None:
    """Of the accounts and kinds that pods have, and for a grace time longer; then nothing is left."""
    namespace = release.namespace()
    release.account(namespace, "second")
    first = release.pod(namespace, "a")
    until(lambda: rights_of(release, namespace) == (["endpoints"], ["default"]), "the first has its rights")
    second = release.pod(namespace, "b", account="second", lock="leases")
    both = (["endpoints", "leases"], ["default", "second"])
    until(lambda: rights_of(release, namespace) == both, "both have their rights")
    release.delete(first)
    gone = until(lambda: rights_of(release, namespace) == (["leases"], ["second"]), "the first one's are gone")
    assert gone > 2.5
    until(lambda: release.lock(namespace) is None, "its lock, too")
    release.delete(second)
    until(lambda: release.lock(namespace, kind="leases") is None, "all locks are gone")
    assert rights_of(release, namespace) == ([], [])
    assert release.role(namespace) is None


def test_a_lock_that_somebody_uses_is_not_removed(release: Managed) -> None:
    """The pod's object is gone, its elector goes on renewing (a node that was cut off), with a token that is still good."""
    namespace = release.namespace()
    pod = release.pod(namespace, "a")
    release.start(pod)
    until(lambda: release.holder(namespace) == "a", "it leads")
    # Not a candidate any more for the controller, which goes by the label.
    release.core.patch_namespaced_pod("a", namespace, {"metadata": {"labels": {"leader-election/injected": None}}})
    until(lambda: release.binding(namespace) is None, "its rights go after the grace time")
    until(lambda: release.lock(namespace) is None, "the lock goes once nobody renews it any more")
    release.delete(pod)


def test_what_somebody_deletes_or_changes_is_put_right(release: Managed) -> None:
    namespace = release.namespace()
    pods = [release.pod(namespace, name) for name in ("a", "b")]
    for pod in pods:
        release.start(pod)
    until(lambda: release.holder(namespace) in ("a", "b"), "one leads")
    name, right = "leader-election:orders.leader", (["endpoints"], ["default"])
    release.rbac.delete_namespaced_role(name, namespace)
    until(lambda: rights_of(release, namespace) == right, "the Role is back")
    release.rbac.delete_namespaced_role_binding(name, namespace)
    until(lambda: rights_of(release, namespace) == right, "the RoleBinding is back")
    wide = {"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}
    release.rbac.patch_namespaced_role(name, namespace, wide)
    until(lambda: rights_of(release, namespace) == right, "the Role is narrow again")
    everybody = {"subjects": [{"kind": "Group", "name": "system:authenticated", "apiGroup": "rbac.authorization.k8s.io"}]}
    release.rbac.patch_namespaced_role_binding(name, namespace, everybody)
    until(lambda: rights_of(release, namespace) == right, "the RoleBinding is for the pods only again")
    role = release.role(namespace)
    assert role is not None
    assert role["rules"][0]["verbs"] == ["get", "list", "watch", "update"]
    for pod in pods:
        assert release.electors[pod.uid].running
    release.delete(*pods)


def elector_leads(pod: Pod) -> bool:
    """Whether its elector says so."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{pod.port}/v1/leading", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:  # 409, or it does not answer
        return False


@pytest.mark.parametrize("lock", ["endpoints", "leases"])
def test_a_deleted_lock_comes_back_and_never_free(release: Managed, lock: str) -> None:
    """With the last record known: nobody can take it before the claim that stands has ended."""
    namespace = release.namespace()
    pods = [release.pod(namespace, name, lock=lock) for name in ("a", "b")]
    electors = [release.start(pod) for pod in pods]

    def holder() -> str:
        found = release.lock(namespace, kind=lock)
        return "" if found is None else found["spec"]["holderIdentity"] if lock == "leases" else release.holder(namespace)

    def token() -> int:
        found = release.lock(namespace, kind=lock)
        return int(found["metadata"]["annotations"].get("leader-election/token", "0")) if found else 0

    until(lambda: holder() in ("a", "b"), "one leads")
    leader, before = holder(), token()
    first = release.lock(namespace, kind=lock)
    assert first is not None
    delete = release.core.delete_namespaced_endpoints if lock == "endpoints" else release.coordination.delete_namespaced_lease
    delete("orders.leader", namespace)
    until(
        lambda: (
            (found := release.lock(namespace, kind=lock)) is not None and found["metadata"]["uid"] != first["metadata"]["uid"]
        ),
        "it is back",
    )
    assert holder() == leader
    assert token() >= before
    took = until(lambda: any(elector_leads(pod) for pod in pods), "one leads again")
    print(f"{lock}: one led again {took:.2f} s after the lock was back, with a ttl of 2 s")
    assert token() >= before
    assert [elector.running for elector in electors] == [True, True]
    release.delete(*pods)


def test_a_name_that_is_taken_earns_nothing_until_a_person_labels_it(release: Managed) -> None:
    namespace = release.namespace()
    core = release.core
    core.create_namespaced_endpoints(namespace, {"metadata": {"name": "orders.leader"}})
    pod = release.pod(namespace, "a")
    until(lambda: bool(release.events(namespace, "NameTaken")), "it is told")
    assert rights_of(release, namespace) == ([], [])
    core.patch_namespaced_endpoints("orders.leader", namespace, {"metadata": {"labels": {"leader-election/lock": "true"}}})
    until(lambda: rights_of(release, namespace) == (["endpoints"], ["default"]), "it was adopted")
    # The label is taken off again: the rights go at once, whatever runs.
    core.patch_namespaced_endpoints("orders.leader", namespace, {"metadata": {"labels": {"leader-election/lock": None}}})
    took = until(lambda: rights_of(release, namespace) == ([], []), "the rights are gone")
    print(f"rights were gone {took:.2f} s after the label")
    core.patch_namespaced_endpoints("orders.leader", namespace, {"metadata": {"labels": {"leader-election/lock": "true"}}})
    until(lambda: rights_of(release, namespace) == (["endpoints"], ["default"]), "it was adopted again")
    release.delete(pod)
    until(lambda: release.role(namespace) is None, "the rights go with the pod")
    # What it did not create it does not remove.
    assert release.lock(namespace) is not None


def test_a_role_of_that_name_is_left_alone(release: Managed) -> None:
    namespace = release.namespace()
    theirs = {"metadata": {"name": "leader-election:orders.leader"}, "rules": []}
    release.rbac.create_namespaced_role(namespace, theirs)
    pod = release.pod(namespace, "a")
    until(lambda: bool(release.events(namespace, "NameTaken")), "it is told")
    role = release.role(namespace)
    assert role is not None
    assert not role.get("rules")
    assert release.binding(namespace) is None
    release.delete(pod)


def test_owners(release: Managed) -> None:
    """Who leads is told to the pods' owner; that two owners have one election is told to both."""
    namespace = release.namespace()
    owners = []
    for name in ("one", "two"):
        made = release.core.create_namespaced_config_map(namespace, {"metadata": {"name": name}})
        owners.append({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": made.metadata.uid, "controller": True})
    pods = [release.pod(namespace, name, owner=owners[0]) for name in ("a", "b")]
    release.start(pods[0])
    until(lambda: release.labelled(namespace) == ["a"], "a leads")
    release.start(pods[1])
    until(lambda: "stands for" in release.electors[pods[1].uid].log.read_text(), "b stands")
    release.stop(pods[0])
    until(lambda: release.labelled(namespace) == ["b"], "b leads")
    until(lambda: bool(release.events(namespace, "LeaderChanged")), "it is told")
    (event,) = release.events(namespace, "LeaderChanged")
    assert (event["involvedObject"]["kind"], event["involvedObject"]["name"]) == ("ConfigMap", "one")
    assert event["message"] == "b leads the election orders.leader now, a did before."
    assert event["reportingComponent"] == "leader-election/controller"
    assert not release.events(namespace, "DifferentOwners")
    pods.append(release.pod(namespace, "c", owner=owners[1]))
    until(lambda: len(release.events(namespace, "DifferentOwners")) == 2, "both owners are told")
    assert {one["involvedObject"]["name"] for one in release.events(namespace, "DifferentOwners")} == {"one", "two"}
    release.delete(*pods)


def test_a_service_follows_the_leader(cluster: Sandbox, release: Managed) -> None:
    """By its EndpointSlices, which is what nodes go by: the leader's address and no other, before and after another leads."""
    namespace = release.namespace()
    release.core.create_node({"metadata": {"name": "node"}})  # endpoints are those of nodes' pods
    pods = [release.pod(namespace, name, labels={"app": "orders"}, node="node") for name in ("a", "b", "c")]
    selector = {"app": "orders", "leader-election/leader": "true"}
    service = {"metadata": {"name": "orders-leader"}, "spec": {"selector": selector, "ports": [{"port": 80}]}}
    release.core.create_namespaced_service(namespace, service)
    addresses = {}
    for number, pod in enumerate(pods):
        addresses[pod.name] = f"10.1.0.{number + 1}"
        ready = [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady")]
        ip = addresses[pod.name]
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": ready}
        release.core.patch_namespaced_pod_status(pod.name, namespace, {"status": status})
        release.start(pod)
    discovery: Any = kubernetes.client.DiscoveryV1Api(cluster.api)

    def reached() -> list[str]:
        label = "kubernetes.io/service-name=orders-leader"
        found = discovery.list_namespaced_endpoint_slice(namespace, label_selector=label).items
        return [address for one in found for endpoint in one.endpoints or [] for address in endpoint.addresses]

    until(lambda: release.holder(namespace) in addresses, "one leads")
    for _ in range(2):
        leader = release.holder(namespace)
        until(lambda: reached() == [addresses[release.holder(namespace)]], "the Service leads to the leader alone")
        release.stop(next(pod for pod in pods if pod.name == leader))
        until(lambda: release.holder(namespace) not in ("", leader), "another leads", seconds=30)  # noqa: B023
        until(lambda: reached() == [addresses[release.holder(namespace)]], "the Service leads to that one alone")
    release.delete(*pods)
    release.core.delete_node("node")


def test_while_the_controller_is_away(cluster: Sandbox, release: Managed) -> None:
    """Elections go on, without it; labels catch up after."""
    namespace = release.namespace()
    pods = [release.pod(namespace, name) for name in ("a", "b")]
    for pod in pods:
        release.start(pod)
    until(lambda: len(release.labelled(namespace)) == 1, "one leads and has the label")
    leader = release.holder(namespace)
    controllers = release.kubelet.programs("controller")
    for program in controllers.values():
        program.signal(19)  # SIGSTOP: away, and nobody starts another
    try:
        release.stop(next(pod for pod in pods if pod.name == leader))
        took = until(lambda: release.holder(namespace) not in ("", leader), "the other one leads", seconds=10)
        print(f"another leader after {took:.2f} s without a controller")
        assert release.labelled(namespace) == [leader]
    finally:
        for program in controllers.values():
            program.signal(18)
    until(lambda: release.labelled(namespace) == [release.holder(namespace)], "the label has caught up")
    assert release.labelled(namespace) != [leader]
    release.delete(*pods)


def test_a_namespace_can_be_deleted(release: Managed) -> None:
    """Neither the policies nor the controller's repairs hold that up."""
    namespace = release.namespace()
    pod = release.pod(namespace, "a", lock="endpointsleases")
    release.start(pod)
    until(lambda: release.holder(namespace) == "a", "it leads")
    release.core.delete_namespace(namespace)
    release.delete(pod)
    until(lambda: namespace not in [one.metadata.name for one in release.core.list_namespace().items], "it is gone")


def test_uninstall_leaves_what_running_pods_need(cluster: Sandbox, release: Managed) -> None:
    """The last test of this module: it takes the release away."""
    namespace, idle = release.namespace(), release.namespace()
    pods = [release.pod(namespace, name) for name in ("a", "b")]
    for pod in pods:
        release.start(pod)
    until(lambda: release.holder(namespace) in ("a", "b"), "one leads")
    gone = release.pod(idle, "a")
    until(lambda: release.binding(idle) is not None, "rights")
    leader = release.holder(namespace)
    release.release.helm("uninstall", release.release.name)
    release.delete(gone)
    until(lambda: not release.kubelet.programs("controller"), "no controller is left")
    assert rights_of(release, namespace) == (["endpoints"], ["default"])
    release.stop(next(pod for pod in pods if pod.name == leader))
    until(lambda: release.holder(namespace) not in ("", leader), "the other one leads, without the release")
