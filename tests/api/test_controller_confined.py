"""The controller's account, as somebody who has taken it over would use it, on a real API server: every right that it has is held
by a policy to what the controller is there for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import kubernetes.client
import pytest
from kubernetes.client import ApiException

from sandbox import Sandbox
from tests.api.electors import RECORD
from tests.api.managed import Json, client_of
from tests.chart.release import Release
from tests.waiting import until
from webhook._cluster import Cluster
from webhook.controller._locks import lock_to_create
from webhook.controller._objects import LOCKS
from webhook.controller._roles import binding_to_write, role_to_write

pytestmark = [pytest.mark.api, pytest.mark.long, pytest.mark.timeout(300)]

NAMESPACE = "shop"
ELECTION = "orders.leader"
OWN = "leader-election-controller.leader"


@dataclass(frozen=True)
class Taken:
    """The chart, installed without running anything, and clients with the controller's token and the administrator's."""

    release: Release
    client: Any
    admin: Any

    @property
    def core(self) -> Any:
        return kubernetes.client.CoreV1Api(self.client)

    @property
    def coordination(self) -> Any:
        return kubernetes.client.CoordinationV1Api(self.client)

    @property
    def rbac(self) -> Any:
        return kubernetes.client.RbacAuthorizationV1Api(self.client)


def new_lock(kind: str = "endpoints", name: str = ELECTION, **metadata: Any) -> Json:
    body = lock_to_create(LOCKS[kind], name, past=None, wait=0, wall=1_800_000_000.0)
    body["metadata"].update(metadata)
    for time in ("acquireTime", "renewTime"):
        body.get("spec", {}).pop(time, None)  # the client writes times that the API does not take
    return body


def pod(name: str, **metadata: Any) -> Json:
    return {"metadata": {"name": name, **metadata}, "spec": {"containers": [{"name": "main", "image": "none"}]}}


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Taken]:
    with Sandbox.start() as sandbox:
        release = Release(sandbox, tmp_path_factory.mktemp("helm"), "leader-election", "le-system")
        release.install("--set=image.repository=registry.example.com/le", "--set=controller.replicas=1")
        release.core.create_namespace({"metadata": {"name": NAMESPACE}})
        accounts = release.core.list_namespaced_service_account
        until(lambda: any(one.metadata.name == "default" for one in accounts(NAMESPACE).items), "the account is there")
        (controller,) = until_pods(release)
        token = sandbox.service_account_token(
            "le-system", "leader-election-controller", pod=controller["metadata"]["name"], pod_uid=controller["metadata"]["uid"]
        )
        found = Taken(release, client_of(sandbox, token), sandbox.api)
        policies: Any = kubernetes.client.AdmissionregistrationV1Api(sandbox.api)
        wait_until_in_force(found)
        names = {one.metadata.name for one in policies.list_validating_admission_policy().items}
        assert len(names) == 10
        injected = {"leader-election/injected": "native", "app": "orders"}
        release.core.create_namespaced_pod(NAMESPACE, pod("injected", labels=injected, annotations={"x": "y"}))
        release.core.create_namespaced_pod(NAMESPACE, pod("plain", labels={"app": "orders"}))
        release.core.create_namespaced_endpoints(NAMESPACE, {"metadata": {"name": "theirs"}})
        yield found


def until_pods(release: Release) -> list[Json]:
    until(lambda: len(release.pods("controller")) == 1, "the controller's pod is there")
    return release.pods("controller")


def wait_until_in_force(found: Taken) -> None:
    """Each policy refuses, in a dry run, what only it refuses."""
    every = {"dry_run": "All"}
    wrong_role = {"metadata": {"name": "x"}, "rules": []}
    own = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "leader-election-controller"}
    wrong_binding = {"metadata": {"name": "x"}, "roleRef": own, "subjects": []}
    wrong_event = event() | {"reportingController": "example.com/x"}
    probes: list[Callable[[], object]] = [
        lambda: found.core.create_namespaced_endpoints(NAMESPACE, {"metadata": {"name": "x"}}, **every),
        lambda: found.coordination.create_namespaced_lease(NAMESPACE, {"metadata": {"name": "x"}, "spec": {}}, **every),
        lambda: found.rbac.create_namespaced_role(NAMESPACE, wrong_role, **every),
        lambda: found.rbac.create_namespaced_role_binding(NAMESPACE, wrong_binding, **every),
        lambda: post_event(found, wrong_event),
        lambda: found.core.create_namespaced_secret("le-system", secret("x"), **every),
    ]

    def refused(probe: Callable[[], object]) -> bool:
        try:
            probe()
        except ApiException as error:
            return error.status == 422 and "ValidatingAdmissionPolicy" in str(error.body)
        return False

    until(lambda: all(refused(probe) for probe in probes), "the policies are in force")


def secret(name: str) -> Json:
    return {"metadata": {"name": name}, "type": "kubernetes.io/tls", "data": {"tls.crt": "YQ==", "tls.key": "YQ=="}}


def event() -> Json:
    return {
        "metadata": {"name": "e"},
        "eventTime": "2026-11-24T12:00:00.000000Z",
        "reportingController": "leader-election/controller",
        "reportingInstance": "c",
        "action": "Elect",
        "reason": "LeaderChanged",
        "regarding": {"kind": "Pod", "name": "injected", "namespace": NAMESPACE},
        "note": "x",
        "type": "Normal",
    }


def post_event(found: Taken, body: Json) -> None:
    """In a dry run, as plain JSON: the client's model writes times that the API does not take."""
    answer = Cluster(found.client).post(f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events?dryRun=All", body)
    if not answer.ok:
        error = ApiException(status=answer.status)
        error.body = json.dumps(answer.content)
        raise error


def denied(call: Callable[[], object], says: str) -> None:
    with pytest.raises(ApiException) as caught:
        call()
    assert caught.value.status in (403, 422), caught.value
    assert says in str(json.loads(caught.value.body or "{}").get("message")), caught.value.body


def forbidden(call: Callable[[], object]) -> None:
    denied(call, "forbidden")


def test_the_expressions_fit_the_kinds(taken: Taken) -> None:
    """As the API server's own type check sees them."""
    policies = kubernetes.client.AdmissionregistrationV1Api(taken.admin)

    def checked() -> bool:
        found = policies.list_validating_admission_policy().items
        return all(one.status is not None and one.status.type_checking is not None for one in found)

    until(checked, "all are checked")
    for one in policies.list_validating_admission_policy().items:
        assert one.metadata is not None
        assert one.status is not None
        assert one.status.type_checking is not None
        assert not one.status.type_checking.expression_warnings, (one.metadata.name, one.status.type_checking)


def test_locks(taken: Taken) -> None:
    core, admin = taken.core, taken.release.core
    core.create_namespaced_endpoints(NAMESPACE, new_lock(), dry_run="All")
    taken.coordination.create_namespaced_lease(NAMESPACE, new_lock("leases"), dry_run="All")
    what = "locks with its label and the election's name, and nothing else"
    for body in (
        {"metadata": {"name": "web"}},
        new_lock(labels={}),
        new_lock(labels={"leader-election/lock": "false"}),
        new_lock(annotations={}),
        new_lock(name="web", annotations={"leader-election/name": "db"}),
    ):
        denied(lambda body=body: core.create_namespaced_endpoints(NAMESPACE, body), what)  # type: ignore[misc]
    owner = [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "00000000-0000-0000-0000-000000000001"}]
    for more in ({"ownerReferences": owner}, {"finalizers": ["a/b"]}, {"labels": {"leader-election/lock": "true", "a": "b"}}):
        denied(lambda more=more: core.create_namespaced_endpoints(NAMESPACE, new_lock(**more)), "no owner and no finalizer")  # type: ignore[misc]
    subsets = [{"addresses": [{"ip": "10.9.9.9"}], "ports": [{"port": 443}]}]
    denied(lambda: core.create_namespaced_endpoints(NAMESPACE, new_lock() | {"subsets": subsets}), "writes no addresses")
    for namespace in ("kube-system", "kube-node-lease"):
        denied(lambda n=namespace: core.create_namespaced_endpoints(n, new_lock()), what)  # type: ignore[misc]
        denied(lambda n=namespace: taken.coordination.create_namespaced_lease(n, new_lock("leases")), what)  # type: ignore[misc]
    denied(lambda: core.delete_namespaced_endpoints("theirs", NAMESPACE), what)
    stored = admin.read_namespaced_endpoints("theirs", NAMESPACE)
    denied(lambda: core.replace_namespaced_endpoints("theirs", NAMESPACE, stored), "changes no lock but its own")
    # What it created it does not change either: only candidates do. It may remove it.
    core.create_namespaced_endpoints(NAMESPACE, new_lock())
    stored = admin.read_namespaced_endpoints(ELECTION, NAMESPACE)
    stored.metadata.annotations[RECORD] = json.dumps({"holderIdentity": "evil"})
    denied(lambda: core.replace_namespaced_endpoints(ELECTION, NAMESPACE, stored), "changes no lock but its own")
    core.delete_namespaced_endpoints(ELECTION, NAMESPACE)


def test_its_own_lock(taken: Taken) -> None:
    core, here = taken.core, taken.release.namespace
    record = (
        '{"holderIdentity":"NAME","leaseDurationSeconds":10,"acquireTime":"2026-11-24T12:00:00Z",'
        '"renewTime":"2026-11-24T12:00:00Z","leaderTransitions":0}'
    )
    (me,) = taken.release.pods("controller")
    core.create_namespaced_endpoints(here, {"metadata": {"name": OWN}})
    label = {"leader-election/lock": "true"}
    mine = {"metadata": {"labels": label, "annotations": {RECORD: record.replace("NAME", me["metadata"]["name"])}}}
    core.patch_namespaced_endpoints(OWN, here, mine)
    other = {"metadata": {"annotations": {RECORD: record.replace("NAME", "another")}}}
    denied(lambda: core.patch_namespaced_endpoints(OWN, here, other), "the holder has to be")
    far = {"metadata": {"annotations": {"leader-election/token": "9" * 17}}}
    denied(lambda: core.patch_namespaced_endpoints(OWN, here, far), "fencing token")
    more = {"metadata": {"labels": {"a": "b"}}}
    denied(lambda: core.patch_namespaced_endpoints(OWN, here, more), "has no further labels")
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "00000000-0000-0000-0000-000000000001"}
    denied(lambda: core.patch_namespaced_endpoints(OWN, here, {"metadata": {"ownerReferences": [owner]}}), "own Deployment")
    denied(lambda: core.delete_namespaced_endpoints(OWN, here), "does not remove that")
    taken.release.core.delete_namespaced_endpoints(OWN, here)


def test_roles(taken: Taken) -> None:
    rbac = taken.rbac
    rbac.create_namespaced_role(NAMESPACE, role_to_write(ELECTION, ["endpoints", "leases"]), dry_run="All")
    name, only = "named leader-election:ELECTION and has its label", "on the election's lock, and nothing else"

    def changed(**rule: Any) -> Json:
        body = role_to_write(ELECTION, ["endpoints"])
        body["rules"][0] = {**body["rules"][0], **rule}
        return body

    cases = [
        (role_to_write(ELECTION, ["endpoints"]) | {"metadata": {"name": f"leader-election:{ELECTION}"}}, name),
        (changed() | {"metadata": {"name": "x", "labels": {"leader-election/grant": "true"}}}, name),
        (changed(resourceNames=["other"]), only),
        (changed(resourceNames=[ELECTION, "other"]), only),
        (changed(resourceNames=[]), only),
        (changed(verbs=["delete"]), only),
        (changed(verbs=["create"]), only),
        (changed(apiGroups=[""], resources=["pods"], verbs=["list"]), only),
        (changed(apiGroups=["rbac.authorization.k8s.io"], resources=["roles"], verbs=["update"]), only),
    ]
    for body, says in cases:
        denied(lambda body=body: rbac.create_namespaced_role(NAMESPACE, body), says)  # type: ignore[misc]
    denied(lambda: rbac.create_namespaced_role("kube-system", role_to_write(ELECTION, ["leases"])), name)
    denied(lambda: rbac.create_namespaced_role("le-system", role_to_write(OWN, ["endpoints"])), "the controller's own lock")
    # What it has not itself, it could not give even without a policy.
    denied(lambda: rbac.create_namespaced_role(NAMESPACE, changed(resources=["secrets"], verbs=["get"])), "attempting to grant")
    theirs = {"metadata": {"name": "theirs"}, "rules": []}
    admin: Any = kubernetes.client.RbacAuthorizationV1Api(taken.admin)
    admin.create_namespaced_role(NAMESPACE, theirs)
    denied(lambda: rbac.delete_namespaced_role("theirs", NAMESPACE), name)
    stored = admin.read_namespaced_role("theirs", NAMESPACE)
    denied(lambda: rbac.replace_namespaced_role("theirs", NAMESPACE, stored), name)


def test_bindings(taken: Taken) -> None:
    rbac = taken.rbac
    admin: Any = kubernetes.client.RbacAuthorizationV1Api(taken.admin)
    admin.create_namespaced_role(NAMESPACE, role_to_write("bound", ["endpoints"]))
    rbac.create_namespaced_role_binding(NAMESPACE, binding_to_write(NAMESPACE, "bound", ["default"]), dry_run="All")
    only = "binds service accounts of the namespace to the election's Role"

    def changed(**fields: Any) -> Json:
        return binding_to_write(NAMESPACE, "bound", ["default"]) | fields

    elsewhere = [{"kind": "ServiceAccount", "name": "default", "namespace": "kube-system"}]
    group = [{"kind": "Group", "name": "system:authenticated", "apiGroup": "rbac.authorization.k8s.io"}]
    user = [{"kind": "User", "name": "eve", "apiGroup": "rbac.authorization.k8s.io"}]
    for subjects in (elsewhere, group, user):
        body = changed(subjects=subjects)
        denied(lambda body=body: rbac.create_namespaced_role_binding(NAMESPACE, body), only)  # type: ignore[misc]
    view = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "leader-election-controller"}
    # It has all of that itself, so only the policy stands in the way.
    denied(lambda: rbac.create_namespaced_role_binding(NAMESPACE, changed(roleRef=view)), only)
    view = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    denied(lambda: rbac.create_namespaced_role_binding(NAMESPACE, changed(roleRef=view)), "forbidden")
    admin.delete_namespaced_role("leader-election:bound", NAMESPACE)


def test_pods(taken: Taken) -> None:
    core = taken.core
    only = "of a pod the controller writes the label leader-election/leader, and nothing else"

    def status(name: str, body: Json) -> Callable[[], object]:
        return lambda: core.patch_namespaced_pod_status(name, NAMESPACE, body)

    status("injected", {"metadata": {"labels": {"leader-election/leader": "true"}}})()
    assert taken.release.core.read_namespaced_pod("injected", NAMESPACE).metadata.labels["leader-election/leader"] == "true"
    status("injected", {"metadata": {"labels": {"leader-election/leader": None}}})()
    assert "leader-election/leader" not in taken.release.core.read_namespaced_pod("injected", NAMESPACE).metadata.labels
    for body in (
        {"metadata": {"labels": {"app": "victim"}}},
        {"metadata": {"labels": {"app": None}}},
        {"metadata": {"labels": {"new": "label"}}},
        {"metadata": {"labels": {"leader-election/leader": "yes"}}},
        {"metadata": {"annotations": {"a": "b"}}},
        {"metadata": {"annotations": {"x": None}}},
        {"metadata": {"finalizers": ["a/b"]}},
        {"status": {"phase": "Succeeded"}},
        {"status": {"podIP": "10.9.9.9", "podIPs": [{"ip": "10.9.9.9"}]}},
        {"status": {"conditions": [{"type": "Ready", "status": "True"}]}},
    ):
        denied(status("injected", body), only)
    denied(status("plain", {"metadata": {"labels": {"leader-election/leader": "true"}}}), only)
    forbidden(
        lambda: core.patch_namespaced_pod("injected", NAMESPACE, {"metadata": {"labels": {"leader-election/leader": "true"}}})
    )
    forbidden(lambda: core.delete_namespaced_pod("injected", NAMESPACE))
    forbidden(lambda: core.create_namespaced_pod(NAMESPACE, pod("x")))
    forbidden(lambda: core.create_namespaced_pod_eviction("injected", NAMESPACE, {"metadata": {"name": "injected"}}))
    forbidden(lambda: core.connect_get_namespaced_pod_exec("injected", NAMESPACE, command=["id"]))


def test_events(taken: Taken) -> None:
    post_event(taken, event())
    other = event() | {"reportingController": "kubelet"}
    denied(lambda: post_event(taken, other), "Events of its own, and nothing else")


def test_everything_else(taken: Taken) -> None:
    core, rbac, here = taken.core, taken.rbac, taken.release.namespace
    admission: Any = kubernetes.client.AdmissionregistrationV1Api(taken.client)
    apps: Any = kubernetes.client.AppsV1Api(taken.client)
    denied(lambda: core.create_namespaced_secret(here, secret("x")), "nothing else")
    steal = secret("leader-election-webhook-tls") | {"type": "kubernetes.io/service-account-token"}
    steal["metadata"]["annotations"] = {"kubernetes.io/service-account.name": "default"}
    denied(lambda: core.create_namespaced_secret(here, steal), "nothing else")
    attempts: list[Callable[[], object]] = [
        lambda: core.list_namespaced_secret(here),
        lambda: core.list_secret_for_all_namespaces(),
        lambda: core.read_namespaced_secret("other", NAMESPACE),
        lambda: core.create_namespaced_secret(NAMESPACE, secret("leader-election-webhook-tls")),
        lambda: core.create_namespaced_service_account_token("default", NAMESPACE, {"spec": {"audiences": []}}),
        lambda: core.list_config_map_for_all_namespaces(),
        lambda: core.create_namespaced_service(NAMESPACE, {"metadata": {"name": "x"}}),
        lambda: rbac.create_cluster_role({"metadata": {"name": "x"}, "rules": []}),
        lambda: rbac.patch_cluster_role("leader-election-controller", {"rules": []}),
        lambda: rbac.create_cluster_role_binding(
            {
                "metadata": {"name": "x"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
            }
        ),
        lambda: admission.list_mutating_webhook_configuration(),
        lambda: admission.delete_mutating_webhook_configuration("leader-election"),
        lambda: admission.delete_validating_admission_policy("leader-election-controller-pods"),
        lambda: admission.delete_validating_admission_policy_binding("leader-election-endpoints"),
        lambda: apps.patch_namespaced_deployment("leader-election-controller", here, {"spec": {"replicas": 0}}),
        lambda: apps.list_deployment_for_all_namespaces(),
        lambda: core.list_node(),
    ]
    for attempt in attempts:
        forbidden(attempt)
