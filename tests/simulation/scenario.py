"""One seed: a handful of candidates, at least ten faults over at least 30 ttl, then quiet, and a leader within the bound."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from elector._election import Sidecar
from elector._objects import RECORD
from elector._record import lease_seconds
from elector._timing import Timing
from tests.simulation.judge import Judge
from tests.simulation.pods import Pod
from tests.simulation.server import ENDPOINTS, LEASES, ApiServer
from tests.simulation.world import BusyError, World

__all__ = ["Outcome", "run_seed"]

_FAULTY_TTLS = 30.0


@dataclass(slots=True)
class Outcome:
    """What came of one seed; times in simulated seconds."""

    seed: int
    violations: list[str]
    seconds: float
    elections: int
    longest_gap: float
    faults: Counter[str]
    log: list[str] = field(default_factory=list)


# Which kinds of lock the candidates of one election may have at a time: one, or two while a cluster moves on (rule 10).
_KINDS = [["endpoints"]] * 4 + [["leases"], ["endpointsleases"], ["endpoints", "endpointsleases"], ["endpointsleases", "leases"]]


class _Scenario:
    def __init__(self, seed: int, keep_log: bool) -> None:
        self.world = World(seed)
        self.world.keep_log = keep_log
        rng = self.rng = self.world.rng
        self.ttl = ttl = rng.choice([10.0, 15.0, round(rng.uniform(1.0, 6.0), 3), round(rng.uniform(1.0, 60.0), 2)])
        self.timing = Timing.of(ttl)
        if rng.random() < 0.2:
            deadline = rng.uniform(0.4, 0.9) * ttl
            self.timing = Timing.of(ttl, deadline, rng.uniform(0.15, 0.5) * deadline)
        self.server = ApiServer()
        self.kinds = rng.choice(_KINDS)
        self.judge = Judge(self.world)
        self.faults: Counter[str] = Counter()
        self.pods: list[Pod] = []
        # The end of the last disturbance: windows, freezes, messages still under way.
        self.quiet_at = 0.0
        self.longest_lease = 0
        for number in range(rng.randint(3, 7)):
            self.world.at(rng.uniform(0, ttl) * rng.random(), lambda number=number: self._add_pod(number))  # type: ignore[misc]

    def _add_pod(self, number: int) -> None:
        sidecar = self.rng.choice(list(Sidecar))
        reads = self.rng.random() < 0.85
        kind = self.rng.choice(self.kinds)
        self.pods.append(Pod(self.world, self.server, self.judge, f"pod-{number}", kind, self.timing, sidecar, reads=reads))

    def run(self, seed: int) -> Outcome:
        world, rng, ttl = self.world, self.rng, self.ttl
        end = _FAULTY_TTLS * ttl
        when = ttl * rng.uniform(0.5, 3.0)
        times = []
        while when < end:
            times.append(when)
            when += rng.expovariate(1 / (1.5 * ttl))
        while len(times) < 10:
            times.append(rng.uniform(ttl, end))
        for time in sorted(times):
            world.at(time, self._fault)
        world.run(end)
        self._calm_down()
        quiet = max(end, self.quiet_at)
        world.run(quiet)
        before = self._leader_bound()
        world.run(quiet + before)
        if self.judge.leader_now() is None:
            self.judge.violation(f"nobody leads {before:.3f} s after the last fault")
        failures = [failure for pod in self.pods for failure in pod.loop.failures]
        for failure in failures:
            self.judge.violation(f"an unhandled error: {failure!r}")
        judge = self.judge
        return Outcome(seed, judge.violations, world.now, judge.elections, judge.longest_gap, self.faults, world.log)

    def bury(self) -> None:
        """End every process there ever was in an orderly way."""
        for pod in self.pods:
            pod.alive = False
            for loop, task in pod.processes:
                loop.bury(task)
        self.world.run(self.world.now + self.ttl)

    def _leader_bound(self) -> float:
        """Design's bound after a crash is 1.02 ttl + one retry + the spread + one time-out; what quiet begins with may be worse:
        a lock seen lost and created anew (two looks), a candidate that resigned a moment ago."""
        timing = self.timing
        return 1.02 * (1.02 * self._longest_wait() + 3 * timing.retry_period + timing.spread)

    def _longest_wait(self) -> float:
        return max(lease_seconds(self.ttl), self.longest_lease)

    def _calm_down(self) -> None:
        """Nothing new goes wrong; whoever is down comes back."""
        self.judge.on_new_leader = lambda: None
        for pod in self.pods:
            pod.weather.errors = ()
            pod.loop.freeze_in = pod.freeze_in_readings = -1
            if not pod.alive:
                pod.start()

    # The faults.

    def _fault(self) -> None:
        kind = self.rng.choice(list(_FAULTS))
        # Half of them hit whoever leads: that is where they hurt.
        leader = next((pod for pod in self.pods if pod.name == self.judge.leader_now()), None)
        pod = leader if leader is not None and self.rng.random() < 0.5 else self.rng.choice(self.pods) if self.pods else None
        if pod is None:
            return
        self.faults[kind] += 1
        self.world.note(f"fault: {kind} ({pod.name})")
        _FAULTS[kind](self, pod)

    def _window(self, pod: Pod, longest: float, name: str, value: object, calm: object) -> None:
        """Bad weather for one pod (or, now and then, for all) for a while."""
        pods = self.pods if self.rng.random() < 0.25 else [pod]
        length = self.rng.uniform(0.1, longest) * self.ttl
        self._disturbed_for(length + 3 * self.ttl)
        for one in pods:
            setattr(one.weather, name, value)

        def clear() -> None:
            for one in pods:
                setattr(one.weather, name, calm)

        self.world.at(self.world.now + length, clear)

    def _disturbed_for(self, seconds: float) -> None:
        self.quiet_at = max(self.quiet_at, self.world.now + seconds)

    def lose_requests(self, pod: Pod) -> None:
        self._window(pod, 2.0, "lose_request", self.rng.choice([0.3, 1.0]), 0.0)

    def lose_replies(self, pod: Pod) -> None:
        self._window(pod, 2.0, "lose_reply", self.rng.choice([0.3, 1.0]), 0.0)

    def late_requests(self, pod: Pod) -> None:
        self._window(pod, 2.0, "late_request", self.rng.uniform(0.1, 3.0) * self.ttl, 0.0)

    def late_replies(self, pod: Pod) -> None:
        self._window(pod, 2.0, "late_reply", self.rng.uniform(0.1, 3.0) * self.ttl, 0.0)

    def double_requests(self, pod: Pod) -> None:
        self._window(pod, 3.0, "double", 0.7, 0.0)

    def error_replies(self, pod: Pod) -> None:
        self._window(pod, 2.0, "errors", self.rng.choice([(429,), (500,), (503,), (429, 500, 503)]), ())

    def server_restart(self, pod: Pod) -> None:
        del pod
        self.server.up = False
        self.server.end_watches()
        length = self.rng.uniform(0.05, 1.5) * self.ttl
        self._disturbed_for(length + self.ttl)

        def back() -> None:
            self.server.up = True

        self.world.at(self.world.now + length, back)

    def stalled_watch(self, pod: Pod) -> None:
        """Watch streams stay open and bring nothing, of one pod or of all."""
        length = self.rng.uniform(0.1, 3.0) * self.ttl
        self._disturbed_for(length + self.ttl)
        for one in self.pods if self.rng.random() < 0.3 else [pod]:
            one.weather.stalled_until = self.world.now + length

    def late_watch(self, pod: Pod) -> None:
        self._window(pod, 2.0, "late_watch", self.rng.uniform(0.1, 2.0) * self.ttl, 0.0)

    def watch_gone(self, pod: Pod) -> None:
        """410: the API server has forgotten what the watches ask for."""
        del pod
        self.server.compact()
        self.server.end_watches()

    def freeze(self, pod: Pod) -> None:
        seconds = self.rng.uniform(0.1, 3.0) * self.ttl
        self._disturbed_for(seconds)
        pod.freeze(seconds)

    def freeze_at_await(self, pod: Pod) -> None:
        pod.loop.freeze_in = self.rng.randrange(40)
        pod.loop.freeze_for = self.rng.uniform(0.1, 3.0) * self.ttl
        self._disturbed_for(5 * self.ttl)

    def freeze_after_reading_the_clock(self, pod: Pod) -> None:
        pod.freeze_in_readings = self.rng.randrange(40)
        pod.freeze_for = self.rng.uniform(0.1, 3.0) * self.ttl
        self._disturbed_for(5 * self.ttl)

    def wall_clock_steps(self, pod: Pod) -> None:
        """Somebody sets the machine's clock."""
        pod.clock.wall_error += self.rng.choice([-1, 1]) * self.rng.uniform(0.5, 20.0) * self.ttl

    def kill(self, pod: Pod) -> None:
        if not pod.alive:
            return
        pod.kill()
        pause = self.rng.choice([0.01, 0.3, 2.0]) * self.rng.random() * self.ttl
        self._disturbed_for(pause)
        if self.rng.random() < 0.3:
            # The pod is gone as a whole: the one that follows has its name, but another application and instance.
            pod.new_pod()
        self._start_later(pod, pause)

    def sigterm(self, pod: Pod) -> None:
        if not pod.alive or pod.stopping:
            return
        pod.sigterm()
        grace = self.rng.choice([0.5, 4.0]) * self.ttl
        self._disturbed_for(grace + self.ttl)
        if pod.sidecar is Sidecar.CLASSIC and self.rng.random() < 0.5:
            self.world.at(self.world.now + self.rng.random() * grace, lambda: pod.resign() if pod.alive else None)

        def gone() -> None:
            if pod.alive and pod.stopping:
                pod.kill()
            if not pod.alive:
                pod.new_pod()
                self._start_later(pod, self.rng.random() * self.ttl)

        self.world.at(self.world.now + grace, gone)

    def _start_later(self, pod: Pod, pause: float) -> None:
        self.world.at(self.world.now + pause, lambda: None if pod.alive else pod.start())

    def resign(self, pod: Pod) -> None:
        if pod.alive:
            self._disturbed_for(self.ttl)
            pod.resign()

    def unhealthy(self, pod: Pod) -> None:
        """The application stops answering its health URL, and answers again later."""
        pause = self.rng.uniform(0.1, 2.0) * self.ttl
        self._disturbed_for(pause + self.ttl)
        pod.set_healthy(False)
        self.world.at(self.world.now + pause, lambda: pod.set_healthy(True))

    def delete_lock(self, pod: Pod) -> None:
        del pod
        self._disturbed_for(self.timing.retry_period)
        self.server.delete(self.rng.choice([ENDPOINTS, LEASES]) if self.server.objects.get(LEASES) else ENDPOINTS)

    def late_write_to_a_deleted_lock(self, pod: Pod) -> None:
        """What the leader has sent arrives after another has taken over and the lock has been deleted."""
        leader = next((one for one in self.pods if one.name == self.judge.leader_now()), pod)
        leader.weather.late_request = 4 * self.ttl
        self._disturbed_for(8 * self.ttl)

        def delete() -> None:
            leader.weather.late_request = 0.0
            self.server.delete()

        def changed() -> None:
            self.judge.on_new_leader = lambda: None
            self.world.at(self.world.now + self.rng.random() * self.ttl, delete)

        self.judge.on_new_leader = changed
        self.world.at(self.world.now + 3 * self.ttl, lambda: setattr(leader.weather, "late_request", 0.0))

    def stranger_overwrites(self, pod: Pod) -> None:
        """A record of somebody else's: a stranger's name or a candidate's, any lease, any times."""
        holder = self.rng.choice(["stranger", pod.name, self.rng.choice(self.pods).name])
        # A shorter lease than ours shortens all claims for good, so it must not happen in every run.
        lease = self.rng.choice([lease_seconds(self.ttl)] * 8 + [lease_seconds(self.ttl / 2), lease_seconds(2 * self.ttl)])
        stamp = self.rng.choice(["2016-01-01T00:00:00Z", "2099-12-31T23:59:59.123456Z", "now"])
        record = {"holderIdentity": holder, "leaseDurationSeconds": lease, "acquireTime": stamp, "renewTime": stamp}
        self._disturbed_for(lease + self.ttl)
        self.longest_lease = max(self.longest_lease, lease)
        if self.server.objects.get(LEASES) and self.rng.random() < 0.5:
            self.server.overwrite_lease({**record, "leaseTransitions": self.rng.randrange(9)})
        else:
            self.server.overwrite(RECORD, json.dumps({**record, "leaderTransitions": self.rng.randrange(9)}))

    def garbage_record(self, pod: Pod) -> None:
        texts = [None, "", "garbage", "[]", "{}", '{"holderIdentity":7}', '{"holderIdentity":"x","leaseDurationSeconds":0}']
        texts += [f'{{"holderIdentity":"{pod.name}","leaseDurationSeconds":99999}}', "[" * 2000]
        self._disturbed_for(self.timing.retry_period)
        if self.server.objects.get(LEASES) and self.rng.random() < 0.5:
            # The API server refuses a spec that is not one; what it takes is one without a holder.
            self.server.overwrite_lease({})
        else:
            self.server.overwrite(RECORD, self.rng.choice(texts))

    def touched_by_others(self, pod: Pod) -> None:
        del pod
        for _ in range(self.rng.randrange(1, 20)):
            self.world.at(self.world.now + self.rng.random() * self.ttl, self.server.touch)


_FAULTS: dict[str, Callable[[_Scenario, Pod], None]] = {
    name: getattr(_Scenario, name)
    for name in (
        "lose_requests",
        "lose_replies",
        "late_requests",
        "late_replies",
        "double_requests",
        "error_replies",
        "server_restart",
        "stalled_watch",
        "late_watch",
        "watch_gone",
        "freeze",
        "freeze_at_await",
        "freeze_after_reading_the_clock",
        "wall_clock_steps",
        "kill",
        "sigterm",
        "resign",
        "unhealthy",
        "delete_lock",
        "late_write_to_a_deleted_lock",
        "stranger_overwrites",
        "garbage_record",
        "touched_by_others",
    )
}


def run_seed(seed: int, *, keep_log: bool = False) -> Outcome:
    """Run one seed; the same seed always gives the same run."""
    log = logging.getLogger("elector")
    level = log.level
    log.setLevel(logging.CRITICAL)
    scenario = _Scenario(seed, keep_log)
    try:
        return scenario.run(seed)
    except BusyError as error:
        return Outcome(seed, [str(error)], scenario.world.now, 0, 0.0, scenario.faults, scenario.world.log)
    finally:
        scenario.bury()
        log.setLevel(level)
