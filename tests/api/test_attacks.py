"""What a candidate that was broken into tries, with the token of its own pod, on a real API server: each is denied while the
election goes on. Beyond its managed rights, some try with rights that somebody left lying about, so that the policy alone stands
in the way."""

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
from tests.api.managed import Json, Managed, Pod, managed
from tests.waiting import until

pytestmark = [pytest.mark.api, pytest.mark.long, pytest.mark.timeout(300)]

ELECTION = "orders.leader"
TOKEN = "leader-election/token"
INSTANCE = "leader-election/holder-instance"
NOW = "2026-11-24T12:00:00Z"
GENEROUS = {
    "metadata": {"name": "left-lying-about"},
    "rules": [
        {"apiGroups": [""], "resources": ["endpoints"], "verbs": ["*"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]},
    ],
}


@dataclass(frozen=True)
class Scene:
    """Two candidates that elect one of themselves by both kinds of lock, and a third that was broken into."""

    release: Managed
    namespace: str
    honest: tuple[Pod, Pod]
    broken: Pod
    other: Pod
    """Of another service account and election in the same namespace."""
    elsewhere: Pod
    """Of another namespace, with the same names."""
    client: Any
    """With the token of the one that was broken into."""

    @property
    def core(self) -> Any:
        return kubernetes.client.CoreV1Api(self.client)

    @property
    def coordination(self) -> Any:
        return kubernetes.client.CoordinationV1Api(self.client)

    @property
    def rbac(self) -> Any:
        return kubernetes.client.RbacAuthorizationV1Api(self.client)

    def held(self, kind: str = "endpoints") -> Json:
        """The lock, as the administrator reads it."""
        found = self.release.lock(self.namespace, kind=kind)
        assert found is not None
        return found

    def write(self, change: Callable[[Json], None], kind: str = "endpoints", *, client: Any = None, **options: Any) -> Json:
        """Compare-and-swap what `change` makes of the lock, again when the election was faster."""
        client = client or self.client
        while True:
            body = self.held(kind)
            change(body)
            try:
                if kind == "leases":
                    api: Any = kubernetes.client.CoordinationV1Api(client)
                    return self.release.json(api.replace_namespaced_lease(ELECTION, self.namespace, body, **options))
                core: Any = kubernetes.client.CoreV1Api(client)
                return self.release.json(core.replace_namespaced_endpoints(ELECTION, self.namespace, body, **options))
            except ApiException as error:
                if error.status != 409:
                    raise


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Sandbox.start() as sandbox, managed(sandbox, tmp_path_factory.mktemp("release")) as release:
        namespace, away = release.namespace(), release.namespace()
        release.account(namespace, "others")
        both = "endpointsleases"
        honest = (release.pod(namespace, "a", lock=both), release.pod(namespace, "b", lock=both))
        broken = release.pod(namespace, "c", lock=both)
        other = release.pod(namespace, "o", election="others.leader", account="others")
        elsewhere = release.pod(away, "c")
        for pod in honest:
            release.start(pod)
        until(lambda: release.holder(namespace) in ("a", "b"), "one of them leads")
        until(lambda: release.binding(namespace, "others.leader") is not None and release.binding(away) is not None, "all rights")
        release.rbac.create_namespaced_role(namespace, GENEROUS)
        binding = {
            "metadata": {"name": "left-lying-about"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "left-lying-about"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
        }
        release.rbac.create_namespaced_role_binding(namespace, binding)
        found = Scene(release, namespace, honest, broken, other, elsewhere, release.client(broken))

        def in_force() -> bool:
            for kind, change in (("endpoints", takes()), ("leases", leases(holderIdentity="a", renewTime=None))):
                try:
                    found.write(with_record(holder="nobody") if kind == "endpoints" else change, kind, dry_run="All")
                except ApiException as error:
                    if error.status != 422:
                        return False
                else:
                    return False
            return True

        until(in_force, "the policies are in force")
        yield found


# What is written


def record(holder: str = "c", lease: object = 2, acquired: str = NOW, renewed: str = NOW, transitions: object = 7) -> str:
    return (
        f'{{"holderIdentity":"{holder}","leaseDurationSeconds":{lease},"acquireTime":"{acquired}","renewTime":"{renewed}",'
        f'"leaderTransitions":{transitions}}}'
    )


def takes(text: str | None = None, **annotations: str | None) -> Callable[[Json], None]:
    """A take-over in its own name as the elector writes it, but for what is said otherwise."""

    def change(body: Json) -> None:
        found = body["metadata"]["annotations"]
        number = max(int(found.get(TOKEN, "0")), int(body["metadata"]["resourceVersion"])) + 1
        found.update({RECORD: record() if text is None else text, TOKEN: str(number), INSTANCE: "u/leader-elector"})
        for key, value in annotations.items():
            name = {"token": TOKEN, "instance": INSTANCE, "record": RECORD}.get(key, key)
            found.pop(name, None)
            if value is not None:
                found[name] = value

    return change


def with_record(**fields: Any) -> Callable[[Json], None]:
    return takes(record(**fields))


def also(metadata: Json | None = None, **fields: Any) -> Callable[[Json], None]:
    """A take-over in its own name that changes something else, too."""

    def change(body: Json) -> None:
        takes()(body)
        body["metadata"].update(metadata or {})
        body.update(fields)

    return change


def leases(*, token: int = 1, **spec: Any) -> Callable[[Json], None]:
    def change(body: Json) -> None:
        found = body["metadata"]["annotations"]
        number = max(int(found.get(TOKEN, "0")), int(body["metadata"]["resourceVersion"])) + token
        found.update({TOKEN: str(number), INSTANCE: "u/leader-elector"})
        body["spec"].update({"holderIdentity": "c", "leaseDurationSeconds": 2, **spec})

    return change


def too_high(body: Json) -> None:
    takes()(body)
    annotations = body["metadata"]["annotations"]
    annotations[TOKEN] = str(int(annotations[TOKEN]) + 1)


def one_lower(body: Json) -> None:
    """Than what was stored; one that is higher than the resourceVersion by far is stored first."""
    token = int(body["metadata"]["annotations"][TOKEN])
    takes(token=str(token - 1))(body)


ADDRESSES = [{"addresses": [{"ip": "10.9.9.9"}], "ports": [{"port": 443}]}]
OWNER = [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "00000000-0000-0000-0000-000000000001"}]
TAIL = f'"leaseDurationSeconds":2,"acquireTime":"{NOW}","renewTime":"{NOW}","leaderTransitions":7'

ENDPOINTS: dict[str, tuple[Callable[[Json], None], str]] = {
    "another's name": (with_record(holder="a"), "the holder has to be c or empty"),
    "nobody's name": (with_record(holder="leader-election/placeholder"), "the holder has to be c or empty"),
    "emptying another's claim": (with_record(holder=""), "only the holder empties its claim"),
    "a duplicate key": (takes(f'{{"holderIdentity":"c","holderIdentity":"a",{TAIL}}}'), "not the one of an election"),
    "a duplicate key at the end": (takes(f'{{"holderIdentity":"c",{TAIL},"holderIdentity":"a"}}'), "not the one of an election"),
    "a nested key": (takes(f'{{"x":{{"holderIdentity":"c"}},"holderIdentity":"a",{TAIL}}}'), "the holder has to be c"),
    "a differently cased key": (takes(f'{{"holderIdentity":"c",{TAIL},"HOLDERIDENTITY":"a"}}'), "not the one of an election"),
    "only a differently cased key": (takes(f'{{"HolderIdentity":"c",{TAIL}}}'), "the holder has to be c"),
    "an escaped key": (takes(f'{{"\\u0068olderIdentity":"a",{TAIL}}}'), "the holder has to be c"),
    "a key in a time": (with_record(acquired=NOW + '","holderIdentity":"a'), "not the one of an election"),
    "a second record in the next line": (takes(record() + "\n" + record(holder="a")), "not the one of an election"),
    "spaces in front": (takes(" " + record()), "the holder has to be c"),
    "no record": (takes(record=None), "the holder has to be c"),
    "garbage": (takes("garbage"), "the holder has to be c"),
    "a lease of 68 years": (with_record(lease=2**31 - 1), "at most 600 s"),
    "a lease of 601 s": (with_record(lease=601), "at most 600 s"),
    "no lease": (with_record(lease=0), "at most 600 s"),
    "a lease in words": (with_record(lease='"2"'), "at most 600 s"),
    "transitions that overflow": (with_record(transitions=10**18), "not the one of an election"),
    "addresses": (also(subsets=ADDRESSES), "changes no addresses"),
    "the label taken off": (also({"labels": {}}), "neither labels nor owners"),
    "the label changed": (also({"labels": {"leader-election/lock": "false"}}), "neither labels nor owners"),
    "a label more": (also({"labels": {"leader-election/lock": "true", "x": "y"}}), "neither labels nor owners"),
    "an owner": (also({"ownerReferences": OWNER}), "neither labels nor owners"),
    "a finalizer": (also({"finalizers": ["example.com/never"]}), "no finalizers"),
    "the token lowered": (one_lower, "fencing token never goes down"),
    "the token taken off": (takes(token=None), "fencing token never goes down"),
    "the token raised by far": (takes(token="9" * 17), "fencing token never goes down"),
    "the token raised by one too many": (too_high, "fencing token never goes down"),
    "a token that is no number": (takes(token="0x7fffffff"), "fencing token never goes down"),
    "an annotation more": (takes(**{"example.com/x": "y"}), "no annotations but those of the election"),
    "the election's name changed": (takes(**{"leader-election/name": "kubernetes"}), "no annotations but those"),
    "an instance of 100 kB": (takes(instance="x" * 100_000), "no annotations but those of the election"),
}

LEASES: dict[str, tuple[Callable[[Json], None], str]] = {
    "another's name in a Lease": (leases(holderIdentity="a"), "the holder has to be c or empty"),
    "no holder in a Lease": (leases(holderIdentity=None), "the holder has to be c or empty"),
    "emptying another's Lease": (leases(holderIdentity="", leaseDurationSeconds=1), "only the holder empties its claim"),
    "a Lease of 68 years": (leases(leaseDurationSeconds=2**31 - 1), "1 to 600 s"),
    "a Lease of no length": (leases(leaseDurationSeconds=None), "1 to 600 s"),
    "a Lease's token raised by far": (leases(token=10**9), "fencing token never goes down"),
    "a Lease's token lowered": (leases(token=-(10**9)), "fencing token never goes down"),
}


def denied(call: Callable[[], object], says: str = "") -> None:
    with pytest.raises(ApiException) as caught:
        call()
    assert caught.value.status in (403, 422), caught.value
    message = str(json.loads(caught.value.body or "{}").get("message"))
    assert says in message, message


def test_what_the_attacks_start_from_is_allowed(scene: Scene) -> None:
    """A take-over in its own name (that it may take an unexpired claim is a limit that is documented)."""
    assert scene.write(takes(), dry_run="All")["metadata"]["annotations"][RECORD] == record()
    scene.write(leases(), "leases", dry_run="All")
    scene.write(with_record(lease=600, renewed="2026-11-24T12:00:00.123456Z"), dry_run="All")


@pytest.mark.parametrize("attack", ENDPOINTS)
def test_writing_endpoints(scene: Scene, attack: str) -> None:
    change, says = ENDPOINTS[attack]
    denied(lambda: scene.write(change), says)


@pytest.mark.parametrize("attack", LEASES)
def test_writing_leases(scene: Scene, attack: str) -> None:
    change, says = LEASES[attack]
    denied(lambda: scene.write(change, "leases"), says)


def test_an_unbound_token(scene: Scene) -> None:
    client = scene.release.client(scene.broken, bound=False)
    denied(lambda: scene.write(takes(), client=client), "not bound to a pod")
    denied(lambda: scene.write(leases(), "leases", client=client), "not bound to a pod")


def test_creating_and_deleting(scene: Scene) -> None:
    """Even with rights on all Endpoints and Leases of the namespace."""
    core, coordination, namespace = scene.core, scene.coordination, scene.namespace
    assert scene.release.may(scene.client, "delete", "endpoints", namespace, ELECTION)
    label = {"leader-election/lock": "true"}
    nothing = "neither create nor delete"
    denied(lambda: core.delete_namespaced_endpoints(ELECTION, namespace), nothing)
    denied(lambda: coordination.delete_namespaced_lease(ELECTION, namespace), nothing)
    denied(lambda: core.delete_collection_namespaced_endpoints(namespace, label_selector="leader-election/lock"), nothing)
    denied(lambda: core.create_namespaced_endpoints(namespace, {"metadata": {"name": "x", "labels": label}}), nothing)
    denied(lambda: coordination.create_namespaced_lease(namespace, {"metadata": {"name": "x", "labels": label}}), nothing)
    body = {"metadata": {"annotations": {RECORD: record(holder="a")}}}
    denied(lambda: core.patch_namespaced_endpoints(ELECTION, namespace, body), "the holder has to be c")
    # Its own object, made a lock by nobody but itself: no.
    core.create_namespaced_endpoints(namespace, {"metadata": {"name": "mine"}})
    denied(lambda: core.patch_namespaced_endpoints("mine", namespace, {"metadata": {"labels": label}}), "the holder has to be c")


def test_other_objects(scene: Scene) -> None:
    """By its managed rights it reaches nothing else."""
    core, rbac, namespace = scene.core, scene.rbac, scene.namespace
    role = {"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    binding = {"metadata": {"name": "x"}, "roleRef": reference, "subjects": [subject]}
    label = {"metadata": {"labels": {"leader-election/leader": "true"}}}
    away = scene.elsewhere.namespace
    attempts: list[Callable[[], object]] = [
        lambda: rbac.patch_namespaced_role(f"leader-election:{ELECTION}", namespace, role),
        lambda: rbac.create_namespaced_role(namespace, {"metadata": {"name": "x"}, **role}),
        lambda: rbac.create_namespaced_role_binding(namespace, binding),
        lambda: core.list_namespaced_secret(namespace),
        lambda: core.read_namespaced_secret("leader-election-webhook-tls", "le-system"),
        lambda: core.patch_namespaced_pod("c", namespace, label),
        lambda: core.patch_namespaced_pod_status("c", namespace, label),
        lambda: core.patch_namespaced_pod_status("a", namespace, label),
        lambda: core.list_namespaced_pod(namespace),
        lambda: core.delete_namespaced_pod("a", namespace),
        lambda: core.read_namespaced_endpoints(ELECTION, away),
        lambda: core.patch_namespaced_endpoints(ELECTION, away, {"metadata": {"annotations": {RECORD: record()}}}),
        lambda: core.read_namespaced_endpoints("kubernetes", "default"),
        lambda: core.read_namespaced_endpoints("leader-election-controller.leader", "le-system"),
        lambda: core.create_namespaced_pod(namespace, {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "x"}]}}),
        lambda: core.create_namespaced_service_account_token("default", namespace, {"spec": {"audiences": []}}),
    ]
    for attempt in attempts:
        denied(attempt, "forbidden")


def test_another_lock_of_the_namespace(scene: Scene) -> None:
    """Of another service account: by managed rights."""
    client = scene.release.client(scene.other)
    core: Any = kubernetes.client.CoreV1Api(client)
    assert core.read_namespaced_endpoints("others.leader", scene.namespace)
    denied(lambda: core.read_namespaced_endpoints(ELECTION, scene.namespace), "forbidden")
    denied(lambda: core.replace_namespaced_endpoints(ELECTION, scene.namespace, scene.held()), "forbidden")


def test_the_api_servers_own_endpoints_by_annotation(scene: Scene) -> None:
    release = scene.release
    # As the API server writes it; a sandbox' does not, since it has no address that Endpoints would take.
    subsets = [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "https", "port": 6443}]}]
    skip = {"endpointslice.kubernetes.io/skip-mirror": "true"}
    release.core.create_namespaced_endpoints("default", {"metadata": {"name": "kubernetes", "labels": skip}, "subsets": subsets})
    before = release.lock("default", "kubernetes")
    pod = release.pod("default", "greedy", election="kubernetes")
    until(lambda: bool(release.events("default", "NameTaken")), "it is told that the name is taken")
    assert release.role("default", "kubernetes") is None
    assert release.binding("default", "kubernetes") is None
    client = release.client(pod)
    for verb in ("get", "list", "watch", "update", "patch", "delete"):
        assert not release.may(client, verb, "endpoints", "default", "kubernetes")
    assert release.lock("default", "kubernetes") == before
    (event,) = release.events("default", "NameTaken")
    assert event["involvedObject"]["name"] == "greedy"
    assert "Endpoints kubernetes is not this election's: no rights are given" in event["message"]
    release.delete(pod)


def test_the_controllers_own_lock_by_annotation(scene: Scene) -> None:
    release, name = scene.release, "leader-election-controller.leader"
    pod = release.pod("le-system", "greedy", election=name)
    until(lambda: bool(release.events("le-system", "NameTaken")), "it is told that the name is taken")
    assert not release.may(release.client(pod), "update", "endpoints", "le-system", name)
    release.delete(pod)


def test_the_election_went_on(scene: Scene) -> None:
    """One of the two still leads, renews, hands over when it is told to, and the token has grown."""
    release, namespace = scene.release, scene.namespace
    before, leader = scene.held(), release.holder(namespace)
    assert leader in ("a", "b")
    token = int(before["metadata"]["annotations"][TOKEN])
    until(
        lambda: release.record(namespace)["renewTime"] > json.loads(before["metadata"]["annotations"][RECORD])["renewTime"],
        "it renews",
    )
    release.stop(next(pod for pod in scene.honest if pod.name == leader))
    until(lambda: release.holder(namespace) not in ("", leader), "the other one leads")
    assert int(scene.held()["metadata"]["annotations"][TOKEN]) > token
    assert scene.held("leases")["spec"]["holderIdentity"] == release.holder(namespace)
    denied(lambda: scene.write(with_record(holder="a" if release.holder(namespace) == "b" else "b")), "the holder has to be c")
