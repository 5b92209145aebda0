"""`leader-election status`, `cleanup` and what `check` says of rights, on a real cluster with managed ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from sandbox import Sandbox
from tests.api.managed import Managed, managed
from tests.waiting import until
from webhook.__main__ import main

pytestmark = [pytest.mark.api, pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    with Sandbox.start() as sandbox, managed(sandbox, tmp_path_factory.mktemp("release")) as found:
        yield found


@dataclass
class Person:
    """Somebody with a kubeconfig."""

    release: Managed
    capsys: pytest.CaptureFixture[str]

    def asks(self, *arguments: str) -> tuple[int, list[str]]:
        code = main([*arguments, f"--kubeconfig={self.release.sandbox.kubeconfig}"])
        out, err = self.capsys.readouterr()
        assert err == ""
        return code, [" ".join(line.split()) for line in out.splitlines()]


@pytest.fixture
def person(release: Managed, capsys: pytest.CaptureFixture[str]) -> Person:
    return Person(release, capsys)


def test_status(release: Managed, person: Person) -> None:
    namespace = release.namespace()
    assert person.asks("status", "-n", namespace) == (0, [f"no elections in the namespace {namespace}"])
    pod = release.pod(namespace, "a", ttl="10s")
    until(lambda: release.binding(namespace) is not None, "rights")
    code, lines = person.asks("status", "-n", namespace)
    assert code == 1
    assert lines[0] == "NAMESPACE ELECTION LEADER RENEWED LOCK PODS RIGHTS"
    words = lines[1].split()
    assert (words[:3], words[-3:]) == ([namespace, "orders.leader", "-"], ["endpoints", "1", "managed"])
    release.start(pod)
    until(lambda: release.holder(namespace) == "a", "it leads")
    code, lines = person.asks("status", "-n", namespace)
    assert code == 0
    assert lines[1].startswith(f"{namespace} orders.leader a ")
    code, lines = person.asks("status", "-A")
    assert f"{namespace} orders.leader a " in "\n".join(lines)
    release.delete(pod)


def test_check_names_what_is_missing(release: Managed, person: Person) -> None:
    namespace = release.namespace()
    release.core.create_namespaced_endpoints(namespace, {"metadata": {"name": "orders.leader"}})
    pod = release.pod(namespace, "a")
    until(lambda: bool(release.events(namespace, "NameTaken")), "it is told")
    code, lines = person.asks("check", "-n", namespace, "a")
    assert code == 1
    said = "\n".join(lines)
    assert "WRONG the service account default may not get, update endpoints orders.leader" in said
    assert "WRONG the name is taken: endpoints orders.leader has no label leader-election/lock=true" in said
    assert f"kubectl -n {namespace} label endpoints orders.leader leader-election/lock=true" in said
    release.core.patch_namespaced_endpoints(
        "orders.leader", namespace, {"metadata": {"labels": {"leader-election/lock": "true"}}}
    )
    until(lambda: release.binding(namespace) is not None, "it was adopted")
    until(
        lambda: (
            "ok the service account default may get, update endpoints orders.leader"
            in person.asks("check", "-n", namespace, "a")[1]
        ),
        "all is well",
    )
    release.delete(pod)


def test_cleanup_after_uninstall(release: Managed, person: Person) -> None:
    """The last test of this module: it takes the release away."""
    running, gone, adopted = release.namespace(), release.namespace(), release.namespace()
    pods = [release.pod(running, "a", lock="endpointsleases"), release.pod(gone, "a", lock="endpointsleases")]
    label = {"leader-election/lock": "true"}
    release.core.create_namespaced_endpoints(adopted, {"metadata": {"name": "orders.leader", "labels": label}})
    pods.append(release.pod(adopted, "a"))
    until(lambda: all(release.binding(one) is not None for one in (running, gone, adopted)), "rights")
    release.start(pods[0])
    until(lambda: release.holder(running) == "a", "it leads")
    release.release.helm("uninstall", release.release.name)
    until(lambda: not release.kubelet.programs("controller"), "no controller is left")
    release.delete(*pods[1:])
    code, lines = person.asks("cleanup", "--dry-run")
    assert code == 0
    assert f"{running}/orders.leader: kept, 1 pods stand for it (a)" in lines
    assert f"{gone}/orders.leader: endpoints orders.leader would be removed" in lines
    assert release.binding(gone) is not None
    code, lines = person.asks("cleanup", "-n", gone)
    assert code == 0
    assert lines == [
        f"{gone}/orders.leader: {what} removed"
        for what in (
            "rolebindings leader-election:orders.leader",
            "roles leader-election:orders.leader",
            "endpoints orders.leader",
            "leases orders.leader",
        )
    ]
    code, lines = person.asks("cleanup")
    assert code == 0
    assert f"{adopted}/orders.leader: endpoints orders.leader is left: a person gave it its label" in lines
    for namespace, left in ((gone, False), (adopted, True)):
        assert release.role(namespace) is None
        assert release.binding(namespace) is None
        assert (release.lock(namespace) is not None) is left
    assert release.binding(running) is not None
    code, lines = person.asks("cleanup", "-n", running, "--running")
    assert release.role(running) is None
    assert release.binding(running) is None
    assert json.dumps(lines).count("removed") >= 2


def test_check_without_managed_rights(release: Managed, person: Person) -> None:
    """After `cleanup --running`, and where nobody gives rights: what to do stands there, and works."""
    namespace = release.namespace()
    release.core.create_namespaced_pod(
        namespace,
        {
            "metadata": {"name": "a", "annotations": {"leader-election/name": "x.leader"}},
            "spec": {"containers": [{"name": "m", "image": "m"}]},
        },
    )
    code, lines = person.asks("check", "-n", namespace, "a")
    assert code == 1
    said = "\n".join(lines)
    assert "nobody gives rights here (rbac.mode is not managed). Give them yourself" in said
    assert (
        f"kubectl -n {namespace} create role leader-election-candidate --verb=get,list,watch,create,update --resource=endpoints;"
        in said
    )
