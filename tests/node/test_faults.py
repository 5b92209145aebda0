"""What a kernel and a kubelet do to containers, and what becomes of the leader meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.cluster import Cluster, Failed, deployment
from tests.node.observer import Observer
from tests.waiting import until

OBSERVED = {"leader-election/listen": "all", "leader-election/ttl": "6s"}
TTL = 6.0


@pytest.fixture
def observer(cluster: Cluster, namespace: str) -> Iterator[Observer]:
    """A Deployment of three with a leader, observed; at the end there never were two."""
    cluster.apply(namespace, deployment(annotations=OBSERVED))
    cluster.rolled_out(namespace, "deployment/app")
    with Observer(cluster, namespace) as observer:
        until(lambda: observer.leader, "somebody leads", 60)
        yield observer


def elector_status(cluster: Cluster, namespace: str, pod: str) -> Any:
    return cluster.core.read_namespaced_pod(pod, namespace).status.init_container_statuses[0]


def elector_process(cluster: Cluster, namespace: str, pod: str) -> int:
    """The pid, on this machine, of the elector in that pod: its arguments name the pod."""
    uid = cluster.core.read_namespaced_pod(pod, namespace).metadata.uid
    wanted = f"--instance={uid}/leader-elector"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (process / "cmdline").read_text().split("\0"):
                return int(process.name)
        except OSError:
            continue
    raise AssertionError(f"no process has {wanted}")


# Memory that no process of the container is charged with: what the kernel can end is the elector, the largest one.
FILL_MEMORY = """
import itertools
with open("/dev/shm/filling", "wb") as file:
    for _ in itertools.count():
        file.write(b"x" * (1 << 20))
        file.flush()
"""


def test_killed_by_the_kernel_for_want_of_memory(cluster: Cluster, namespace: str, observer: Observer) -> None:
    leader = observer.leader
    with pytest.raises(Failed):
        cluster.kubectl(
            "--namespace", namespace, "exec", leader, "--container=leader-elector", "--", "python3", "-c", FILL_MEMORY
        )
    until(lambda: elector_status(cluster, namespace, leader).restart_count == 1, "the kubelet has restarted it", 60)
    status = elector_status(cluster, namespace, leader)
    assert status.last_state.terminated.reason == "OOMKilled"
    until(lambda: elector_status(cluster, namespace, leader).started, "it runs again", 60)
    until(lambda: observer.leader, "somebody leads", 60)
    app = cluster.core.read_namespaced_pod(leader, namespace).status.container_statuses[0]
    assert app.restart_count == 0, "the application ran on beside it"
    # The same container of the same pod goes on where its predecessor was ended.
    print(f"killed for want of memory: leaders {observer.leaders}, without one for {observer.leaderless()}")
    assert observer.leaders == [leader]


def test_frozen_and_restarted_by_its_liveness_probe(cluster: Cluster, namespace: str, observer: Observer) -> None:
    leader = observer.leader
    began = time.monotonic()
    os.kill(elector_process(cluster, namespace, leader), signal.SIGSTOP)
    until(lambda: observer.leader not in ("", leader), "another one leads", 60)
    change = observer.changes()[-1]
    print(f"frozen: without a leader for {change.leaderless:.2f} s at a ttl of {TTL:g} s")
    until(lambda: elector_status(cluster, namespace, leader).restart_count == 1, "the kubelet has restarted it", 120)
    until(lambda: elector_status(cluster, namespace, leader).started, "it runs again", 60)
    print(f"restarted {time.monotonic() - began:.1f} s after it was frozen")
    assert observer.leader == change.successor


def test_pods_go_on_without_their_kubelet(cluster: Cluster, namespace: str, observer: Observer) -> None:
    leader = observer.leader
    asked = observer.asked
    cluster.sandbox.stop("kubelet", signal.SIGKILL)
    try:
        # Longer than two ttls: it is held by renewing, not by what was left of it.
        stopped = time.monotonic()
        until(lambda: time.monotonic() - stopped > 2.5 * TTL, "time has passed", 60)
        assert observer.leader == leader
        assert observer.leaders == [leader]
        assert observer.asked > asked + 100
        assert observer.leaderless() == [], "it led all the time"
    finally:
        cluster.sandbox.restart("kubelet")
    until(lambda: ready(cluster), "the node is ready", 60)
    cluster.rolled_out(namespace, "deployment/app")
    assert observer.leader == leader
    restarts = [elector_status(cluster, namespace, pod.metadata.name).restart_count for pod in cluster.pods(namespace)]
    assert restarts == [0, 0, 0]


def ready(cluster: Cluster) -> bool:
    """Whether the kubelet has reported the node as ready after the node was cut off."""
    conditions = cluster.core.read_node("node").status.conditions
    return any(condition.type == "Ready" and condition.status == "True" for condition in conditions)
