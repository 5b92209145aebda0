"""A simulated pod: an elector process under test, the application beside it, and what the two believe at which time."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Coroutine
from typing import Any

from elector._answers import Answers
from elector._election import Election, Sidecar
from elector._lock import Lock
from elector._objects import EndpointsLock, LeaseLock
from elector._server import Reply, Request
from elector._timing import Timing
from tests.simulation.judge import Judge
from tests.simulation.network import SimulatedTransport, Weather
from tests.simulation.server import ApiServer
from tests.simulation.world import LocalLoop, SimulatedClock, World

__all__ = ["Pod"]

_SAME_DEADLINE = 1e-5
"""Seconds; a wall clock, which a broken election may count by, is only good for a fraction of a microsecond."""


class Pod:
    """One slot for a candidate: its elector may be killed and started again, its application goes on reading.

    The application reads `/` and `/v1/leader` at its own pace and believes each answer as long as it may (rule 2).
    """

    def __init__(
        self,
        world: World,
        server: ApiServer,
        judge: Judge,
        name: str,
        kind: str,
        timing: Timing,
        sidecar: Sidecar,
        *,
        reads: bool,
    ) -> None:
        rng = world.rng
        self.world = world
        self.server = server
        self.judge = judge
        self.name = name
        self.kind = kind
        self.timing = timing
        self.sidecar = sidecar
        self.reads = reads
        self.weather = Weather(slow=rng.choice([0.002, 0.02]) * timing.ttl)
        self.may_watch = rng.random() < 0.7
        self.clock = SimulatedClock(world, rng.uniform(0.98, 1.02), rng.uniform(0, 1e6), rng.uniform(-1e5, 1e5))
        self.clock.on_read = self._clock_was_read
        self.freeze_in_readings = -1
        self.freeze_for = 0.0
        self.instances = 0
        self.instance = self._new_instance()
        self.stopping = False
        self.resigned_at = -1.0
        self.alive = False
        self.processes: list[tuple[LocalLoop, asyncio.Task[None]]] = []
        self.loop: LocalLoop
        self.election: Election
        self.answers: Answers
        self.task: asyncio.Task[None]
        self.probe_at = 0.0
        self.start()

    # The elector process.

    def start(self) -> None:
        """Start the elector; its name, and after a restart of the container its instance, are those of before."""
        self.alive, self.stopping = True, False
        self.freeze_in_readings = -1
        self.loop = loop = LocalLoop(self.world, self.clock, self._after_callback)
        transport = SimulatedTransport(self.world, self.server, loop, self.weather, may_watch=self.may_watch)
        endpoints = EndpointsLock(transport, "default", "example")
        leases = LeaseLock(transport, "default", "example")
        locks: dict[str, list[Lock]] = {"endpoints": [endpoints], "leases": [leases], "endpointsleases": [endpoints, leases]}
        rng = random.Random(self.world.rng.random())

        def build() -> None:
            self.election = Election(
                locks[self.kind],
                self.name,
                self.instance,
                self.timing,
                self.clock,
                rng,
                sidecar=self.sidecar,
                guard=endpoints if self.kind == "leases" else None,
                drain=1.5 * self.timing.ttl,
                on_change=lambda view: self._changed(view.leading),
            )
            self.answers = Answers(self.election, self.kind)
            self.task = loop.create_task(self.election.run())

        loop.run_now(build)
        self.processes.append((loop, self.task))
        self.world.note(f"{self.name} starts as {self.instance}")
        if self.reads:
            self._read_again(self.loop, "/")
            self._read_again(self.loop, "/v1/leader")

    def kill(self) -> None:
        """SIGKILL: what is in flight stays in flight."""
        self.world.note(f"{self.name} is killed")
        self.alive = False
        self.loop.dead = True
        self.judge.stopped_claiming(self.name)

    def new_pod(self) -> None:
        """The whole pod is replaced: another application, another instance, the same name."""
        self.instance = self._new_instance()
        self.judge.application_ended(self.name)

    def sigterm(self) -> None:
        """The kubelet stops the sidecar; a native one only after the application has ended."""
        self.world.note(f"{self.name} gets SIGTERM ({self.sidecar.value})")
        if self.sidecar is Sidecar.NATIVE:
            self.judge.application_ended(self.name)
        self.stopping = True
        self._as_process(self.election.terminate)

    def resign(self) -> None:
        """The application stops its work, then says so."""
        self.world.note(f"{self.name} resigns")
        self.judge.application_ended(self.name)
        self.resigned_at = self.world.now
        self._ask("POST", "/v1/resign", "")

    def set_healthy(self, healthy: bool) -> None:
        """What the health gate tells the election; the application goes on believing what it was told."""
        election = self.election
        self._as_process(lambda: election.set_healthy(healthy))

    def freeze(self, seconds: float) -> None:
        self.world.note(f"{self.name} freezes for {seconds:.3f}")
        self.loop.frozen_until = max(self.loop.frozen_until, self.world.now + seconds)

    def _clock_was_read(self) -> None:
        if self.freeze_in_readings >= 0:
            self.freeze_in_readings -= 1
            if self.freeze_in_readings < 0:
                # Stopped between reading the clock and acting on it: what is sent or said now leaves after the freeze.
                self.freeze(self.freeze_for)

    def _new_instance(self) -> str:
        self.instances += 1
        return f"{self.name}-{self.instances}/leader-elector"

    def _as_process(self, action: Any) -> None:
        """Something reaches the process from outside: now, or when it goes on."""
        loop = self.loop

        def act() -> None:
            if loop.dead:
                return
            if self.world.now < loop.frozen_until:
                self.world.at(loop.frozen_until, act)
                return
            loop.run_now(action)
            self._after_callback()

        self.world.at(self.world.now, act)

    def _after_callback(self) -> None:
        """After each callback of the process: what would it say now, and until when?"""
        if not self.alive:
            return
        # Asked inside, because it is asked thousands of times; at every change and deadline the public answers are asked too.
        if self.election._leads(self.clock.peek()):
            readings, self.freeze_in_readings = self.freeze_in_readings, -1
            view = self.election.view()
            self.freeze_in_readings = readings
            until = self.clock.true_time(self.clock.peek() + view.expires_in)
            self.judge.claims(self.name, until, view.token, self.world.now)
            if abs(until - self.probe_at) > _SAME_DEADLINE:
                # Not for a mere rounding error: each probe could find another one, at hardly any later time, for ever.
                self.probe_at = until
                # At the deadline itself, and right after it, the public answers must have changed by themselves.
                self.world.at(until + 1e-9 * max(1.0, until), lambda: self._probe(self.loop))
        else:
            self.judge.stopped_claiming(self.name)
        if self.task.done():
            self.alive = False
            self.loop.dead = True
            self.judge.stopped_claiming(self.name)
            if self.task.exception() is not None:
                self.judge.violation(f"{self.name}: the election ended with {self.task.exception()!r}")

    def _changed(self, leading: bool) -> None:
        self.world.note(f"{self.name} {'leads' if leading else 'does not lead'}")
        loop = self.loop
        self.world.at(self.world.now, lambda: self._probe(loop))

    # The application beside it.

    def _probe(self, loop: LocalLoop) -> None:
        if loop is self.loop and not loop.dead and self.reads:
            for path in ("/", "/v1/leading", "/v1/leader"):
                self._ask("GET", path, "")

    def _read_again(self, loop: LocalLoop, path: str) -> None:
        if loop is not self.loop or loop.dead:
            return
        self._ask("GET", path, "")
        pause = self.world.rng.uniform(0.3, 2.0) * self.timing.belief
        self.world.at(self.world.now + pause, lambda: self._read_again(loop, path))

    def _ask(self, method: str, path: str, query: str) -> None:
        asked, loop = self.world.now, self.loop

        def answer() -> None:
            reply = _finish(self.answers(Request(method, path, query, "127.0.0.1")))
            # If it froze between computing and sending, the answer arrives after the freeze.
            self.world.at(max(self.world.now, loop.frozen_until), lambda: self._heard(path, asked, reply))

        self._as_process(answer)

    def _heard(self, path: str, asked: float, reply: Reply) -> None:
        """The application has an answer, and acts on it for as long as it may, counted from before its request."""
        assert isinstance(reply.body, bytes)
        if asked <= self.resigned_at:
            return  # it has given up since
        body = json.loads(reply.body)
        if path == "/v1/leader":
            seconds = body["expires_in"] if body["leading"] else 0.0
        elif path == "/v1/leading":
            seconds = self.timing.belief if reply.status == 200 else 0.0
        else:
            seconds = self.timing.belief if body["name"] == self.name else 0.0
        if self.stopping and self.sidecar is Sidecar.NATIVE:
            return
        self.judge.believes(self.name, self.world.now, asked + seconds / self.clock.rate)


def _finish(coroutine: Coroutine[Any, Any, Reply]) -> Reply:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result = stop.value
        assert isinstance(result, Reply)
        return result
    raise AssertionError("the answer waited")
