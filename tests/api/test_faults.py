"""Elector processes while their network and their control plane break: never two claims, and a leader again in time.

The bound is that of `docs/election.md`, counted from the fault for whoever is left, and from its end where it hits everybody.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import Any

import kubernetes.client
import pytest

from sandbox import Sandbox
from tests.api.electors import Answer, Elector, clean_environment, make_free_lock
from tests.api.fault_proxy import Direction, FaultProxy, Observer
from tests.waiting import until

pytestmark = pytest.mark.api

TTL = 2.0
CANDIDATES = 5

LOADED = 2.0
"""Seconds that two busy cores add to any bound."""


def bound(ttl: float) -> float:
    """The longest time without a leader after a crash, by `docs/election.md`: 1.02 ttl, a retry, the spread, a time-out."""
    return 1.02 * ttl + ttl / 4 + 0.05 + ttl / 4


class Group:
    """Candidates of one election, each behind a proxy of its own."""

    def __init__(self, sandbox: Sandbox, stack: ExitStack, folder: Path, *, ttl: float = TTL, namespace: str = "default") -> None:
        self.ttl = ttl
        self.namespace = namespace
        self.election = f"example-{uuid.uuid4().hex[:8]}"
        self.sandbox = sandbox
        self.proxies: dict[Elector, FaultProxy] = {}
        self._stack = stack
        self._folder = folder
        make_free_lock(sandbox, namespace, self.election)
        for number in range(CANDIDATES):
            self.add(f"pod-{number}")

    def add(self, name: str) -> Elector:
        proxy = self._stack.enter_context(FaultProxy(self.sandbox))
        elector = Elector(
            self.sandbox,
            name,
            f"--election={self.election}",
            f"--election-namespace={self.namespace}",
            f"--ttl={self.ttl:g}s",
            env=clean_environment(KUBECONFIG=str(proxy.kubeconfig(self._folder / f"{name}-{self.election}"))),
            program=f"{name}-{self.election}",
        )
        self._stack.callback(_kill, elector)
        self.proxies[elector] = proxy
        return elector

    @property
    def electors(self) -> list[Elector]:
        return list(self.proxies)

    @property
    def leader(self) -> Elector:
        """The one whom all name, waited for."""
        found: list[Elector] = []

        def agreed() -> bool:
            heard = {one.leader for one in self.proxies}
            found[:] = [one for one in self.proxies if heard == {one.name} and one.leads]
            return bool(found)

        until(agreed, "all name one leader", 20.0)
        return found[0]


def _kill(elector: Elector) -> None:
    if elector.program.running:
        elector.program.stop(SIGKILL)


def wait_for(seconds: float, since: float) -> None:
    """The time that a fault is meant to last, counted from a moment of the monotonic clock."""
    left = since + seconds - time.monotonic()
    if left > 0:
        time.sleep(left)


def report(what: str, took: float, allowed: float) -> None:
    """Print how long it took until somebody led, and hold it to the bound and what a loaded machine adds."""
    print(f"{what}: a leader again after {took:.2f} s (bound {allowed:.2f} s)")
    assert took < allowed + LOADED


@pytest.fixture(scope="module")
def group(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """Five candidates on the API server that all tests share: nothing but their own way to it is ever broken."""
    name = f"faults-{uuid.uuid4().hex[:8]}"
    core: Any = kubernetes.client.CoreV1Api(sandbox.api)
    core.create_namespace({"metadata": {"name": name}})
    with ExitStack() as stack:
        yield Group(sandbox, stack, tmp_path_factory.mktemp("faults"), namespace=name)
    core.delete_namespace(name)


@contextmanager
def breakable(folder: Path, ttl: float = TTL) -> Iterator[Group]:
    """Five candidates on a control plane of their own."""
    with Sandbox.start() as sandbox, ExitStack() as stack:
        yield Group(sandbox, stack, folder, ttl=ttl)


@pytest.fixture(scope="module")
def own_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """Five candidates whose control plane these tests stop and start again; its data stay."""
    with breakable(tmp_path_factory.mktemp("own")) as group:
        yield group


# --- the observer itself


def test_the_observer_sees_claims_that_overlap() -> None:
    observer = Observer(hertz=1.0)
    first, second = object(), object()

    def claim(received: float, expires_in: float, token: int) -> Answer:
        return Answer(received, received, {"leading": True, "expires_in": expires_in, "token": token})

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

    first, second = Named("first"), Named("second")
    observer._began = time.monotonic() - 1.0  # so that it has asked often enough
    observer.answers = {first: [claim(10.0, 1.0, 1)], second: [claim(11.0, 1.0, 2)]}  # type: ignore[dict-item]
    observer.check()
    observer.answers = {first: [claim(10.0, 1.0, 1)], second: [claim(10.9, 1.0, 2)]}  # type: ignore[dict-item]
    with pytest.raises(AssertionError, match=r"second claims 0\.100 s before first's claim has ended"):
        observer.check()
    observer.answers = {first: [claim(10.0, 1.0, 2)], second: [claim(11.0, 1.0, 2)]}  # type: ignore[dict-item]
    with pytest.raises(AssertionError, match="second leads with token 2 after first with 2"):
        observer.check()


# --- the leader's own way to the API server

CUT_OFF: dict[str, Callable[[FaultProxy], None]] = {
    "stall": lambda proxy: proxy.stall(),
    "reset": lambda proxy: proxy.reset(),
    "cut": lambda proxy: proxy.cut(),
    "its requests do not arrive": lambda proxy: proxy.stall(Direction.TO_SERVER),
    "it gets no replies": lambda proxy: proxy.stall(Direction.TO_CLIENT),
}


@pytest.mark.parametrize("fault", CUT_OFF)
def test_a_leader_that_is_cut_off_stops_claiming_and_another_leads(group: Group, fault: str) -> None:
    leader = group.leader
    others = [one for one in group.electors if one is not leader]
    proxy = group.proxies[leader]
    with Observer(*group.electors) as observer:
        until(lambda: observer.has_led(leader), "the leader has told its claim", 10.0)
        CUT_OFF[fault](proxy)
        began = time.monotonic()
        try:
            until(lambda: observer.leader_since(began, *others), "another leads", 30.0)
            took = time.monotonic() - began
            # Its last confirmed renewal was sent before the fault: no claim lasts longer than that one's.
            assert observer.claimed_until(leader) <= began + TTL / 2
            # One more write may have been carried out without a reply, a retry after the last.
            report(f"leader cut off ({fault})", took, bound(TTL) + TTL / 4)
            # A watch that still brings replies may tell it the new leader's name.
            assert leader.leader in {"", *(one.name for one in others)}
        finally:
            proxy.heal()
        healed = time.monotonic()
        until(lambda: leader.leader in {one.name for one in others}, "the former leader follows", 10.0)
        print(f"the former leader follows {time.monotonic() - healed:.2f} s after the fault")
        wait_for(TTL, healed)  # what was held back is delivered now, and must not make a second leader


@pytest.mark.long
@pytest.mark.parametrize("ttls", [0.1, 0.25, 0.5, 1.0, 1.5])
def test_delays_on_the_leaders_way(group: Group, ttls: float) -> None:
    leader = group.leader
    proxy, delay = group.proxies[leader], ttls * TTL
    # What was under way is carried out late, at most a retry and the delay after the fault began; from then on it counts.
    latest = delay + TTL / 4
    with Observer(*group.electors) as observer:
        until(lambda: observer.has_led(leader), "the leader has told its claim", 10.0)
        for directions in ((Direction.TO_SERVER,), (Direction.TO_CLIENT,), (Direction.TO_SERVER, Direction.TO_CLIENT)):
            leader = group.leader
            proxy = group.proxies[leader]
            proxy.delay(delay / len(directions), *directions)
            began = time.monotonic()
            try:
                # Claims that were renewed before the delay have ended then: this one counts.
                until(lambda began=began: observer.leader_since(began + latest + TTL / 2), "somebody leads", 30.0)  # type: ignore[misc]
                ways = " and ".join(direction.value for direction in directions)
                report(f"{ttls:g} ttl of delay {ways}", time.monotonic() - began, latest + TTL / 2 + bound(TTL))
                wait_for(3 * TTL, began)
            finally:
                proxy.heal()
        assert group.leader


# --- the control plane


def test_an_api_server_that_is_frozen_for_two_ttls(own_group: Group) -> None:
    api_server = own_group.sandbox.program("kube-apiserver")
    former = own_group.leader
    with Observer(*own_group.electors) as observer:
        until(lambda: observer.has_led(former), "the leader has told its claim", 10.0)
        api_server.signal(SIGSTOP)
        began = time.monotonic()
        try:
            wait_for(2 * TTL, began)
        finally:
            api_server.signal(SIGCONT)
        thawed = time.monotonic()
        claimed = max(observer.claimed_until(one) for one in own_group.electors)
        assert claimed <= began + TTL / 2
        until(lambda: observer.leader_since(thawed), "somebody leads", 30.0)
        report("API server frozen for 2 ttl", time.monotonic() - thawed, bound(TTL))
        wait_for(TTL, thawed)  # what it had received is carried out late
        assert own_group.leader


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("parts", [["kube-apiserver"], ["etcd"], ["kube-apiserver", "etcd"]], ids="+".join)
def test_a_control_plane_that_is_restarted(own_group: Group, parts: list[str]) -> None:
    sandbox, former = own_group.sandbox, own_group.leader
    with Observer(*own_group.electors) as observer:
        until(lambda: observer.has_led(former), "the leader has told its claim", 10.0)
        for part in parts:
            sandbox.stop(part, SIGKILL)
        for part in reversed(parts):
            sandbox.restart(part)
        serving = time.monotonic()
        until(lambda: observer.leader_since(serving), "somebody leads", 30.0)
        report(f"{' and '.join(parts)} restarted", time.monotonic() - serving, bound(TTL))
        assert own_group.leader


def snapshot(sandbox: Sandbox, into: Path) -> None:
    """A copy of etcd's data, taken while it is stopped."""
    sandbox.stop("etcd", SIGKILL)
    shutil.copytree(sandbox.directory / "etcd", into)
    sandbox.restart("etcd")


def restore(sandbox: Sandbox, copy: Path, *more: str) -> float:
    """Let etcd begin again with that copy; `more` parts are stopped meanwhile. Returns a time before anybody could see it."""
    for part in (*more, "etcd"):
        sandbox.stop(part, SIGKILL)
    data = sandbox.directory / "etcd"
    data.rename(sandbox.directory / f"etcd-{uuid.uuid4().hex[:8]}")
    shutil.copytree(copy, data)
    began = time.monotonic()
    for part in ("etcd", *more):
        sandbox.restart(part)
    return began


def revision_of(group: Group) -> int:
    core: Any = kubernetes.client.CoreV1Api(group.sandbox.api)
    return int(core.read_namespaced_endpoints(group.election, group.namespace).metadata.resource_version)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_an_etcd_taken_back_to_an_older_snapshot(tmp_path: Path) -> None:
    ttl = 3.0
    with breakable(tmp_path, ttl) as group:
        first = group.leader
        snapshot(group.sandbox, tmp_path / "snapshot")
        saved = revision_of(group)
        # Another leads when it is taken back: the copy has a record of somebody who then was a follower.
        group.leader.program.signal(SIGSTOP)
        others = [one for one in group.electors if one is not first]
        until(lambda: any(one.leads for one in others), "another leads", 20.0)
        first.program.signal(SIGCONT)
        second = group.leader
        assert second is not first
        until(lambda: revision_of(group) > saved + 20, "the snapshot is old", 60.0)
        with Observer(*group.electors, tokens=False) as observer:
            until(lambda: observer.has_led(second), "the leader has told its claim", 10.0)
            back = restore(group.sandbox, tmp_path / "snapshot", "kube-apiserver")
            serving = time.monotonic()
            until(lambda: observer.leader_since(serving), "somebody leads", 60.0)
            leads = time.monotonic()
            assert leads - back > ttl, "nobody has waited since the data were taken back"
            report("etcd taken back, API server restarted", leads - serving, bound(ttl))
            assert group.leader
        assert "lost part of its past" in "".join(one.log for one in group.electors)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_an_etcd_taken_back_under_a_running_api_server_while_the_leader_claims(tmp_path: Path) -> None:
    # Long enough for the claim to hold while the data are exchanged.
    ttl = 10.0
    with breakable(tmp_path, ttl) as group:
        snapshot(group.sandbox, tmp_path / "snapshot")
        saved = revision_of(group)
        until(lambda: revision_of(group) > saved + 5, "the snapshot is old", 60.0)
        leader = group.leader
        with Observer(*group.electors, tokens=False) as observer:
            until(lambda: observer.has_led(leader), "the leader has told its claim", 10.0)
            back = restore(group.sandbox, tmp_path / "snapshot")
            serving = time.monotonic()
            assert observer.claimed_until(leader) > serving, "the exchange took longer than the claim: nothing is shown"
            until(lambda: not leader.leads, "it stops claiming", ttl)
            stopped = time.monotonic()
            until(lambda: observer.leader_since(stopped), "somebody leads", 60.0)
            leads = time.monotonic()
            assert leads - back > ttl, "nobody has waited since the data were taken back"
            report("etcd taken back under a running API server", leads - stopped, bound(ttl))
            assert group.leader
        assert "lost part of its past" in leader.log


# --- many


@pytest.mark.long
@pytest.mark.timeout(240)
def test_fifty_candidates_at_once(sandbox: Sandbox, group: Group) -> None:
    ttl, election = 3.0, f"fifty-{uuid.uuid4().hex[:8]}"
    flags = [f"--election={election}", f"--election-namespace={group.namespace}", f"--ttl={ttl:g}s", "--sidecar=native"]
    electors: list[Elector] = []
    with ExitStack() as stack:
        for number in range(50):
            electors.append(Elector(sandbox, f"pod-{number}", *flags, program=f"{election}-{number}"))
            stack.callback(_kill, electors[-1])
        began = time.monotonic()
        with Observer(*electors, hertz=5.0) as observer:

            def agree() -> bool:
                latest = [answers[-1].body["name"] for one in electors if (answers := observer.answers[one])]
                return len(latest) == len(electors) and len(set(latest)) == 1 and latest[0] in {one.name for one in electors}

            until(agree, "fifty agree", 90.0)
            print(f"fifty agree {time.monotonic() - began:.1f} s after the last was started")
            for number in (SIGKILL, SIGTERM, SIGKILL):
                until(agree, "those who are left agree", 30.0)
                leader = next(one for one in electors if one.name == observer.answers[one][-1].body["name"])
                observer.application_ends(leader)
                leader.program.signal(number)
                ended = time.monotonic()
                electors.remove(leader)
                until(lambda ended=ended: observer.leader_since(ended, *electors), "another leads", 30.0)  # type: ignore[misc]
                # Up to a fifth of a second until it is asked.
                report(f"{number.name} of the leader of fifty", time.monotonic() - ended, bound(ttl) + 0.2)
