"""Whatever an elector does in its life it may do under the policies, with managed rights and the token of its own pod."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox import Sandbox
from tests.api.electors import RECORD
from tests.api.managed import Json, Managed, Pod, managed
from tests.waiting import until

pytestmark = [pytest.mark.api, pytest.mark.long, pytest.mark.timeout(300)]

LOCKS = ["endpoints", "leases", "endpointsleases"]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    with Sandbox.start() as sandbox, managed(sandbox, tmp_path_factory.mktemp("release")) as found:
        yield found


def view(pod: Pod) -> Json:
    """What its elector says; empty while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{pod.port}/v1/leader", timeout=1) as answer:
            return dict(json.loads(answer.read()))
    except OSError:
        return {}


def leader(pods: list[Pod]) -> Pod | None:
    """The one whose elector says that it leads."""
    return next((pod for pod in pods if view(pod).get("leading")), None)


def led(pods: list[Pod]) -> Pod:
    """The one that leads, once one does."""
    until(lambda: leader(pods) is not None, "one leads", seconds=30)
    found = leader(pods)
    assert found is not None
    return found


def holder(release: Managed, namespace: str) -> str:
    """Of the Endpoints lock; empty when there is no record that can be read."""
    try:
        return release.holder(namespace)
    except ValueError:
        return ""


def complaints(release: Managed, pods: list[Pod]) -> list[str]:
    """What the electors' logs say of refusals."""
    logs = [release.electors[pod.uid].log.read_text() for pod in pods if pod.uid in release.electors]
    return [line for log in logs for line in log.splitlines() if " 403 " in line or " 422 " in line]


@pytest.mark.parametrize("lock", LOCKS)
def test_taking_renewing_resigning_and_ending(release: Managed, lock: str) -> None:
    namespace = release.namespace()
    pods = [release.pod(namespace, name, lock=lock) for name in ("a", "b", "c")]
    release.until_rights(*pods)
    for pod in pods:
        release.start(pod)
    first = led(pods)
    token = view(first)["token"]
    renewed = view(first)["renewed"]
    until(lambda: view(first).get("renewed", "") > renewed, "it renews")
    request = urllib.request.Request(f"http://127.0.0.1:{first.port}/v1/resign", method="POST")
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert answer.status == 200
    until(lambda: leader(pods) not in (None, first), "another leads after the resignation")
    second = led(pods)
    assert view(second)["token"] > token
    token = view(second)["token"]
    release.stop(second)
    rest = [pod for pod in pods if pod is not second]
    third = led(rest)
    assert view(third)["token"] > token
    # Every lock carries the token, if not at once then after a renewal.
    kinds = ["endpoints", "leases"] if lock == "endpointsleases" else [lock]

    def tokens() -> set[Any]:
        found = [release.lock(namespace, kind=kind) for kind in kinds]
        return {one["metadata"]["annotations"]["leader-election/token"] for one in found if one is not None}

    until(lambda: tokens() == {str(view(third).get("token"))}, "all locks carry the token")
    assert complaints(release, rest) == []
    release.delete(*pods)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_restart_in_the_same_pod(release: Managed, lock: str) -> None:
    """The predecessor's claim is taken over at once: the policy lets the same pod go on."""
    namespace = release.namespace()
    pod = release.pod(namespace, "a", lock=lock, ttl="30s")
    release.until_rights(pod)
    release.start(pod)
    led([pod])
    token = view(pod)["token"]
    release.stop(pod, 9)
    began = time.monotonic()
    release.start(pod)
    led([pod])
    print(f"{lock}: led again {time.monotonic() - began:.1f} s after the restart, with a ttl of 30 s")
    assert time.monotonic() - began < 15
    assert view(pod)["token"] > token
    release.delete(pod)


@pytest.mark.parametrize("lost", ["no record", "garbage", "a stranger's record"])
def test_a_record_that_an_administrator_spoils(release: Managed, lost: str) -> None:
    """The leader puts back what is lost while its claim holds; a stranger's record is waited out, then taken."""
    namespace = release.namespace()
    pods = [release.pod(namespace, name) for name in ("a", "b")]
    release.until_rights(*pods)
    for pod in pods:
        release.start(pod)
    before = led(pods)
    now = "2026-11-24T12:00:00.123456Z"
    # As Python's kubernetes.leaderelection writes it: numbers as strings, spaces.
    strange = {"holderIdentity": "old", "leaseDurationSeconds": "2", "acquireTime": now, "renewTime": now}
    text = {"no record": None, "garbage": "garbage", "a stranger's record": json.dumps(strange)}[lost]
    release.core.patch_namespaced_endpoints("orders.leader", namespace, {"metadata": {"annotations": {RECORD: text}}})
    until(lambda: holder(release, namespace) in ("a", "b"), "a candidate's record stands there again")
    after = led(pods)
    if lost != "a stranger's record":
        assert after is before
    assert complaints(release, pods) == []
    release.delete(*pods)
