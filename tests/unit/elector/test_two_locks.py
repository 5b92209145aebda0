"""Leases, and the two kinds of lock held as one (rule 10), in simulated time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from elector._election import Election, Sidecar
from elector._lock import Lock, Mark
from elector._objects import EndpointsLock, LeaseLock
from elector._record import Record
from elector._timing import Timing
from tests.simulation.server import LEASES, ApiServer
from tests.simulation.world import LocalLoop, SimulatedClock, World
from tests.unit.elector.test_election import Line, Steady

FREE = Record("", 1, "t", "t", 0)


class Pair:
    """One API server and candidates on any kind of lock."""

    def __init__(self) -> None:
        self.world = World(0)
        self.server = ApiServer()
        self.loops: list[LocalLoop] = []
        self.elections: list[Election] = []
        self.lines: list[Line] = []

    def candidate(self, name: str, kind: str) -> Election:
        clock = SimulatedClock(self.world, 1.0, 4096.0 * len(self.loops), 0.0)
        loop = LocalLoop(self.world, clock, lambda: None)
        line = Line(self.world, self.server, loop)
        endpoints, leases = EndpointsLock(line, "default", "example"), LeaseLock(line, "default", "example")
        locks: dict[str, list[Lock]] = {"endpoints": [endpoints], "leases": [leases], "both": [endpoints, leases]}

        def build() -> Election:
            guard = endpoints if kind == "leases" else None
            timing = Timing.of(10.0)
            election = Election(locks[kind], name, f"of-{name}", timing, clock, Steady(), sidecar=Sidecar.NATIVE, guard=guard)
            self.tasks = [*getattr(self, "tasks", []), loop.create_task(election.run())]
            return election

        self.loops.append(loop)
        self.lines.append(line)
        election: Election = loop.run_now(build)
        self.elections.append(election)
        return election

    def store(self, kind: str, record: Record) -> None:
        if kind == "endpoints":
            annotations = {"control-plane.alpha.kubernetes.io/leader": record.to_json()}
            body: dict[str, Any] = {"metadata": {"name": "example", "annotations": annotations}}
        else:
            spec = {"holderIdentity": record.holder, "leaseDurationSeconds": record.lease, "leaseTransitions": 0}
            body = {"metadata": {"name": "example"}, "spec": spec}
        self.server.handle("POST", f"/{kind}", json.dumps(body).encode())

    def leaders(self) -> list[str]:
        return [one.identity for one in self.elections if one.view().leading]

    def lease(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.server.objects[LEASES]["spec"]
        return spec


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    for loop, task in zip(pair.loops, pair.tasks, strict=True):
        loop.bury(task)
    pair.world.run(pair.world.now + 1.0)


def test_a_lease_carries_the_record_in_its_spec_with_micro_times(pair: Pair) -> None:
    pair.store("leases", FREE)
    one = pair.candidate("pod-a", "leases")
    pair.world.run(1.0)
    assert one.view().leading
    assert pair.lease()["holderIdentity"] == "pod-a"
    assert pair.lease()["leaseDurationSeconds"] == 10
    assert pair.lease()["renewTime"].endswith(".000000Z")
    pair.world.run(60.0)
    assert one.view().leading  # what it reads back is what it wrote


def test_a_lease_that_nobody_ever_held_is_waited_out(pair: Pair) -> None:
    pair.server.handle("POST", "/leases", b'{"metadata":{"name":"example"}}')
    one = pair.candidate("pod-a", "leases")
    pair.world.run(9.9)
    assert not one.view().leading
    pair.world.run(10.1)
    assert one.view().leading


def test_what_a_lease_says_is_what_was_put_on_it() -> None:
    lock = LeaseLock(None, "default", "example")  # type: ignore[arg-type]
    mark = Mark(Record("a", 10, "2026-11-22T08:04:29Z", "2026-11-22T08:04:40Z", 3), 7, "i")
    body: dict[str, Any] = {"metadata": {"annotations": {}}, "spec": {"strategy": "kept"}}
    lock._put_record(body, mark)
    assert body["spec"]["strategy"] == "kept"
    assert lock._record_text(body) == lock.text_of(mark)


def test_both_are_acquired_endpoints_first_and_released_in_the_opposite_order(pair: Pair) -> None:
    pair.store("endpoints", FREE)
    pair.store("leases", FREE)
    one = pair.candidate("pod-a", "both")
    pair.world.run(1.0)
    assert one.view().leading
    puts = [body["kind"] for _, method, body in pair.lines[0].sent if method == "PUT"]
    assert puts == ["Endpoints", "Lease"]
    pair.loops[0].run_now(one.terminate)
    pair.world.run(2.0)
    puts = [body["kind"] for _, method, body in pair.lines[0].sent if method == "PUT"]
    assert puts[-2:] == ["Lease", "Endpoints"]
    assert pair.lease()["holderIdentity"] == ""


def test_the_claim_on_both_counts_from_before_the_first_write(pair: Pair) -> None:
    pair.store("endpoints", FREE)
    pair.store("leases", FREE)
    one = pair.candidate("pod-a", "both")
    pair.lines[0].out = 0.5
    pair.world.run(2.4)
    # Looks at 0 and 0.5, writes sent at 1.0 and 1.5, answered at 2.0.
    assert one.view().leading
    assert one.view().expires_in == pytest.approx(1.0 + 5.0 - 2.4)


def test_half_an_acquisition_is_released_at_once(pair: Pair) -> None:
    pair.store("endpoints", FREE)
    pair.store("leases", FREE)
    one = pair.candidate("pod-a", "both")
    pair.lines[0].fates["PUT"].extend(["", 409])
    # Somebody on leases alone is faster there.
    original = pair.server.handle

    def handle(method: str, path: str, body: bytes | None) -> Any:
        reply = original(method, path, body)
        if method == "PUT" and "/endpoints" in path and pair.lease()["holderIdentity"] == "":
            spec = {"holderIdentity": "pod-x", "leaseDurationSeconds": 10, "leaseTransitions": 0, "renewTime": "t"}
            pair.server.overwrite_lease(spec)
        return reply

    pair.server.handle = handle  # type: ignore[method-assign]
    pair.world.run(1.0)
    assert not one.view().leading
    assert pair.server.object is not None
    record = json.loads(pair.server.object["metadata"]["annotations"]["control-plane.alpha.kubernetes.io/leader"])
    assert record["holderIdentity"] == ""


def test_two_fresh_holders_that_differ_are_nobody(pair: Pair) -> None:
    pair.store("endpoints", Record("pod-x", 10, "t", "t", 0))
    pair.store("leases", Record("pod-y", 10, "t", "t", 0))
    one = pair.candidate("pod-a", "both")
    pair.world.run(1.0)
    assert one.view().name == ""


def test_one_fresh_holder_of_either_is_named_and_waited_for(pair: Pair) -> None:
    pair.store("endpoints", Record("pod-x", 10, "t", "t", 0))
    pair.store("leases", FREE)
    one = pair.candidate("pod-a", "both")
    pair.world.run(9.9)
    assert (one.view().name, one.view().leading) == ("pod-x", False)
    pair.world.run(10.1)
    assert one.view().leading


def test_who_is_on_leases_waits_while_somebody_freshly_holds_the_endpoints(pair: Pair) -> None:
    pair.store("endpoints", Record("pod-x", 10, "t", "t", 0))
    pair.store("leases", FREE)
    one = pair.candidate("pod-a", "leases")
    pair.world.run(9.9)
    assert not one.view().leading
    pair.world.run(12.6)  # stale by then
    assert one.view().leading


def test_a_cluster_moves_from_endpoints_to_leases_with_one_leader_all_along(pair: Pair) -> None:
    pair.store("endpoints", FREE)
    now = 0.0
    names = iter("abcdefghi")
    running: list[Election] = []
    gaps: list[float] = []
    for kind in ("endpoints", "both", "leases"):
        former, running = running, []
        for _ in range(2):
            running.append(pair.candidate(f"pod-{next(names)}", kind))
            now += 15.0
            pair.world.run(now)
            if former:
                pair.loops[pair.elections.index(former[0])].run_now(former.pop(0).terminate)
        while now < 45.0 * (1 + len(gaps)):
            now += 0.05
            pair.world.run(now)
            assert len(pair.leaders()) <= 1
        gaps.append(now)
        assert pair.leaders() != []
    assert pair.leaders()[0] in {one.identity for one in running}
