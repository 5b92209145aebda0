"""The webhook on a real API server: what it adds is accepted, it is asked once for each pod, and it can be away."""

from __future__ import annotations

import base64
import json
import re
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kubernetes.client
import pytest
from kubernetes.client import ApiException

from sandbox import Sandbox
from sandbox._certificates import Authority
from sandbox._keeper_client import Program
from sandbox.injection import registration, start_webhook
from tests.waiting import eventually, until

pytestmark = pytest.mark.api

GOLDEN = Path(__file__).parents[1] / "unit" / "webhook" / "golden"
PATCHES = sorted(GOLDEN.glob("*.patch.json"))
DENIALS = sorted(GOLDEN.glob("*.denied.txt"))
ON = {"leader-election/enabled": "true"}
NAMED = {**ON, "leader-election/name": "tests"}
SECURE = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
SMALL = {"cpu": "100m", "memory": "64Mi"}

Json = dict[str, Any]


@dataclass(frozen=True)
class Cluster:
    """A sandbox of this module's own, since the webhook is the whole cluster's, with the webhook registered."""

    sandbox: Sandbox
    webhook: Program

    @property
    def core(self) -> Any:
        return kubernetes.client.CoreV1Api(self.sandbox.api)

    def json(self, thing: Any) -> Json:
        made: Json = self.sandbox.api.sanitize_for_serialization(thing)
        return made

    def decisions(self, namespace: str) -> list[str]:
        """What the webhook has logged about a namespace."""
        # It writes a line after the answer, and before it takes the next review.
        self.core.create_namespaced_pod("default", pod(), dry_run="All")
        return [line for line in self.webhook.log.read_text().splitlines() if f' namespace="{namespace}" ' in line]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Sandbox.start(audit=True) as sandbox:
        yield Cluster(sandbox, start_webhook(sandbox))


@dataclass(frozen=True)
class Namespace:
    cluster: Cluster
    name: str

    def create(self, pod: Json, **options: Any) -> Json:
        """The pod as the API server stores it."""
        return self.cluster.json(self.cluster.core.create_namespaced_pod(self.name, pod, **options))

    def decisions(self) -> list[str]:
        return self.cluster.decisions(self.name)


@pytest.fixture
def namespace(cluster: Cluster) -> Namespace:
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.core.create_namespace({"metadata": {"name": name}})
    until(
        lambda: [a for a in cluster.core.list_namespaced_service_account(name).items if a.metadata.name == "default"],
        "the account is there",
    )
    return Namespace(cluster, name)


def pod(annotations: dict[str, str] | None = None, **spec: Any) -> Json:
    metadata = {"generateName": "pod-", "annotations": NAMED if annotations is None else annotations}
    return {"metadata": metadata, "spec": {"containers": [{"name": "app", "image": "app"}], **spec}}


def app(**fields: Any) -> list[Json]:
    return [{"name": "app", "image": "app", **fields}]


def elector(of: Json) -> Json:
    spec = of["spec"]
    (found,) = [one for one in [*spec.get("initContainers", []), *spec["containers"]] if one["name"] == "leader-elector"]
    assert isinstance(found, dict)
    return found


def said(error: ApiException) -> str:
    return str(json.loads(error.body or "{}").get("message"))


def mounts(container: Json) -> list[str]:
    return [mount["mountPath"] for mount in container.get("volumeMounts", [])]


# -- pods ----------------------------------------------------------------------------------------------------------------


def pod_beside(path: Path) -> Json:
    document: Json = json.loads(path.with_name(path.name.partition(".")[0] + ".pod.json").read_text())
    return document


@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.name.removesuffix(".patch.json"))
def test_a_golden_pod_is_accepted_and_asked_about_once(namespace: Namespace, path: Path) -> None:
    patch = json.loads(path.read_text())
    (golden,) = [
        value
        for operation in patch
        for value in (operation["value"] if isinstance(operation["value"], list) else [operation["value"]])
        if isinstance(value, dict) and value.get("name") == "leader-elector" and "args" in value
    ]
    stored = namespace.create(pod_beside(path))
    assert elector(stored)["args"] == golden["args"]
    assert elector(stored)["securityContext"] == golden["securityContext"]
    (decision,) = namespace.decisions()
    assert " result=injected " in decision


@pytest.mark.parametrize("path", DENIALS, ids=lambda path: path.name.removesuffix(".denied.txt"))
def test_a_golden_pod_is_denied_with_its_message(namespace: Namespace, path: Path) -> None:
    with pytest.raises(ApiException) as caught:
        namespace.create(pod_beside(path))
    assert said(caught.value) == f'admission webhook "inject.leader-election.io" denied the request: {path.read_text().strip()}'
    (decision,) = namespace.decisions()
    assert " result=denied " in decision


def test_an_ephemeral_container_is_left_alone(namespace: Namespace) -> None:
    name = namespace.create(pod())["metadata"]["name"]
    body = {"spec": {"ephemeralContainers": [{"name": "debug", "image": "busybox"}]}}
    stored = namespace.cluster.json(namespace.cluster.core.patch_namespaced_pod_ephemeralcontainers(name, namespace.name, body))
    assert [one["name"] for one in stored["spec"]["ephemeralContainers"]] == ["debug"]
    assert "env" not in stored["spec"]["ephemeralContainers"][0]
    assert len(namespace.decisions()) == 1


def test_a_plain_pod_and_those_left_out_never_reach_the_webhook(namespace: Namespace) -> None:
    for marks in ({}, {"leader-election/enabled": "false"}, {**NAMED, "kubernetes.io/config.mirror": "abc"}):
        stored = namespace.create(pod(marks, nodeName="node"))
        assert [one["name"] for one in stored["spec"]["containers"]] == ["app"]
        assert "initContainers" not in stored["spec"]
    assert namespace.decisions() == []
    system = namespace.cluster.core.create_namespaced_pod("kube-system", pod(), dry_run="All")
    assert system.spec.init_containers is None


@pytest.mark.parametrize("sidecar", ["native", "classic"])
def test_pod_security_restricted(namespace: Namespace, sidecar: str) -> None:
    namespace.cluster.core.patch_namespace(
        namespace.name, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    )
    with pytest.raises(ApiException, match="violates PodSecurity"):
        namespace.create(pod({}))
    annotations = {**NAMED, "leader-election/sidecar": sidecar}
    assert elector(namespace.create(pod(annotations, containers=app(securityContext=SECURE))))
    assert len(namespace.decisions()) == 1


def test_a_quota_that_wants_limits(namespace: Namespace) -> None:
    core = namespace.cluster.core
    hard = {"requests.cpu": "1", "requests.memory": "1Gi", "limits.cpu": "1", "limits.memory": "1Gi"}
    core.create_namespaced_resource_quota(namespace.name, {"metadata": {"name": "all"}, "spec": {"hard": hard}})
    until(lambda: core.read_namespaced_resource_quota("all", namespace.name).status.hard, "the quota is observed")
    with pytest.raises(ApiException, match=r"must specify limits\.cpu"):
        namespace.create(pod({}))
    stored = namespace.create(pod(containers=app(resources={"limits": SMALL})))
    assert elector(stored)["resources"]["limits"].keys() == {"cpu", "memory"}


def test_a_limit_range_counts_before_the_webhook(namespace: Namespace) -> None:
    limit = {"type": "Container", "default": SMALL, "defaultRequest": SMALL, "max": {"cpu": "1", "memory": "1Gi"}}
    namespace.cluster.core.create_namespaced_limit_range(
        namespace.name, {"metadata": {"name": "all"}, "spec": {"limits": [limit]}}
    )
    # The API server takes a LimitRange up a moment after it has stored it.
    until(lambda: "resources" in namespace.create(pod({}), dry_run="All")["spec"]["containers"][0], "the LimitRange counts")
    stored = eventually(
        lambda: made if (made := namespace.create(pod()))["status"]["qosClass"] == "Guaranteed" else None, "the pod is guaranteed"
    )
    assert elector(stored)["resources"]["requests"] == elector(stored)["resources"]["limits"]


def test_a_guaranteed_pod_stays_guaranteed(namespace: Namespace) -> None:
    stored = namespace.create(pod(containers=app(resources={"requests": SMALL, "limits": SMALL})))
    assert stored["status"]["qosClass"] == "Guaranteed"


@pytest.mark.parametrize("automount", [True, False])
def test_the_elector_has_its_token_whether_or_not_the_pod_has_one(namespace: Namespace, automount: bool) -> None:
    stored = namespace.create(pod(automountServiceAccountToken=automount))
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert mounts(elector(stored)) == [folder]
    assert mounts(stored["spec"]["containers"][0]) == ([folder] if automount else [])
    assert len(stored["spec"]["volumes"]) == 1 + automount
    assert len(namespace.decisions()) == 1


def test_a_dry_run_is_answered_and_marked(namespace: Namespace) -> None:
    assert elector(namespace.create(pod(), dry_run="All"))
    (decision,) = namespace.decisions()
    assert decision.endswith(" dryRun=true")
    assert namespace.cluster.core.list_namespaced_pod(namespace.name).items == []


def test_the_audit_log_tells_what_was_decided(namespace: Namespace) -> None:
    namespace.create(pod())
    log = namespace.cluster.sandbox.directory / "audit.log"

    def entries() -> list[Json]:
        lines = [line for line in log.read_text().splitlines() if f'"namespace":"{namespace.name}"' in line]
        found = [json.loads(line)["annotations"] for line in lines if '"resource":"pods"' in line and "ResponseComplete" in line]
        return [one for one in found if "inject.leader-election.io/result" in one]

    (found,) = eventually(entries, "the audit log has it")
    assert found["inject.leader-election.io/result"] == "injected"
    assert found["inject.leader-election.io/election"] == "tests"


# -- beside another injector -----------------------------------------------------------------------------------------------


class OtherInjector(BaseHTTPRequestHandler):
    """Adds a container to every pod that it is asked about."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))["request"]
        names = [one["name"] for one in request["object"]["spec"]["containers"]]
        operation = {"op": "add", "path": "/spec/containers/-", "value": {"name": "proxy", "image": "proxy"}}
        answer = {"uid": request["uid"], "allowed": True}
        if "proxy" not in names:
            answer |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps([operation]).encode()).decode()}
        content = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def other(cluster: Cluster, namespace: Namespace, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Registers another injector for the test's namespace, under a name by which the API server orders them."""
    authority = Authority(tmp_path)
    pair = authority.server("other", dns=["localhost"], addresses=["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    admission: Any = kubernetes.client.AdmissionregistrationV1Api(cluster.sandbox.api)
    registered: list[str] = []

    def register(name: str) -> None:
        document = registration(f"https://127.0.0.1:{server.server_port}/", authority.pair.certificate.read_bytes())
        document["metadata"]["name"] = name
        (webhook,) = document["webhooks"]
        webhook["name"] = f"{name}.example.com"
        webhook["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}}
        del webhook["matchConditions"]
        admission.create_mutating_webhook_configuration(document)
        registered.append(name)
        until(lambda: len(namespace.create(pod({}), dry_run="All")["spec"]["containers"]) == 2, "both inject")

    with ThreadingHTTPServer(("127.0.0.1", 0), OtherInjector) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield register
        finally:
            for name in registered:
                admission.delete_mutating_webhook_configuration(name)
            server.shutdown()
            serving.join()


@pytest.mark.parametrize("name", ["a-proxy", "z-proxy"], ids=["before", "after"])
def test_another_injector_before_and_after(namespace: Namespace, other: Callable[[str], None], name: str) -> None:
    other(name)
    stored = namespace.create(pod())
    assert [one["name"] for one in stored["spec"]["initContainers"]] == ["leader-elector"]
    assert [one["name"] for one in stored["spec"]["containers"]] == ["app", "proxy"]
    assert len([one for one in stored["spec"]["volumes"] if one["name"] == "leader-elector"]) == 1
    # Asked again, since the other one or the API server (a token for the other's container) has changed the pod after it.
    assert [re.findall(r"result=(\w+)", line)[0] for line in namespace.decisions()] == ["injected", "unchanged"]


# -- what people see -----------------------------------------------------------------------------------------------------


def test_a_denial_as_a_person_sees_it(namespace: Namespace) -> None:
    with pytest.raises(ApiException) as caught:
        namespace.create(pod({**ON, "leader-election/ttl": "5", "leader-election/port": "80"}))
    assert caught.value.status == 422
    assert said(caught.value) == (
        'admission webhook "inject.leader-election.io" denied the request: '
        'annotation leader-election/ttl is "5", allowed is a Go duration in whole seconds from 1s to 10m; '
        'annotation leader-election/port is "80", allowed is a number from 1024 to 65534; '
        "the pod has no controlling owner to name the election after: set the annotation leader-election/name"
    )


def test_a_warning_as_a_person_sees_it(namespace: Namespace) -> None:
    _, _, headers = namespace.cluster.core.create_namespaced_pod_with_http_info(
        namespace.name, pod({**NAMED, "leader-election/tll": "5s"})
    )[:3]
    assert headers["Warning"] == '299 - "annotation leader-election/tll is unknown, did you mean leader-election/ttl?"'


# -- workloads -----------------------------------------------------------------------------------------------------------


def workload(kind: str, annotations: dict[str, str] | None = None) -> Json:
    labels = {"app": "web"}
    template: Json = {"metadata": {"labels": labels, "annotations": annotations or ON}, "spec": {"containers": app()}}
    spec: Json = {"selector": {"matchLabels": labels}, "template": template}
    if kind == "StatefulSet":
        spec["serviceName"] = "web"
    if kind == "Job":
        del spec["selector"]
        template["spec"]["restartPolicy"] = "Never"
    return {"metadata": {"name": "web"}, "spec": spec}


def create_workload(namespace: Namespace, kind: str, document: Json) -> None:
    api: Any = (kubernetes.client.BatchV1Api if kind == "Job" else kubernetes.client.AppsV1Api)(namespace.cluster.sandbox.api)
    names = {"Deployment": "deployment", "StatefulSet": "stateful_set", "DaemonSet": "daemon_set", "Job": "job"}
    getattr(api, f"create_namespaced_{names[kind]}")(namespace.name, document)


@pytest.fixture(scope="module")
def node(cluster: Cluster) -> None:
    """Without a node no DaemonSet has pods. Nothing runs on this one."""
    cluster.core.create_node({"metadata": {"name": "node"}})


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_the_election_is_named_after_the_workload(namespace: Namespace, node: None, kind: str) -> None:
    create_workload(namespace, kind, workload(kind))
    (found,) = eventually(lambda: namespace.cluster.core.list_namespaced_pod(namespace.name).items, "the pod is there")
    stored = namespace.cluster.json(found)
    assert "--election=web.leader" in elector(stored)["args"]
    assert stored["metadata"]["labels"]["leader-election/injected"] == "native"


def test_a_job_needs_a_name(namespace: Namespace) -> None:
    create_workload(namespace, "Job", workload("Job"))
    advice = "does not give an election a name that outlives one roll-out or run: set the annotation leader-election/name"
    assert advice in failure_of(namespace, "Job")
    document = workload("Job", NAMED)
    document["metadata"]["name"] = "named"
    create_workload(namespace, "Job", document)
    (found,) = eventually(lambda: namespace.cluster.core.list_namespaced_pod(namespace.name).items, "the pod is there")
    assert "--election=tests" in elector(namespace.cluster.json(found))["args"]


def test_a_denial_reaches_the_events_of_the_workload(namespace: Namespace) -> None:
    create_workload(namespace, "Deployment", workload("Deployment", {**ON, "leader-election/lock": "configmaps"}))
    message = failure_of(namespace, "ReplicaSet")
    assert 'annotation leader-election/lock is "configmaps", allowed is endpoints, leases or endpointsleases' in message


def failure_of(namespace: Namespace, kind: str) -> str:
    def failures() -> list[str]:
        events = namespace.cluster.core.list_namespaced_event(namespace.name).items
        return [one.message for one in events if one.reason == "FailedCreate" and one.involved_object.kind == kind]

    message: str = eventually(failures, "there is a failure")[0]
    return message


# -- the webhook away: the last test of this module, whose webhook it stops --------------------------------------------------


def test_an_outage_touches_annotated_pods_only(namespace: Namespace) -> None:
    assert elector(namespace.create(pod()))
    namespace.cluster.webhook.stop()
    assert namespace.create(pod({}))["metadata"]["name"]
    with pytest.raises(ApiException) as caught:
        namespace.create(pod())
    message = said(caught.value)
    assert re.search(r'failed calling webhook "inject\.leader-election\.io".*connection refused', message)
