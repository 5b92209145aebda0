"""Judges a run over true time: never two who claim, never two who believe, tokens that grow."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.world import World

__all__ = ["Judge"]

# True seconds by which floating point may make two ends meet that touch.
_TOUCH = 1e-6


class Judge:
    """Keeps until when (true time) each pod's elector claims and each pod's application believes that it leads."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._claims: dict[str, float] = {}
        self._beliefs: dict[str, float] = {}
        self._last_leader = ""
        self._last_token = 0
        self._leaderless_since = 0.0
        self.longest_gap = 0.0
        self.elections = 0
        self.violations: list[str] = []
        self.on_new_leader: Callable[[], None] = lambda: None

    def violation(self, text: str) -> None:
        self.violations.append(f"at {self._world.now:.4f}: {text}")
        self._world.note(f"VIOLATION {text}")

    def claims(self, pod: str, until: float, token: int, now: float) -> None:
        """The pod's elector would say now that it leads, until then."""
        if until <= now + _TOUCH:
            return
        self._compare(pod, now, "claims")
        if not any(end > now for end in self._claims.values()):
            gap = now - max([self._leaderless_since, *self._claims.values()])
            self.longest_gap = max(self.longest_gap, gap)
        self._claims[pod] = until
        if pod != self._last_leader or token != self._last_token:
            if token <= self._last_token:
                self.violation(f"{pod} leads with token {token} after {self._last_leader} with {self._last_token}")
            if pod != self._last_leader:
                self.on_new_leader()
            self._last_leader, self._last_token = pod, token
            self.elections += 1
            self._world.note(f"{pod} claims with token {token} until {until:.4f}")

    def stopped_claiming(self, pod: str) -> None:
        end = self._claims.pop(pod, None)
        if end is not None:
            self._leaderless_since = max(self._leaderless_since, min(end, self._world.now))

    def believes(self, pod: str, now: float, until: float) -> None:
        """The pod's application has heard that it leads and acts on it until then (true time)."""
        if until <= now + _TOUCH:
            return
        self._compare(pod, now, "believes")
        self._beliefs[pod] = max(until, self._beliefs.get(pod, 0.0))

    def application_ended(self, pod: str) -> None:
        self._beliefs.pop(pod, None)

    def leader_now(self) -> str | None:
        return next((pod for pod, end in self._claims.items() if end > self._world.now), None)

    def _compare(self, pod: str, now: float, how: str) -> None:
        for kind, ends in (("claims", self._claims), ("believes", self._beliefs)):
            for other, end in ends.items():
                if other != pod and end > now + _TOUCH:
                    self.violation(f"{pod} {how} while {other} {kind} until {end:.4f}")
