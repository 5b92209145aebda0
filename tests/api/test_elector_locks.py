"""Every kind of lock, the health gate and the status server, with elector processes on a real API server."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from signal import SIGKILL, SIGTERM
from typing import Any

import kubernetes.client
import pytest

from sandbox import Sandbox
from tests.api.electors import Elector, Witness, lock_of, make_free_lock
from tests.ports import free_port
from tests.waiting import until

pytestmark = pytest.mark.api

TTL = 2.0

Start = Callable[..., Elector]


@pytest.fixture(scope="module")
def namespace(sandbox: Sandbox) -> Iterator[str]:
    name = f"locks-{uuid.uuid4().hex[:8]}"
    core: Any = kubernetes.client.CoreV1Api(sandbox.api)
    core.create_namespace({"metadata": {"name": name}})
    yield name
    core.delete_namespace(name)


@pytest.fixture
def start(sandbox: Sandbox, namespace: str) -> Iterator[Start]:
    """Starts electors for one election; all of them are gone after the test."""
    election = f"example-{uuid.uuid4().hex[:8]}"
    started: list[Elector] = []

    def one(name: str, *flags: str) -> Elector:
        names = (f"--election={election}", f"--election-namespace={namespace}", f"--ttl={TTL:g}s", "--sidecar=native")
        elector = Elector(sandbox, name, *names, *flags, program=f"{name}-{len(started)}-{election}")
        elector.election = election  # type: ignore[attr-defined]
        started.append(elector)
        return elector

    yield one
    for elector in started:
        if elector.program.running:
            elector.program.stop(SIGKILL)


def lease_of(sandbox: Sandbox, namespace: str, name: str) -> Any:
    coordination: Any = kubernetes.client.CoordinationV1Api(sandbox.api)
    return coordination.read_namespaced_lease(name, namespace)


def _knows_a_leader(elector: Elector) -> bool:
    return bool(elector.leader)


def all_name(electors: list[Elector], wanted: set[str]) -> Callable[[], bool]:
    def check() -> bool:
        names = {elector.leader for elector in electors}
        return len(names) == 1 and names <= wanted

    return check


def test_a_cluster_rolls_from_endpoints_to_leases_with_one_leader_all_along(
    sandbox: Sandbox, namespace: str, start: Start
) -> None:
    running = [start("a-1"), start("a-2")]
    with Witness(*running) as witness:
        until(all_name(running, {"a-1", "a-2"}), "the first leader", 15.0)
        for roll, kind in enumerate(("endpointsleases", "leases")):
            former, running = running, []
            for number in (1, 2):
                new = start(f"{'bc'[roll]}-{number}", f"--lock={kind}")
                witness.watch(new)
                running.append(new)
                # As a roll-out does it: one more, wait until it takes part, then one of the old ones less.
                until(partial(_knows_a_leader, new), f"{new.name} knows the leader", 15.0)
                old = former.pop(0)
                witness.application_ends(old)
                old.program.signal(SIGTERM)
                assert old.program.wait(10.0) == 0
                left = [*former, *running]
                until(all_name(left, {one.name for one in left}), f"a leader after {old.name}", 15.0)
        # The witness asks at its own pace: it may not have asked since the last of them took over.
        until(partial(witness.has_led, *running), "the witness has seen one of the last two lead", 15.0)
    election = running[0].election  # type: ignore[attr-defined]
    leader = running[0].leader
    lease = lease_of(sandbox, namespace, election)
    assert lease.spec.holder_identity == leader
    assert lease.spec.lease_duration_seconds == TTL
    # The Endpoints object was released by the last who held both.
    assert lock_of(sandbox, namespace, election)["holderIdentity"] == ""


def test_candidates_on_leases_hand_over_and_survive_a_kill(sandbox: Sandbox, namespace: str, start: Start) -> None:
    electors = [start(f"pod-{number}", "--lock=leases") for number in range(3)]
    names = {elector.name for elector in electors}
    with Witness(*electors) as witness:
        until(all_name(electors, names), "a leader", 15.0)
        for number in (SIGTERM, SIGKILL):
            leader = next(elector for elector in electors if elector.name == electors[0].leader)
            witness.application_ends(leader)
            leader.program.signal(number)
            electors.remove(leader)
            took = until(all_name(electors, names - {leader.name}), "another leader", 15.0)
            assert took < (1.0 if number == SIGTERM else 1.02 * TTL + TTL / 2 + 1.0)


def test_a_lock_that_is_also_a_services_endpoints_and_changes_all_the_time(
    sandbox: Sandbox, namespace: str, start: Start
) -> None:
    one = start("pod-a")
    election = one.election  # type: ignore[attr-defined]
    core: Any = kubernetes.client.CoreV1Api(sandbox.api)
    with Witness(one) as witness:
        until(lambda: one.leads, "a leader", 15.0)
        before = len(witness.answers[one])
        for number in range(100):
            subset = {"addresses": [{"ip": f"10.9.8.{number + 1}"}], "ports": [{"port": 80}]}
            core.patch_namespaced_endpoints(election, namespace, {"subsets": [subset]})
        assert all(answer.body["leading"] for answer in witness.answers[one][before:])
    endpoints = core.read_namespaced_endpoints(election, namespace)
    assert endpoints.subsets[0].addresses[0].ip == "10.9.8.100"  # nothing of it was lost to a renewal


def test_a_deleted_lock_is_put_back_by_its_leader(sandbox: Sandbox, namespace: str, start: Start) -> None:
    one, other = start("pod-a"), start("pod-b")
    with Witness(one, other):
        until(all_name([one, other], {"pod-a", "pod-b"}), "a leader", 15.0)
        leader = one.leader
        election = one.election  # type: ignore[attr-defined]
        core: Any = kubernetes.client.CoreV1Api(sandbox.api)
        token = core.read_namespaced_endpoints(election, namespace).metadata.annotations["leader-election/token"]
        core.delete_namespaced_endpoints(election, namespace)

        def is_back() -> bool:
            try:
                return bool(lock_of(sandbox, namespace, election)["holderIdentity"] == leader)
            except (kubernetes.client.ApiException, TypeError, KeyError):
                return False

        until(is_back, "the record is back", 5.0)
        annotations = core.read_namespaced_endpoints(election, namespace).metadata.annotations
        assert annotations["leader-election/token"] == token
        until(all_name([one, other], {str(leader)}), "all still name the leader", 5.0)


class App:
    """An application with a health page."""

    def __init__(self) -> None:
        self.status = 503
        app = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(app.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


def test_a_candidate_stands_only_while_its_application_is_healthy(sandbox: Sandbox, namespace: str, start: Start) -> None:
    app = App()
    try:
        one = start("pod-a", f"--health-url=http://localhost:{app.port}/healthz")
        make_free_lock(sandbox, namespace, one.election)  # type: ignore[attr-defined]
        until(lambda: one.leader is not None, "the elector answers", 10.0)
        app.status = 200
        until(lambda: one.leads, "a leader, once the application is healthy", 10.0)
        app.status = 500
        until(lambda: not one.leads, "leadership is given up", 10.0)
        until(lambda: lock_of(sandbox, namespace, one.election)["holderIdentity"] == "", "the lock is released", 10.0)  # type: ignore[attr-defined]
        app.status = 200
        until(lambda: one.leads, "it leads again", 10.0)
        assert one.said == ["pod-a", "pod-a"]
    finally:
        app.close()


def test_resigning_over_http_and_what_the_status_server_says(sandbox: Sandbox, namespace: str, start: Start) -> None:
    status = free_port()
    one, other = start("pod-a", f"--status-http=:{status}"), start("pod-b")
    with Witness(one, other) as witness:
        until(all_name([one, other], {"pod-a", "pod-b"}), "a leader", 15.0)
        assert one.ask("/healthz", port=status)[0] == 200
        assert one.ask("/readyz", port=status)[0] == 200
        metrics = one.ask("/metrics", port=status)[1].decode()
        assert f"elector_leading {int(one.leads)}\n" in metrics
        leader, follower = (one, other) if one.leads else (other, one)
        assert follower.ask("/v1/resign", method="POST")[1] == b'{"resigned": false}\n'
        witness.application_ends(leader)
        assert leader.ask("/v1/resign", method="POST")[1] == b'{"resigned": true}\n'
        took = until(all_name([one, other], {follower.name}), "the other leads", 5.0)
        assert took < TTL
    # The API server's deprecation warning for Endpoints, once.
    assert one.log.count("the API server says of the lock") == 1
    assert "deprecated" in one.log
