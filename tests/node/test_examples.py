"""Every example is applied as it stands in its file, and its pods agree on who leads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from sandbox._images import REPOSITORY, RUNTIMES, TAG
from tests.api.electors import ROOT
from tests.chart.helm import CHART
from tests.node.cluster import RELEASE, Cluster
from tests.waiting import until

EXAMPLES = ROOT / "examples"
MANAGED = [f"--set=image.repository={REPOSITORY}", f"--set=image.tag={TAG}", "--set=rbac.mode=managed"]
PROGRAMS = {"node": "scripts", "python": "scripts", "shell": "scripts", "go": "go", "java": "java"}
"""The runtime that each example needs, in place of the public image that it names."""


def pages(cluster: Cluster, namespace: str, name: str) -> set[str]:
    """What the example's pods show."""
    found = set()
    for pod in cluster.pods(namespace, f"app={name}-example"):
        try:
            found.add(cluster.get(pod.status.pod_ip, 8080)[1].decode())
        except OSError:
            found.add("")
    return found


def test_every_example_is_tested() -> None:
    assert {file.stem for file in EXAMPLES.iterdir()} == {*PROGRAMS, "service"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_pods_of_an_example_agree(cluster: Cluster, namespace: str, name: str) -> None:
    file = EXAMPLES / f"{name}.yaml"
    cluster.load(PROGRAMS[name])
    images = [c["image"] for c in list(yaml.safe_load_all(file.read_text()))[1]["spec"]["template"]["spec"]["containers"]]
    assert set(images) <= set(RUNTIMES[PROGRAMS[name]].names)
    deployed = f"deployment/{name}-example"
    cluster.kubectl("--namespace", namespace, "apply", "-f", str(file))
    cluster.rolled_out(namespace, deployed)
    leader = cluster.wait_for_leader(namespace, f"{name}-example.leader")
    until(lambda: pages(cluster, namespace, name) == {f"Master is {leader}"}, "all pods show the leader", 90)
    assert len(cluster.pods(namespace, f"app={name}-example")) == 3

    cluster.kubectl("--namespace", namespace, "delete", "pod", leader)
    successor = cluster.wait_for_leader(namespace, f"{name}-example.leader", other_than=leader)
    cluster.rolled_out(namespace, deployed)
    until(lambda: pages(cluster, namespace, name) == {f"Master is {successor}"}, "all pods show the next leader", 90)
    if name == "shell":
        assert "here is what only the leader does" in cluster.logs(namespace, successor, "app")


@pytest.fixture
def labelled_leaders(cluster: Cluster) -> Iterator[None]:
    """A release whose controller gives the rights, and keeps the label on leaders."""
    cluster.helm("upgrade", RELEASE, str(CHART), "--reset-values", *MANAGED, "--wait", "--timeout=90s")
    yield
    cluster.helm("rollback", RELEASE, "--wait", "--timeout=90s")


@pytest.mark.usefixtures("labelled_leaders")
def test_the_service_leads_to_the_leader(cluster: Cluster, namespace: str) -> None:
    for example in ("node", "service"):
        cluster.kubectl("--namespace", namespace, "apply", "-f", str(EXAMPLES / f"{example}.yaml"))
    cluster.rolled_out(namespace, "deployment/node-example")
    address = cluster.core.read_namespaced_service("node-example-leader", namespace).spec.cluster_ip
    for _ in range(2):
        leader = cluster.wait_for_leader(namespace, "node-example.leader")

        def answered(leader: str = leader) -> bool:
            try:
                answers = {cluster.get(address, 80)[1].decode() for _ in range(5)}
            except OSError:
                return False
            labelled = cluster.pods(namespace, "app=node-example,leader-election/leader=true")
            return answers == {f"Master is {leader}"} and [pod.metadata.name for pod in labelled] == [leader]

        until(answered, "the Service leads to the leader", 60)
        cluster.kubectl("--namespace", namespace, "delete", "pod", leader)
        cluster.wait_for_leader(namespace, "node-example.leader", other_than=leader)
