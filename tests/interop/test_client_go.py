"""Our elector and client-go's stand for one lock on a real API server: one leader all along, whoever of them it is.

client-go's candidates are programs of our own (`candidate/`), v0.22 on Endpoints and the current one on Leases.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from itertools import cycle
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import Any

import kubernetes.client
import pytest

from sandbox import Sandbox
from tests.interop.candidates import LOCKS
from tests.interop.contenders import LEASE, Contender, Observer, Ours, Theirs
from tests.waiting import until

pytestmark = [pytest.mark.api, pytest.mark.long, pytest.mark.timeout(240)]

EACH_WAY = 10

RELEASED = 2.0
"""A release is free at once: one round of client-go's retries at its longest, and load; less than a crash takes."""
CRASHED = LEASE + 2.5
"""After a crash: the lease, the longest retry (1.1 s of client-go's, jitter included), a request, and load."""

Stand = Callable[[type[Contender], str], Contender]


@pytest.fixture(params=LOCKS)
def lock(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture(scope="module")
def namespace(sandbox: Sandbox) -> Iterator[str]:
    name = f"interop-{uuid.uuid4().hex[:8]}"
    core: Any = kubernetes.client.CoreV1Api(sandbox.api)
    core.create_namespace({"metadata": {"name": name}})
    yield name
    core.delete_namespace(name)


@pytest.fixture
def stand(sandbox: Sandbox, namespace: str, lock: str) -> Iterator[Stand]:
    """Starts contenders for this test's election; all of them are gone after it."""
    election = f"example-{uuid.uuid4().hex[:8]}"
    started: list[Contender] = []

    def one(kind: type[Contender], name: str) -> Contender:
        contender = kind(sandbox, lock, namespace, election, name)
        started.append(contender)
        return contender

    yield one
    for contender in started:
        contender.end()


def all_name(leader: Contender, *contenders: Contender) -> Callable[[], bool]:
    return lambda: all(one.leader == leader.name for one in contenders)


def hand_over(how: str, old: Contender, new: Contender, observer: Observer) -> float:
    """Take the leadership from `old` in that way, and return how long it took until `new` claimed it, in seconds."""
    before = observer.claims_of(new)
    took = LEASE + CRASHED

    def claimed() -> bool:
        return observer.claims_of(new) > before

    began = time.monotonic()
    if how == "release":
        with observer.application_ended(old):
            old.program.signal(SIGTERM)
            took = until(claimed, f"{new} leads after {old} has released", RELEASED)
            assert old.program.wait(5.0) == 0
        old.restart()
    elif how == "kill":
        old.program.signal(SIGKILL)
        took = until(claimed, f"{new} leads after {old} was killed", CRASHED)
        old.restart()
    else:
        old.program.signal(SIGSTOP)
        took = until(claimed, f"{new} leads after {old} was stopped", CRASHED)
        heard = observer.answers_of(old)
        old.program.signal(SIGCONT)
        until(lambda: observer.answers_of(old) > heard, f"{old} answers again", 5.0)
    if how != "release":
        # Whoever takes over sooner has not waited for the lease: renewals are at most a quarter of it apart.
        assert time.monotonic() - began > LEASE / 2
    return took


def test_ten_fail_overs_each_way_and_never_two_leaders(lock: str, stand: Stand) -> None:
    ours = stand(Ours, "ours")
    until(all_name(ours, ours), "ours leads alone", 20.0)
    theirs = stand(Theirs, "theirs")
    ways = cycle(["release", "kill", "freeze"])  # three, so that each side is ended in each of them
    old, new = ours, theirs
    tokens = []
    with Observer(ours, theirs) as observer:
        until(all_name(ours, ours, theirs), "theirs names ours, whose record it has read", 10.0)
        until(lambda: observer.claims_of(ours), "ours has told its claim", 5.0)
        for _ in range(2 * EACH_WAY):
            if old is ours:
                tokens.append(ours.ask("/v1/leader")["token"])
            how = next(ways)
            took = hand_over(how, old, new, observer)
            until(all_name(new, ours, theirs), f"both name {new}", 10.0)
            print(f"{lock}, {how:7} {old} -> {new}: {took:.3f} s")
            old, new = new, old
    assert tokens == sorted(set(tokens)), "a fencing token did not grow while client-go, which knows none, led in between"
    assert len(tokens) == EACH_WAY


def test_two_of_each_race_for_what_a_killed_leader_has_left(lock: str, stand: Stand) -> None:
    contenders = [stand(kind, f"{name}-{letter}") for letter in "ab" for kind, name in ((Ours, "ours"), (Theirs, "theirs"))]
    with Observer(*contenders) as observer:

        def agreed(*among: Contender) -> Contender | None:
            heard = {one.leader for one in among}
            return next((one for one in among if heard == {one.name}), None)

        until(lambda: agreed(*contenders), "four agree", 20.0)
        for _ in range(4):
            leader = agreed(*contenders)
            assert leader is not None
            others = [one for one in contenders if one is not leader]
            leader.program.signal(SIGKILL)
            took = until(lambda others=others: agreed(*others), "the others agree", CRASHED)  # type: ignore[misc]
            print(f"{lock}, kill {leader} -> {agreed(*others)}: {took:.3f} s")
            leader.restart()
            until(lambda: agreed(*contenders), "four agree again", 10.0)
        assert all(observer.answers_of(one) > 100 for one in contenders)
