"""The blog post, row by row: what `kubectl` shows there, it shows here, on a real node."""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox._images import REPOSITORY, TAG
from tests.api.electors import ROOT
from tests.node.cluster import APPS, NODE_IMAGE, Cluster, deployment, pod_spec
from tests.node.observer import Observer
from tests.ports import free_port
from tests.waiting import until

ELECTOR_IMAGE = f"{REPOSITORY}-elector:{TAG}"
SEED_VARIABLE = "LEADER_ELECTION_SEED_APPLICATION"
ROUNDS = 3
WITHIN = 1.0
"""Seconds from the end of a leader until another one leads: the bar for clean ends, held by the median."""


def stand_alone(election: str, *more: str) -> dict[str, Any]:
    """Three replicas of the elector's image with the original's arguments, and nothing else."""
    body = deployment(
        spec={"containers": [{"name": "elector", "image": ELECTOR_IMAGE, "args": [f"--election={election}", *more]}]}
    )
    del body["spec"]["template"]["metadata"]["annotations"]
    return body


def application() -> str:
    """The post's own `master.js`, as it was printed, when it is there; else our example's."""
    seed = Path(os.environ.get(SEED_VARIABLE) or ROOT.parent / "shared" / "seed" / "master.js")
    if seed.exists():
        return seed.read_text()
    example = next(yaml.safe_load_all((ROOT / "examples" / "node.yaml").read_text()))
    return str(example["data"]["app.js"])


def masters(cluster: Cluster, namespace: str) -> set[str]:
    """What the applications print of who is the master."""
    found = set()
    for pod in cluster.pods(namespace):
        try:
            found.add(cluster.get(pod.status.pod_ip, 8080)[1].decode())
        except OSError:
            found.add("")
    return found


@pytest.fixture
def example(cluster: Cluster) -> Iterator[str]:
    """Rows 1 to 5 happen in the namespace `default`, as in the post."""
    yield "default"
    cluster.kubectl("delete", "deployment/app", "--ignore-not-found", "--wait=false")
    cluster.kubectl("delete", "endpoints/example", "--ignore-not-found")


def test_three_stand_alone_replicas(cluster: Cluster, example: str) -> None:
    cluster.apply(example, stand_alone("example", "--http=0.0.0.0:4040"))  # rows 1 and 5
    cluster.rolled_out(example, "deployment/app")
    leader = cluster.wait_for_leader(example, "example")
    pods = {pod.metadata.name: pod for pod in cluster.pods(example)}
    assert leader in pods  # row 8: the identity is the pod's hostname, which is its name

    def all_say_so() -> bool:  # row 2
        return all(f"leader is {leader}" in cluster.logs(example, name, "elector").splitlines() for name in pods)

    until(all_say_so, "each pod's log says who leads", 30)

    shown = yaml.safe_load(cluster.kubectl("get", "endpoints", "example", "-o", "yaml"))  # row 3
    record = json.loads(shown["metadata"]["annotations"]["control-plane.alpha.kubernetes.io/leader"])
    assert {"holderIdentity", "leaseDurationSeconds", "acquireTime", "renewTime", "leaderTransitions"} <= set(record)
    assert (record["holderIdentity"], record["leaseDurationSeconds"]) == (leader, 10)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record[key]) for key in ("acquireTime", "renewTime"))

    with kubectl_proxy(cluster) as port:  # row 5
        for name in pods:
            url = f"http://localhost:{port}/api/v1/namespaces/{example}/pods/{name}:4040/proxy/"
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert answer.read() == b'{"name":"%s"}' % leader.encode()

    changes = []
    with Observer(cluster, example) as observer:  # row 4
        until(lambda: observer.leader == leader, "the observer sees the leader", 30)
        for _ in range(ROUNDS):
            former = observer.leader
            cluster.kubectl("delete", "pod", former)
            until(lambda former=former: observer.leader not in ("", former), "another one leads", 60)  # type: ignore[misc]
            changes.append(observer.changes()[-1])
    for change in changes:
        print(f"leader deleted: none for {change.leaderless:.2f} s; another {change.after_end:.2f} s after its end")
    assert statistics.median(change.after_end for change in changes) < WITHIN


@contextlib.contextmanager
def kubectl_proxy(cluster: Cluster) -> Iterator[int]:
    """`kubectl proxy`; its port."""
    port = free_port()
    proxy = cluster.sandbox.run(
        "kubectl-proxy", [cluster.kubectl_program, "proxy", f"--port={port}"], env=cluster.environment, cwd=cluster.scratch
    )
    try:
        until(lambda: "Starting to serve" in proxy.log.read_text(), "kubectl proxy serves", 30)
        yield port
    finally:
        proxy.stop()


def test_the_posts_application_beside_an_injected_elector(cluster: Cluster, namespace: str) -> None:
    """Rows 4, 6, 7 and 8; `master.js` asks `localhost:4040` every five seconds."""
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "app"}, "data": {"master.js": application()}}
    spec = pod_spec(
        image=NODE_IMAGE,
        command=["node", "/app/master.js"],
        # As its container's first process it ignores SIGTERM: the kubelet kills it after this time.
        grace=1,
        container={"volumeMounts": [{"name": "app", "mountPath": "/app"}]},
        volumes=[{"name": "app", "configMap": {"name": "app"}}],
    )
    cluster.apply(namespace, config, deployment(spec=spec, annotations={"leader-election/listen": "all"}))
    cluster.rolled_out(namespace, "deployment/app")
    leader = cluster.wait_for_leader(namespace)
    until(lambda: masters(cluster, namespace) == {f"Master is {leader}"}, "all three pods print the same master", 30)
    assert leader in {pod.metadata.name for pod in cluster.pods(namespace)}

    changes = []
    with Observer(cluster, namespace) as observer:
        until(lambda: observer.leader == leader, "the observer sees the leader", 30)
        for _ in range(ROUNDS):
            former = observer.leader
            cluster.kubectl("--namespace", namespace, "delete", "pod", former)
            until(lambda former=former: observer.leader not in ("", former), "another one leads", 60)  # type: ignore[misc]
            changes.append(observer.changes()[-1])
            cluster.rolled_out(namespace, "deployment/app")
        successor = observer.leader
        until(lambda: masters(cluster, namespace) == {f"Master is {successor}"}, "all print the new master", 30)
    for change in changes:
        print(f"leader deleted: none for {change.leaderless:.3f} s; another {change.after_end:.3f} s after its end")
    assert statistics.median(change.leaderless for change in changes) < WITHIN


def test_never_two_through_a_rolling_update_and_an_eviction(cluster: Cluster, namespace: str) -> None:
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "app"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "tested"}}},
    }
    cluster.apply(namespace, budget, deployment(annotations={"leader-election/listen": "all"}))
    cluster.rolled_out(namespace, "deployment/app")
    with Observer(cluster, namespace) as observer:
        until(lambda: observer.leader, "somebody leads", 60)
        first = {pod.metadata.name for pod in cluster.pods(namespace)}
        cluster.kubectl("--namespace", namespace, "rollout", "restart", "deployment/app")
        cluster.rolled_out(namespace, "deployment/app")
        until(lambda: observer.leader not in ("", *first), "one of the new pods leads", 60)
        rolled = observer.leaderless()
        print(f"rolling update: {len(rolled)} changes, without a leader for {sum(rolled):.2f} s in all, {rolled}")

        # What `kubectl drain` does for each pod: an eviction, which heeds the budget.
        evicted = observer.leader
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": evicted, "namespace": namespace}}
        until(lambda: len(cluster.pods(namespace)) == 3, "three pods", 60)
        cluster.rolled_out(namespace, "deployment/app")
        cluster.core.create_namespaced_pod_eviction(evicted, namespace, body)
        until(lambda: observer.leader not in ("", evicted), "another one leads", 60)
        change = observer.changes()[-1]
        print(f"eviction: without a leader for {change.leaderless:.3f} s")
        assert change.former == evicted
    assert observer.asked > 100
    assert statistics.median(observer.leaderless()) < WITHIN
    print(f"{observer.asked} answers; leaders: {', '.join(observer.leaders)}")


def test_kubectl_drain_moves_the_leader(cluster: Cluster, namespace: str) -> None:
    """With a node less, the drained pods have nowhere to go: that the leader's end is a clean one is what counts."""
    cluster.apply(namespace, deployment(annotations={"leader-election/listen": "all"}))
    cluster.rolled_out(namespace, "deployment/app")
    with Observer(cluster, namespace) as observer:
        until(lambda: observer.leader, "somebody leads", 60)
        drain = ("drain", "node", f"--pod-selector={APPS}", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s")
        try:
            cluster.kubectl(*drain)
            until(lambda: observer.leader == "", "all are gone", 30)
        finally:
            cluster.kubectl("uncordon", "node")
        began = time.monotonic()
        until(lambda: observer.leader, "one of the new pods leads", 60)
        print(f"drained: {observer.leaders}; a new leader {time.monotonic() - began:.2f} s after the node took pods again")
    assert cluster.leader(namespace) == observer.leaders[-1]
