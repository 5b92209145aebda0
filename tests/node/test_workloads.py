"""Every kind of workload, and namespaces that are strict with their pods."""

from __future__ import annotations

from typing import Any

import pytest

from tests.node.cluster import SHELL_IMAGE, Cluster, deployment, pod_spec
from tests.waiting import until

STRICT = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
QUICK = {"leader-election/ttl": "4s"}


def elects(cluster: Cluster, namespace: str, kind: str = "deployment") -> str:
    """All pods of the workload `app` get ready, and one of them leads, as each of them says; returns who."""
    cluster.rolled_out(namespace, f"{kind}/app")
    leader = cluster.wait_for_leader(namespace)
    pods = [pod.metadata.name for pod in cluster.pods(namespace)]
    assert leader in pods
    for pod in pods:
        ask = ("exec", pod, "--container=app", "--", "wget", "-q", "-O", "-", "http://localhost:4040/")
        until(
            lambda ask=ask: cluster.kubectl("--namespace", namespace, *ask) == f'{{"name":"{leader}"}}',  # type: ignore[misc]
            f"{pod} says that {leader} leads",
            30,
        )
    return leader


def test_a_job_completes(cluster: Cluster, namespace: str) -> None:
    asks = 'until wget -q -O - "$LEADER_ELECTION_URL" | grep "$LEADER_ELECTION_ID"; do sleep 0.2; done'
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "app"},
        "spec": {
            "template": {
                "metadata": {"annotations": {"leader-election/enabled": "true", "leader-election/name": "job.leader", **QUICK}},
                "spec": pod_spec(command=["sh", "-c", asks], restartPolicy="Never"),
            }
        },
    }
    cluster.apply(namespace, job)
    cluster.kubectl("--namespace", namespace, "wait", "--for=condition=Complete", "job/app", "--timeout=60s")
    pod = cluster.core.list_namespaced_pod(namespace).items[0]
    assert pod.status.phase == "Succeeded"
    sidecar = pod.status.init_container_statuses[0].state.terminated
    assert sidecar.exit_code == 0, "the elector ended in good order after the application"
    assert cluster.leader(namespace, "job.leader") == "", "and released the lock"


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
def test_it_elects(cluster: Cluster, namespace: str, kind: str) -> None:
    more: dict[str, Any] = {"serviceName": "app", "podManagementPolicy": "Parallel"} if kind == "StatefulSet" else {}
    cluster.apply(namespace, deployment(kind=kind, annotations=QUICK, **more))
    leader = elects(cluster, namespace, kind.lower())
    assert leader.startswith("app-")


def test_pod_security_restricted(cluster: Cluster, namespace: str) -> None:
    labels = ["pod-security.kubernetes.io/enforce=restricted", "pod-security.kubernetes.io/enforce-version=latest"]
    cluster.kubectl("label", "namespace", namespace, *labels)
    warned = cluster.apply(namespace, deployment(annotations=QUICK, spec=pod_spec(container={"securityContext": STRICT})))
    assert "would violate" not in warned
    elects(cluster, namespace)


def test_without_a_mounted_token(cluster: Cluster, namespace: str) -> None:
    cluster.apply(namespace, deployment(annotations=QUICK, spec=pod_spec(automountServiceAccountToken=False)))
    leader = elects(cluster, namespace)
    look = ("exec", leader, "--container=app", "--", "ls", "/var/run/secrets")
    with pytest.raises(Exception, match="No such file"):
        cluster.kubectl("--namespace", namespace, *look)


def test_resource_quota(cluster: Cluster, namespace: str) -> None:
    quota: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "all"},
        "spec": {"hard": {"requests.cpu": "1", "requests.memory": "1Gi", "limits.cpu": "2", "limits.memory": "1Gi"}},
    }
    few = {"cpu": "10m", "memory": "16Mi"}
    spec = pod_spec(image=SHELL_IMAGE, container={"resources": {"requests": few, "limits": few}})
    cluster.apply(namespace, quota)
    until(
        lambda: (cluster.core.read_namespaced_resource_quota("all", namespace).status.hard or {}).get("limits.cpu"),
        "the quota is in force",
        30,
    )
    cluster.apply(namespace, deployment(annotations=QUICK, spec=spec))
    elects(cluster, namespace)
    used = cluster.core.read_namespaced_resource_quota("all", namespace).status.used
    assert used["limits.memory"] == "240Mi", "three applications of 16Mi and three electors of 64Mi"
