"""What an elector costs a pod, as the kubelet sees it."""

from __future__ import annotations

import json
import statistics

from tests.node.cluster import Cluster, deployment, pod_spec
from tests.waiting import until

MEMORY_LIMIT = 64 << 20
"""Bytes: the chart's `elector.resources.limits.memory`."""
ROUNDS = 5
SERIES = 4
"""As many series at most: what else this machine does in one of them is not the elector's cost."""
START_UP = 1.5
"""Seconds that an annotated pod is to take longer to be ready than a plain one, by the medians of a series: the aim."""
PROBE = 1.0
"""Seconds between two looks of the start-up probe: a start that just misses one waits for the next, as on a busy machine."""


def memory(cluster: Cluster, namespace: str) -> list[int]:
    """Bytes of each elector's working set, by the kubelet's summary; empty while it has none of some pod."""
    summary = json.loads(cluster.core.connect_get_node_proxy_with_path("node", "stats/summary", _preload_content=False).data)
    electors = [
        container
        for pod in summary["pods"]
        if pod["podRef"]["namespace"] == namespace
        for container in pod.get("containers", [])
        if container["name"] == "leader-elector"
    ]
    found = [container.get("memory", {}).get("workingSetBytes", 0) for container in electors]
    return found if len(found) == len(cluster.pods(namespace)) and all(found) else []


def test_memory_is_far_below_its_limit(cluster: Cluster, namespace: str) -> None:
    cluster.apply(namespace, deployment(annotations={"leader-election/ttl": "4s"}))
    cluster.rolled_out(namespace, "deployment/app")
    cluster.wait_for_leader(namespace)
    until(lambda: memory(cluster, namespace), "the kubelet reports the electors' memory", 60)
    found = memory(cluster, namespace)
    print(f"working set of the electors: {', '.join(f'{one / (1 << 20):.1f}' for one in found)} MiB of {MEMORY_LIMIT >> 20}")
    limits = {pod.spec.init_containers[0].resources.limits["memory"] for pod in cluster.pods(namespace)}
    assert limits == {"64Mi"}
    assert max(found) < MEMORY_LIMIT / 2


def seconds_to_ready(cluster: Cluster, namespace: str, name: str, annotations: dict[str, str]) -> float:
    """From the creation of a pod until this client is told that it is ready."""
    body = {"metadata": {"name": name, "annotations": annotations}, "spec": pod_spec()}
    cluster.core.create_namespaced_pod(namespace, body)

    def ready() -> bool:
        conditions = cluster.core.read_namespaced_pod(name, namespace).status.conditions or []
        return any(condition.type == "Ready" and condition.status == "True" for condition in conditions)

    took = until(ready, f"{name} is ready", 60)
    cluster.kubectl("--namespace", namespace, "delete", "pod", name)
    return took


def test_start_up_takes_little_longer(cluster: Cluster, namespace: str) -> None:
    annotations = {"leader-election/enabled": "true", "leader-election/name": "start.leader"}
    more = []
    for series in range(SERIES):
        plain, annotated = [], []
        for number in range(ROUNDS):  # in turns, so that whatever else the machine does slows both down
            plain.append(seconds_to_ready(cluster, namespace, f"plain-{series}-{number}", {}))
            annotated.append(seconds_to_ready(cluster, namespace, f"annotated-{series}-{number}", annotations))
        more.append(statistics.median(annotated) - statistics.median(plain))
        print(f"seconds to ready: plain {sorted(plain)}, annotated {sorted(annotated)}: {more[-1]:.2f} s more")
        if more[-1] < START_UP:
            break
    print(f"{min(more):.2f} s more to Ready, aimed at: under {START_UP} s")
    assert min(more) < START_UP + PROBE
