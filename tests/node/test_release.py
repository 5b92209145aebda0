"""The release itself: its test, its Service, its certificate, and what happens while it is away."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import kubernetes.client
import pytest
from cryptography import x509
from kubernetes.client import ApiException

from tests.node.cluster import RELEASE, Cluster, deployment, pod_spec
from tests.waiting import until

WEBHOOK = f"{RELEASE}-webhook"


def annotated_pod(name: str) -> dict[str, Any]:
    annotations = {"leader-election/enabled": "true", "leader-election/name": "tested.leader"}
    return {"metadata": {"name": name, "annotations": annotations}, "spec": pod_spec()}


def webhook_pods(cluster: Cluster) -> list[Any]:
    return cluster.pods(RELEASE, "app.kubernetes.io/component=webhook")


def test_helm_test(cluster: Cluster) -> None:
    said = cluster.helm("test", RELEASE, "--timeout=90s")
    assert "Phase:          Succeeded" in said


def test_the_api_server_reaches_the_webhook_by_its_service(cluster: Cluster, namespace: str) -> None:
    admission: Any = kubernetes.client.AdmissionregistrationV1Api(cluster.sandbox.api)
    config = admission.read_mutating_webhook_configuration(RELEASE).webhooks[0].client_config
    assert (config.url, config.service.name, config.service.namespace) == (None, WEBHOOK, RELEASE)
    stored = cluster.core.create_namespaced_pod(namespace, annotated_pod("asked"), dry_run="All")
    assert [container.name for container in stored.spec.init_containers] == ["leader-elector"]
    plain = cluster.core.create_namespaced_pod(namespace, {"metadata": {"name": "plain"}, "spec": pod_spec()}, dry_run="All")
    assert plain.spec.init_containers is None


def served(cluster: Cluster, address: str) -> x509.Certificate:
    """The certificate that the webhook shows at that address."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    port = 443 if address == service_address(cluster) else 10250
    with cluster.sandbox.connect(address, port, timeout=5) as plain, context.wrap_socket(plain) as connection:
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown)


def service_address(cluster: Cluster) -> str:
    return str(cluster.core.read_namespaced_service(WEBHOOK, RELEASE).spec.cluster_ip)


class Creating:
    """Asks for an annotated pod again and again, as dry runs, and notes what was refused."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.created = 0
        self.refused: list[str] = []
        self._cluster, self._namespace = cluster, namespace
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._create, daemon=True)

    def __enter__(self) -> Creating:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _create(self) -> None:
        while not self._stop.wait(0.05):
            try:
                pod = self._cluster.core.create_namespaced_pod(self._namespace, annotated_pod("often"), dry_run="All")
                assert pod.spec.init_containers
                self.created += 1
            except ApiException as error:
                self.refused.append(str(error.body))


def test_a_new_certificate_is_delivered_by_the_kubelet_and_taken_up(cluster: Cluster, namespace: str) -> None:
    addresses = [pod.status.pod_ip for pod in webhook_pods(cluster)]
    former = {address: served(cluster, address).serial_number for address in addresses}
    assert len(addresses) == 2
    with Creating(cluster, namespace) as creating:
        cluster.core.delete_namespaced_secret(f"{WEBHOOK}-tls", RELEASE)
        began = time.monotonic()
        until(
            lambda: all(served(cluster, address).serial_number != former[address] for address in addresses),
            "both replicas show a new certificate",
            100,
        )
        took = time.monotonic() - began
        until(lambda now=creating.created: creating.created > now + 20, "pods are created under it", 30)  # type: ignore[misc]
    print(f"rotation: {took:.1f} s until both replicas served the new one; {creating.created} creations meanwhile, none refused")
    assert creating.refused == []
    pods = webhook_pods(cluster)
    assert sorted(pod.status.pod_ip for pod in pods) == sorted(addresses)
    assert [pod.status.container_statuses[0].restart_count for pod in pods] == [0, 0]
    assert served(cluster, service_address(cluster)).not_valid_after_utc > served(cluster, addresses[0]).not_valid_before_utc


@pytest.fixture
def no_webhook(cluster: Cluster) -> Iterator[None]:
    """Both replicas are gone, until the test is over."""
    cluster.kubectl("--namespace", RELEASE, "scale", f"deployment/{WEBHOOK}", "--replicas=0")
    try:
        # Those that are ending still answer who knows them, as the API server does.
        selector = "app.kubernetes.io/component=webhook"
        until(lambda: not cluster.core.list_namespaced_pod(RELEASE, label_selector=selector).items, "both are gone", 60)
        yield
    finally:
        cluster.kubectl("--namespace", RELEASE, "scale", f"deployment/{WEBHOOK}", "--replicas=2")
        cluster.rolled_out(RELEASE, f"deployment/{WEBHOOK}")


@pytest.mark.usefixtures("no_webhook")
def test_without_a_webhook_only_annotated_pods_are_refused(cluster: Cluster, namespace: str) -> None:
    plain = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "plain"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "plain"}},
            "template": {"metadata": {"labels": {"app": "plain"}}, "spec": pod_spec()},
        },
    }
    cluster.apply(namespace, plain, deployment(annotations={"leader-election/ttl": "4s"}))
    cluster.rolled_out(namespace, "deployment/plain")

    def told() -> list[str]:
        events = cluster.core.list_namespaced_event(namespace, field_selector="reason=FailedCreate").items
        return [event.message for event in events if event.involved_object.name.startswith("app-")]

    until(told, "the ReplicaSet's events tell why its pods are not created", 60)
    message = told()[0]
    print(f"refused: {message}")
    assert 'failed calling webhook "inject.leader-election.io"' in message
    assert f"https://{WEBHOOK}.{RELEASE}.svc:443/mutate" in message, "it says which Service does not answer"
    assert cluster.pods(namespace) == []

    cluster.kubectl("--namespace", RELEASE, "scale", f"deployment/{WEBHOOK}", "--replicas=2")
    cluster.rolled_out(RELEASE, f"deployment/{WEBHOOK}")
    cluster.rolled_out(namespace, "deployment/app")
    cluster.wait_for_leader(namespace)
