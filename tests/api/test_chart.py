"""The chart on a real API server: accepted whole, installed, upgraded, rolled back and uninstalled, its processes running."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes.client
import pytest
from kubernetes.client import ApiException

from sandbox import Sandbox
from tests.chart.helm import CHART, VALUE_SETS, kube_version_of, objects, render
from tests.chart.release import Kubelet, Release
from tests.waiting import until
from webhook._annotations import ROWS

pytestmark = [pytest.mark.api, pytest.mark.long]

ELSEWHERE = ("cert-manager.io", "monitoring.coreos.com")
"""Groups whose kinds the API server knows only once others have been installed."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Sandbox]:
    """A control plane of this module's own: a registration concerns the whole cluster."""
    with Sandbox.start(audit=True) as started:
        yield started


@pytest.fixture
def release(cluster: Sandbox, tmp_path: Path) -> Iterator[Release]:
    found = Release(cluster, tmp_path, "leader-election", "le-system")
    yield found
    if found.name in found.helm("list", "--short"):
        found.helm("uninstall", found.name, "--wait=hookOnly")
    for pod in found.core.list_namespaced_pod("default").items:
        found.core.delete_namespaced_pod(pod.metadata.name, "default", grace_period_seconds=0)


def apply(cluster: Sandbox, body: dict[str, Any], *, dry_run: bool) -> tuple[int, dict[str, Any], list[str]]:
    """Server-side apply, strict: status, answer and warnings."""
    group, _, version = body["apiVersion"].rpartition("/")
    resource = {"NetworkPolicy": "networkpolicies", "ValidatingAdmissionPolicy": "validatingadmissionpolicies"}.get(
        body["kind"], body["kind"].lower() + ("" if body["kind"].endswith("s") else "s")
    )
    namespace = body["metadata"].get("namespace")
    prefix = f"/apis/{group}/{version}" if group else f"/api/{version}"
    scope = f"/namespaces/{namespace}" if namespace else ""
    query = "fieldManager=test&fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
    url = f"{cluster.url}{prefix}{scope}/{resource}/{body['metadata']['name']}?{query}"
    answer = cluster.api.rest_client.pool_manager.request(
        "PATCH", url, body=json.dumps(body).encode(), headers={"Content-Type": "application/apply-patch+yaml"}
    )
    return answer.status, json.loads(answer.data), answer.headers.getlist("Warning")


@pytest.mark.parametrize("values", VALUE_SETS, ids=lambda file: file.stem)
def test_the_api_server_takes_every_render(cluster: Sandbox, values: Path) -> None:
    core: Any = kubernetes.client.CoreV1Api(cluster.api)
    existing = {one.metadata.name for one in core.list_namespace().items}
    for name in {"leader-election", "shop", "bank"} - existing:
        core.create_namespace({"metadata": {"name": name}})
    checked = 0
    for body in objects(render(values=[values], kube_version=kube_version_of(values))):
        if body["apiVersion"].startswith(ELSEWHERE):
            continue
        status, answer, warnings = apply(cluster, body, dry_run=True)
        assert status in (200, 201), answer["message"]
        assert not warnings, (body["kind"], warnings)
        checked += 1
    assert checked >= 7


# Installed, with processes


VALUES = [
    "--set=image.repository=registry.example.com/le",
]


def at(kubelet: Kubelet) -> str:
    """The value for a cluster that reaches the webhook by URL."""
    return f"--set=webhook.url=https://127.0.0.1:{kubelet.service.port}/mutate"


def serves(release: Release, name: str = "probe") -> bool:
    """Whether an annotated pod is created with its elector."""
    try:
        created = release.create_pod(name)
    except ApiException as error:
        if "leader-election" not in str(error.body):
            raise
        return False
    release.core.delete_namespaced_pod(name, "default", grace_period_seconds=0)
    return bool(created["spec"].get("initContainers"))


def test_install_upgrade_rollback_uninstall(cluster: Sandbox, release: Release, tmp_path: Path) -> None:
    with Kubelet(cluster, release, tmp_path / "nodes") as kubelet:
        notes = release.install(*VALUES, at(kubelet))
        assert "rollout status deployment/leader-election-webhook" in notes
        # Fails closed from the start.
        with pytest.raises(ApiException, match="leader-election"):
            release.create_pod("too-early")
        ready = until(lambda: serves(release), "an annotated pod gets its elector")
        print(f"fresh install to ready: {ready:.1f} s")
        assert ready < 60
        until(lambda: all(len(kubelet.programs(one)) == 2 for one in ("webhook", "controller")), "two of each")
        first = release.secret()
        assert first is not None

        # helm does not know the caBundle, and leaves it alone. While pods are rolled, no creation fails.
        release.helm("upgrade", release.name, str(CHART), "--reuse-values", "--set=elector.resources.limits.cpu=300m")
        assert release.bundle() == first["ca.crt"]
        until(lambda: limit(release) == "300m", "the new webhook answers")
        until(lambda: len(release.pods("webhook")) == 2, "the former ones have left")
        assert release.secret() == first

        # Somebody empties it, as a GitOps tool does that knows better.
        body = {"webhooks": [{"name": "inject.leader-election.io", "clientConfig": {"caBundle": None}}]}
        release.admission.patch_mutating_webhook_configuration(release.name, body)
        repaired = until(lambda: release.bundle() == first["ca.crt"], "the caBundle is put back")
        print(f"emptied caBundle put back after {repaired:.2f} s")
        assert repaired < 5
        until(lambda: serves(release), "pods again", seconds=5)

        release.helm("rollback", release.name, "1")
        assert release.bundle() == first["ca.crt"]
        until(lambda: limit(release) == "200m", "the former settings are back")

        release.helm("uninstall", release.name)
        # At once: the registration went with the release.
        assert release.create_pod("free")["spec"].get("initContainers") is None
        until(lambda: release.secret() is None, "the Secret is gone with its owner")
        until(lambda: not left(cluster, release), "all objects are gone")


def limit(release: Release) -> str:
    """The CPU limit that a new elector gets. `ApiException` when the pod is refused."""
    created = release.create_pod("limits")
    release.core.delete_namespaced_pod("limits", "default", grace_period_seconds=0)
    return str(created["spec"]["initContainers"][0]["resources"]["limits"]["cpu"])


def left(cluster: Sandbox, release: Release) -> list[str]:
    """What of the release is still there: everything of its labels, the Secret and the lock."""
    label = f"app.kubernetes.io/instance={release.name}"
    apps: Any = kubernetes.client.AppsV1Api(cluster.api)
    rbac: Any = kubernetes.client.RbacAuthorizationV1Api(cluster.api)
    policy: Any = kubernetes.client.PolicyV1Api(cluster.api)
    namespace = release.namespace
    lists = [
        apps.list_namespaced_deployment(namespace, label_selector=label),
        apps.list_namespaced_replica_set(namespace, label_selector=label),
        release.core.list_namespaced_pod(namespace, label_selector=label),
        release.core.list_namespaced_service(namespace, label_selector=label),
        release.core.list_namespaced_service_account(namespace, label_selector=label),
        policy.list_namespaced_pod_disruption_budget(namespace, label_selector=label),
        rbac.list_role_for_all_namespaces(label_selector=label),
        rbac.list_role_binding_for_all_namespaces(label_selector=label),
        rbac.list_cluster_role(label_selector=label),
        rbac.list_cluster_role_binding(label_selector=label),
        release.admission.list_mutating_webhook_configuration(label_selector=label),
        release.admission.list_validating_admission_policy(label_selector=label),
        release.admission.list_validating_admission_policy_binding(label_selector=label),
        release.core.list_namespaced_endpoints(namespace, field_selector=f"metadata.name={release.name}-controller.leader"),
        release.core.list_namespaced_secret(namespace, field_selector=f"metadata.name={release.name}-webhook-tls"),
    ]
    return [f"{type(found).__name__}: {one.metadata.name}" for found in lists for one in found.items]


def test_the_controllers_rights_are_enough_and_no_more(cluster: Sandbox, release: Release) -> None:
    """Where it looks after certificates only; with managed rights: test_controller_confined.py."""
    release.install(*VALUES, "--set=rbac.mode=none")
    token = cluster.service_account_token(release.namespace, f"{release.name}-controller")
    configuration = kubernetes.client.Configuration()
    configuration.host, configuration.ssl_ca_cert = cluster.url, str(cluster.ca_file)
    configuration.api_key = {"BearerToken": f"Bearer {token}"}
    with kubernetes.client.ApiClient(configuration) as api:
        core: Any = kubernetes.client.CoreV1Api(api)
        admission: Any = kubernetes.client.AdmissionregistrationV1Api(api)

        def refused(call: Any, *arguments: Any) -> str:
            with pytest.raises(ApiException) as error:
                call(*arguments)
            assert error.value.status in (403, 422), error.value
            return str(error.value.body)

        def policy_refuses() -> bool:
            pair = {"tls.crt": base64.b64encode(b"a").decode(), "tls.key": base64.b64encode(b"b").decode()}
            body = {"metadata": {"name": "x"}, "type": "kubernetes.io/tls", "data": pair}
            try:
                core.create_namespaced_secret(release.namespace, body, dry_run="All")
            except ApiException as error:
                return "nothing else" in str(error.body)
            return False

        until(policy_refuses, "the policy is in force")
        # A token of another account would be a way out.
        steal = {
            "metadata": {
                "name": f"{release.name}-webhook-tls",
                "annotations": {"kubernetes.io/service-account.name": "default"},
            },
            "type": "kubernetes.io/service-account-token",
        }
        assert "nothing else" in refused(core.create_namespaced_secret, release.namespace, steal)
        refused(core.list_namespaced_secret, release.namespace)
        refused(core.create_namespaced_endpoints, release.namespace, {"metadata": {"name": "x"}})
        refused(core.create_namespaced_secret, "default", {"metadata": {"name": f"{release.name}-webhook-tls"}})
        refused(admission.delete_mutating_webhook_configuration, release.name)
        refused(admission.list_mutating_webhook_configuration)
        refused(core.list_namespaced_pod, release.namespace)


def test_workloads_are_warned_about(cluster: Sandbox, release: Release) -> None:
    release.install(*VALUES)

    def warned(kind: str, template: dict[str, str], own: dict[str, str] | None = None) -> list[str]:
        status, answer, warnings = apply(cluster, workload(kind, template, own or {}), dry_run=True)
        assert status == 201, answer
        return [warning for warning in warnings if "leader-election" in warning]

    misplaced = {"leader-election/enabled": "true"}
    until(lambda: bool(warned("Deployment", {}, misplaced)), "the policy is in force")
    assert "has no effect on the Deployment: it belongs in the pod template" in warned("Deployment", {}, misplaced)[0]
    assert warned("Deployment", misplaced, misplaced) == []
    beside = workload("CronJob", {}, {})
    beside["spec"]["jobTemplate"]["metadata"] = {"annotations": misplaced}
    _, _, warnings = apply(cluster, beside, dry_run=True)
    assert "leader-election/enabled has no effect on the CronJob: it belongs in the pod template" in "".join(warnings)
    for kind in ("Deployment", "StatefulSet", "DaemonSet"):
        assert warned(kind, misplaced) == []
        assert "unknown annotation: leader-election/nmae" in warned(kind, {**misplaced, "leader-election/nmae": "a"})[0]
    for kind in ("Job", "CronJob", "ReplicationController"):
        assert "will be denied without the annotation leader-election/name" in warned(kind, misplaced)[0]
        assert warned(kind, {**misplaced, "leader-election/name": "a"}) == []

    # The policy's rules and the webhook's own: the same keys, and the same verdict on these values.
    texts = ["true", "a.b", "A", "", "leases", "10s", "1h", "1.5s", "0s", "600s", "4040", "80", "all", "native", "100m", "64Mi"]
    texts += ["-1", "0", "debug", "http://localhost:8080/up", "http://example.com/", "r/e:1", "a b", "24h", "1441m"]
    texts += [
        "1.5m",
        ".5m",
        "+10s",
        "-10s",
        "1000.5ms",
        "1000.ms",
        "1000000\u00b5s",
        "1e3",
        "9999999999s",
        "10",
        "0.5",
        "1Gi",
        "1K",
    ]
    texts += [f"http://{rest}" for rest in ("localhost", "LOCALHOST/", "[::1]:65535/a?b", "127.0.0.1:65536/", "localhost:0/")]
    texts += [f"http://{rest}" for rest in ("localhost?a", "localhost/#a", "localhost:/", "localhost.example/", "a@localhost/")]
    texts += ["a" * 253, "a" * 254, "a" * 2049]
    for row in ROWS:
        for text in texts:
            try:
                row.parse(text)
                allowed = True
            except ValueError:
                allowed = False
            said = warned("Deployment", {row.key: text})
            assert bool(said) is not allowed, (row.key, text, said)
            assert allowed or f"pods will be denied for the value of {row.key}" in said[0]
    policy = release.admission.read_validating_admission_policy(f"{release.name}-workloads")
    assert not (policy.status and policy.status.type_checking and policy.status.type_checking.expression_warnings)


def workload(kind: str, template: dict[str, str], own: dict[str, str]) -> dict[str, Any]:
    """A workload of that kind, with annotations on its template and on itself."""
    labels = {"app": "a"}
    pod = {
        "metadata": {"labels": labels, "annotations": template},
        "spec": {"containers": [{"name": "a", "image": "a"}], "restartPolicy": "Never" if "Job" in kind else "Always"},
    }
    spec: dict[str, Any] = {"template": pod}
    if kind in ("Deployment", "StatefulSet", "DaemonSet"):
        spec["selector"] = {"matchLabels": labels}
    if kind == "ReplicationController":
        spec["selector"] = labels
    if kind == "CronJob":
        spec = {"schedule": "@daily", "jobTemplate": {"spec": spec}}
    version = {"Job": "batch/v1", "CronJob": "batch/v1", "ReplicationController": "v1"}.get(kind, "apps/v1")
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": f"w-{time.monotonic_ns()}", "namespace": "default", "annotations": own},
        "spec": spec,
    }
