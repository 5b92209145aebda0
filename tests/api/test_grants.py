"""Managed rights on a real API server: annotate a pod, and it has what it needs; nothing else has anything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox import Sandbox
from tests.api.managed import Managed, managed
from tests.chart.release import until

pytestmark = [pytest.mark.api, pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Sandbox]:
    """A control plane of this module's own: a registration concerns the whole cluster."""
    with Sandbox.start(audit=True) as started:
        yield started


@pytest.fixture(scope="module")
def release(cluster: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    with managed(cluster, tmp_path_factory.mktemp("release"), ["--set=rbac.grace=3s"]) as found:
        yield found


@pytest.mark.parametrize("lock", ["endpoints", "leases", "endpointsleases"])
def test_an_annotated_pod_leads_with_nothing_configured(release: Managed, lock: str) -> None:
    namespace = release.namespace()
    pods = [release.pod(namespace, name, lock=lock) for name in ("a", "b")]
    programs = [release.start(pod) for pod in pods]
    kind = "leases" if lock == "leases" else "endpoints"

    def holder() -> str:
        found = release.lock(namespace, kind=kind)
        if found is None:
            return ""
        return found["spec"].get("holderIdentity", "") if kind == "leases" else release.holder(namespace)

    until(lambda: holder() in ("a", "b"), "one of them leads", seconds=20)
    leader = holder()
    until(lambda: release.labelled(namespace) == [leader], "the leader has the label", seconds=5)
    role = release.role(namespace)
    assert role is not None
    kinds = ["endpoints", "leases"] if lock == "endpointsleases" else [lock]
    assert [rule["resources"] for rule in role["rules"]] == [[one] for one in kinds]
    assert all(rule["resourceNames"] == ["orders.leader"] for rule in role["rules"])
    release.stop(next(pod for pod in pods if pod.name == leader))
    until(lambda: holder() not in ("", leader), "the other one leads", seconds=20)
    until(lambda: release.labelled(namespace) == [holder()], "the label follows", seconds=5)
    release.delete(*pods)
    for program in programs:
        assert "403" not in program.log.read_text(), program.log.read_text()
