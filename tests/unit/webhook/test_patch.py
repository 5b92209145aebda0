"""The patch, proved by applying it with the `jsonpatch` package."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import jsonpatch
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.unit.webhook.pods import SETTINGS, Pod, admit, elector, owner, pod, refuse, respond, review
from webhook._containers import is_injected
from webhook._patch import build_patch
from webhook._plan import plan
from webhook._settings import InjectionSettings

CLASSIC = replace(SETTINGS, sidecar="classic")
BOTH = pytest.mark.parametrize("settings", [SETTINGS, CLASSIC], ids=["native", "classic"])
VARIABLES = ("LEADER_ELECTION_URL", "LEADER_ELECTION_NAME", "LEADER_ELECTION_ID")

EXPECTED_CONTAINER = {
    "name": "leader-elector",
    "image": "registry.example/leader-elector:1",
    "restartPolicy": "Always",
    "args": [
        "--election=web.leader",
        "--election-namespace=$(POD_NAMESPACE)",
        "--id=$(POD_NAME)",
        "--instance=$(POD_UID)/leader-elector",
        "--ttl=10s",
        "--http=localhost:4040",
        "--status-http=:4041",
        "--sidecar=native",
        "--use-cluster-credentials",
    ],
    "env": [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
    ],
    "resources": {"requests": {"cpu": "10m", "memory": "40Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}},
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "startupProbe": {"httpGet": {"path": "/healthz", "port": 4041}, "periodSeconds": 1, "failureThreshold": 120},
    "livenessProbe": {"httpGet": {"path": "/healthz", "port": 4041}, "periodSeconds": 10, "failureThreshold": 3},
    "terminationMessagePolicy": "FallbackToLogsOnError",
    "volumeMounts": [{"name": "leader-elector", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True}],
}


def test_a_deployments_pod() -> None:
    before = pod()
    expected = copy.deepcopy(before)
    expected["metadata"]["labels"]["leader-election/injected"] = "native"
    expected["metadata"]["annotations"]["leader-election/injected"] = "native"
    expected["spec"]["initContainers"] = [EXPECTED_CONTAINER]
    expected["spec"]["containers"][0]["env"] = [
        {"name": "LEADER_ELECTION_URL", "value": "http://localhost:4040"},
        {"name": "LEADER_ELECTION_NAME", "value": "web.leader"},
        {"name": "LEADER_ELECTION_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "COLOUR", "value": "blue"},
    ]
    expected["spec"]["volumes"].append(
        {
            "name": "leader-elector",
            "projected": {
                "sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
                ]
            },
        }
    )
    assert admit(before) == expected


def test_a_native_sidecar_is_first_among_the_init_containers() -> None:
    admitted = admit(pod(initContainers=[{"name": "migrate", "image": "migrate"}]))
    assert [c["name"] for c in admitted["spec"]["initContainers"]] == ["leader-elector", "migrate"]
    assert [v["name"] for v in admitted["spec"]["initContainers"][1]["env"]] == list(VARIABLES)


def test_a_classic_sidecar_is_the_last_container() -> None:
    admitted = admit(pod(), CLASSIC)
    assert [c["name"] for c in admitted["spec"]["containers"]] == ["web", "leader-elector"]
    assert "initContainers" not in admitted["spec"]
    added = elector(admitted)
    assert "restartPolicy" not in added
    assert "--sidecar=classic" in added["args"]
    assert admitted["metadata"]["labels"]["leader-election/injected"] == "classic"


def test_a_pod_with_nothing_but_a_container() -> None:
    bare = {
        "metadata": {"annotations": {"leader-election/enabled": "true", "leader-election/name": "a"}, "labels": None},
        "spec": {"containers": [{"name": "web", "image": "nginx", "env": None}], "volumes": None},
    }
    admitted = admit(bare)
    assert admitted["metadata"]["labels"] == {"leader-election/injected": "native"}
    assert [v["name"] for v in admitted["spec"]["containers"][0]["env"]] == list(VARIABLES)
    assert [v["name"] for v in admitted["spec"]["volumes"]] == ["leader-elector"]


def test_a_variable_that_the_container_sets_itself_stays() -> None:
    own = [
        {"name": "A", "value": "$(LEADER_ELECTION_ID)"},
        {"name": "LEADER_ELECTION_NAME", "value": "mine"},
        {"name": "LEADER_ELECTION_URL"},
    ]
    admitted = admit(pod(containers=[{"name": "web", "image": "nginx", "env": own}]))
    env = admitted["spec"]["containers"][0]["env"]
    assert env == [{"name": "LEADER_ELECTION_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, *own]


def test_a_container_that_sets_all_variables_is_not_touched() -> None:
    own = [{"name": name, "value": "mine"} for name in VARIABLES]
    admitted = admit(pod(containers=[{"name": "web", "image": "nginx", "env": own}]))
    assert admitted["spec"]["containers"][0]["env"] == own


def test_the_url_has_the_pods_port() -> None:
    admitted = admit(pod(annotations={"port": "5000"}))
    assert {"name": "LEADER_ELECTION_URL", "value": "http://localhost:5000"} in admitted["spec"]["containers"][0]["env"]
    assert elector(admitted)["startupProbe"]["httpGet"]["port"] == 5001


@BOTH
def test_ports_are_declared_on_the_hosts_network_only(settings: InjectionSettings) -> None:
    assert "ports" not in elector(admit(pod(), settings))
    assert elector(admit(pod(hostNetwork=True), settings))["ports"] == [
        {"name": "elector", "containerPort": 4040, "hostPort": 4040, "protocol": "TCP"},
        {"name": "elector-status", "containerPort": 4041, "hostPort": 4041, "protocol": "TCP"},
    ]


@pytest.mark.parametrize("policy", ["Always", "IfNotPresent", "Never"])
def test_the_pull_policy_is_the_operators(policy: Any) -> None:
    assert elector(admit(pod(), replace(SETTINGS, image_pull_policy=policy)))["imagePullPolicy"] == policy
    assert "imagePullPolicy" not in elector(admit(pod()))


def resources(requests: dict[str, Any] | None, limits: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [{"name": "web", "image": "nginx", "resources": {"requests": requests, "limits": limits}}]


FULL = {"cpu": "1", "memory": "1Gi"}


@pytest.mark.parametrize(
    "containers",
    [resources(FULL, FULL), resources(None, FULL), resources({"cpu": "1000m", "memory": "1024Mi"}, FULL)],
)
def test_a_guaranteed_pod_stays_guaranteed(containers: list[dict[str, Any]]) -> None:
    ours = elector(admit(pod(containers=containers)))["resources"]
    assert ours["requests"] == ours["limits"]


@pytest.mark.parametrize(
    "containers",
    [
        resources(None, None),
        resources(FULL, None),
        resources(None, {"cpu": "1"}),
        resources({"cpu": "500m"}, FULL),
        resources(FULL, FULL) + resources(None, None),
    ],
)
def test_any_other_pod_pays_little(containers: list[dict[str, Any]]) -> None:
    ours = elector(admit(pod(containers=containers)))["resources"]
    assert ours["requests"] == {"cpu": "10m", "memory": "40Mi"}


def quantities(cpu_request: str, cpu_limit: str, memory_request: str, memory_limit: str) -> dict[str, dict[str, str]]:
    return {
        "requests": {"cpu": cpu_request, "memory": memory_request},
        "limits": {"cpu": cpu_limit, "memory": memory_limit},
    }


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({"cpu-request": "20m"}, quantities("20m", "200m", "40Mi", "64Mi")),
        ({"cpu-request": "1"}, quantities("1", "1", "40Mi", "64Mi")),
        ({"memory-limit": "32Mi"}, quantities("10m", "200m", "32Mi", "32Mi")),
        ({"cpu-limit": "2", "memory-request": "50M"}, quantities("10m", "2", "50M", "64Mi")),
        ({"cpu-request": "5m", "cpu-limit": "5m"}, quantities("5m", "5m", "40Mi", "64Mi")),
    ],
)
def test_the_pods_resources_win_over_the_operators(annotations: dict[str, str], expected: dict[str, Any]) -> None:
    assert elector(admit(pod(annotations=annotations)))["resources"] == expected


def test_a_request_above_its_limit_is_denied() -> None:
    assert refuse(pod(annotations={"cpu-request": "2", "cpu-limit": "1000m"})) == (
        'annotation leader-election/cpu-request is "2", allowed is at most the limit of 1000m'
    )


def test_a_guaranteed_pod_stays_guaranteed_whatever_it_asks_for() -> None:
    response, _ = respond(review(pod(annotations={"cpu-request": "20m"}, containers=resources(FULL, FULL))))
    assert response["warnings"] == ["annotation leader-election/cpu-request has no effect: the pod is Guaranteed, 200m is taken"]


def test_pod_level_resources_with_room() -> None:
    made = pod(containers=resources(FULL, FULL), resources={"requests": {"cpu": "2"}, "limits": {"memory": "2Gi"}})
    assert elector(admit(made))["resources"] == quantities("10m", "200m", "40Mi", "64Mi")


def test_pod_level_resources_that_are_too_small_are_named() -> None:
    made = pod(containers=resources(FULL, FULL), resources={"requests": {"cpu": "1"}, "limits": {"memory": "32Mi"}})
    assert refuse(made) == (
        "the pod's own resources request too little cpu: 1 for containers that request 1.01 with the elector's 10m; "
        "the pod's own resources request too little memory: 33554432 for containers that request 1115684864 "
        "with the elector's 40Mi; "
        "the pod's own resources limit memory to 33554432, below the elector's limit of 64Mi: raise it, "
        "or set the annotation leader-election/memory-limit"
    )


@pytest.mark.parametrize(
    ("sidecar", "first", "needed"),
    [
        # The native elector runs beside each init container; both end or stay before the application starts.
        ("native", {}, "0.21"),
        ("native", {"restartPolicy": "Always"}, "0.31"),
        ("classic", {}, None),
        ("classic", {"restartPolicy": "Always"}, "0.31"),
    ],
)
def test_pod_level_resources_have_room_for_every_moment(sidecar: str, first: dict[str, Any], needed: str | None) -> None:
    init = {"name": "first", "image": "x", "resources": {"requests": {"cpu": "200m"}}, **first}
    # A limit without a request is one: in manifests nobody has filled that in.
    containers = [{"name": "web", "image": "nginx", "resources": {"limits": {"cpu": "100m"}}}]
    made = pod(
        annotations={"sidecar": sidecar}, initContainers=[init], containers=containers, resources={"requests": {"cpu": "200m"}}
    )
    if needed is None:
        assert elector(admit(made))
    else:
        assert refuse(made) == (
            f"the pod's own resources request too little cpu: 0.2 for containers that request {needed} with the elector's 10m"
        )


def test_the_user_can_be_left_to_the_cluster() -> None:
    context = elector(admit(pod(), replace(SETTINGS, run_as_user=None)))["securityContext"]
    assert context["runAsNonRoot"] is True
    assert "runAsUser" not in context
    assert "runAsGroup" not in context


def needing(*terms: list[dict[str, Any]]) -> dict[str, Any]:
    """The spec of a pod for nodes that meet one of these terms."""
    selector = {"nodeSelectorTerms": [{"matchExpressions": term} for term in terms]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": selector}}}


WINDOWS = {"key": "kubernetes.io/os", "operator": "In", "values": ["windows"]}
FAST = {"key": "disk", "operator": "In", "values": ["ssd"]}


@pytest.mark.parametrize(
    "spec",
    [
        {"os": {"name": "windows"}},
        {"nodeSelector": {"kubernetes.io/os": "windows"}},
        needing([WINDOWS]),
        needing([FAST, WINDOWS], [WINDOWS]),
    ],
)
def test_a_windows_pod_is_denied(spec: dict[str, Any]) -> None:
    assert refuse(pod(**spec)) == "the pod is for Windows nodes, for which there is no elector"


@pytest.mark.parametrize(
    "spec",
    [
        {"os": {"name": "linux"}, "nodeSelector": {"kubernetes.io/os": "linux"}},
        needing([WINDOWS], [FAST]),
        needing([{**WINDOWS, "values": ["linux", "windows"]}]),
        needing([{**WINDOWS, "operator": "NotIn"}]),
        needing([]),
        needing(),
        {"affinity": {"nodeAffinity": {}, "podAffinity": {}}},
        {"affinity": None},
    ],
)
def test_a_pod_that_may_run_elsewhere_is_no_windows_pod(spec: dict[str, Any]) -> None:
    assert elector(admit(pod(**spec)))


@pytest.mark.parametrize("field", ["containers", "initContainers"])
@pytest.mark.parametrize(
    ("port", "message"),
    [
        (4040, 'the elector\'s port would be 4040 (annotation leader-election/port), but container "taken" has that port'),
        (
            4041,
            'the elector\'s port would be 4040 (annotation leader-election/port), but container "taken" has port 4041, '
            "which would be the elector's status port",
        ),
    ],
)
def test_a_port_that_is_taken_is_named(field: str, port: int, message: str) -> None:
    taken = {"name": "taken", "image": "x", "ports": [{"containerPort": port}]}
    made = pod()
    made["spec"][field] = [taken]
    assert refuse(made) == message


@pytest.mark.parametrize("declared", [{"containerPort": 4040, "protocol": "UDP"}, {"containerPort": 4039}])
def test_a_port_that_is_not_taken(declared: dict[str, Any]) -> None:
    admit(pod(containers=[{"name": "web", "image": "nginx", "ports": [declared]}]))


def test_foreign_things_with_the_electors_name_are_named() -> None:
    message = refuse(
        pod(containers=[{"name": "leader-elector", "image": "x"}], volumes=[{"name": "leader-elector", "emptyDir": {}}])
    )
    assert message == (
        'the pod has a volume named "leader-elector", which is the elector\'s name; '
        'the pod has a container named "leader-elector" that is not the elector'
    )


def test_what_is_injected_is_judged_by_the_containers() -> None:
    copied = pod(annotations={"injected": "native"})
    copied["metadata"]["labels"]["leader-election/injected"] = "native"
    assert not is_injected(copied)
    assert is_injected(admit(copied))


# -- over generated pods -----------------------------------------------------------------------------------------------

NAMES = st.text("abc-/~", min_size=1, max_size=4)
VARIABLE = st.fixed_dictionaries({"name": NAMES | st.sampled_from(VARIABLES)}, optional={"value": st.text("a$()", max_size=3)})
QUANTITIES = st.fixed_dictionaries({}, optional={"cpu": st.sampled_from(["1", "500m"]), "memory": st.just("1Gi")})
MAYBE: st.SearchStrategy[dict[str, Any] | None] = st.none() | st.just({})


def containers(least: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    one = st.fixed_dictionaries(
        {"name": NAMES, "image": st.just("x")},
        optional={
            "env": st.none() | st.lists(VARIABLE, max_size=4),
            "ports": st.none() | st.lists(st.fixed_dictionaries({"containerPort": st.integers(1, 1023)}), max_size=2),
            "resources": MAYBE | st.fixed_dictionaries({}, optional={"requests": QUANTITIES, "limits": QUANTITIES}),
            "args": st.just(["--election=theirs"]),
            "restartPolicy": st.just("Always"),
        },
    )
    return st.lists(one, min_size=least, max_size=3)


PODS = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {
                "annotations": st.fixed_dictionaries(
                    {"leader-election/enabled": st.just("true"), "leader-election/name": st.just("e")},
                    optional={
                        "leader-election/ttl": st.sampled_from(["1s", "10m"]),
                        "leader-election/port": st.sampled_from(["1024", "65534"]),
                        "leader-election/injected": st.just("old"),
                        "a/~b": st.just("c"),
                    },
                )
            },
            optional={
                "labels": st.none() | st.dictionaries(NAMES, NAMES, max_size=2),
                "name": NAMES,
                "generateName": NAMES,
                "ownerReferences": st.just([owner()]),
            },
        ),
        "spec": st.fixed_dictionaries(
            {"containers": containers(1)},
            optional={
                "initContainers": st.none() | containers(0),
                "ephemeralContainers": containers(1),
                "volumes": st.none() | st.lists(st.fixed_dictionaries({"name": NAMES}), max_size=2),
                "hostNetwork": st.booleans(),
                "automountServiceAccountToken": st.booleans(),
            },
        ),
    },
    optional={"apiVersion": st.just("v1"), "kind": st.just("Pod"), "status": st.just({})},
)
WAYS = st.sampled_from([SETTINGS, CLASSIC])
# A machine that is busy with other tests must not fail these.
patient = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def tidy(value: Any) -> Any:
    """Without what is null or empty, which to the API server is the same as absent."""
    if isinstance(value, dict):
        return {k: t for k, v in value.items() if (t := tidy(v)) not in (None, {}, [])}
    return [tidy(v) for v in value] if isinstance(value, list) else value


def without_ours(admitted: Pod, before: Pod) -> Pod:
    """The admitted pod less exactly what we may add."""
    rest = copy.deepcopy(admitted)
    spec = rest["spec"]
    for field in ("initContainers", "containers"):
        spec[field] = [c for c in spec.get(field) or [] if c["name"] != "leader-elector"]
        for now, then in zip(spec[field], before["spec"].get(field) or [], strict=True):
            own = {v["name"] for v in then.get("env") or []}
            now["env"] = [v for v in now.get("env") or [] if v["name"] in own or v["name"] not in VARIABLES]
    spec["volumes"] = [v for v in spec["volumes"] if v["name"] != "leader-elector"]
    return without_report(rest)


def without_report(of: Pod) -> Pod:
    rest = copy.deepcopy(of)
    for field in ("labels", "annotations"):
        (rest["metadata"].get(field) or {}).pop("leader-election/injected", None)
    return rest


@patient
@given(before=PODS, settings=WAYS)
def test_the_patched_pod_is_the_old_one_plus_ours(before: Pod, settings: InjectionSettings) -> None:
    untouched = copy.deepcopy(before)
    election, _ = plan(before, settings)
    patch = build_patch(before, election)
    assert before == untouched
    assert {operation["op"] for operation in patch} == {"add"}
    admitted = jsonpatch.apply_patch(before, patch)
    assert tidy(without_ours(admitted, before)) == tidy(without_report(before))

    everywhere = [*(admitted["spec"].get("initContainers") or []), *admitted["spec"]["containers"]]
    for container in everywhere:
        if container["name"] != "leader-elector":
            names = [v["name"] for v in container["env"]]
            assert all(name in names for name in VARIABLES)
    ours = elector(admitted)
    assert ours["volumeMounts"][0]["name"] in [v["name"] for v in admitted["spec"]["volumes"]]


@patient
@given(before=PODS, settings=WAYS, again=WAYS)
def test_injecting_again_changes_nothing(before: Pod, settings: InjectionSettings, again: InjectionSettings) -> None:
    admitted = admit(before, settings)
    assert admit(admitted, again) == admitted
