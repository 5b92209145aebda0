"""Asks every pod of a workload all the time whether it leads, from when it has an address, and judges afterwards."""

from __future__ import annotations

import itertools
import json
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.node.cluster import APPS, Cluster

__all__ = ["Change", "Observer", "Reign"]

_PAUSE = 0.01
"""Seconds between two questions to one pod."""
_DISCOVER = 0.1
_ANSWER = 1.0
"""Seconds to wait for an answer: a pod that is gone gives none, not even a refusal."""


@dataclass(frozen=True)
class Reign:
    """A time in which every answer of one pod was that it leads; by this machine's monotonic clock."""

    pod: str
    token: int
    first: float
    """When the first of these answers had been received: it led by then at the latest."""
    last: float
    """When the last of these was asked for: it led until then at the least."""


@dataclass(frozen=True)
class Change:
    """From one leader to the next."""

    former: str
    successor: str
    leaderless: float
    """Seconds between the last answer of the former and the first of its successor that they lead."""
    after_end: float
    """Seconds from the last answer of any kind by the former, after which it was gone, to the successor's first that it leads.

    Negative when the former went on answering."""


class Observer:
    """`with Observer(cluster, namespace) as observer:`; the pods' electors have to listen on all addresses."""

    def __init__(self, cluster: Cluster, namespace: str, *, selector: str = APPS, port: int = 4040) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._selector = selector
        self._port = port
        self._stop = threading.Event()
        self._threads: dict[str, threading.Thread] = {}
        self._reigns: list[Reign] = []
        self._open: dict[str, Reign] = {}
        self._last_answer: dict[str, float] = {}
        self._lock = threading.Lock()
        self._discovering = threading.Thread(target=self._discover, daemon=True)
        self.asked = 0
        """How many answers there were."""

    def __enter__(self) -> Observer:
        self._discovering.start()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._stop.set()
        for thread in (self._discovering, *self._threads.values()):
            thread.join(15)
        if kind is None:
            self.check()

    @property
    def leader(self) -> str:
        """Who leads now, by its own word; "" when nobody does."""
        with self._lock:
            return next(iter(self._open), "")

    @property
    def leaders(self) -> list[str]:
        """Who has led, in order, without repetitions."""
        names: list[str] = []
        for reign in self.reigns:
            if not names or names[-1] != reign.pod:
                names.append(reign.pod)
        return names

    def check(self) -> None:
        """There never were two, and a later leader had a higher token."""
        reigns = self.reigns
        assert reigns, f"nobody ever led, in {self.asked} answers"
        for before, after in itertools.pairwise(reigns):
            if before.pod != after.pod:
                assert after.first >= before.last, (
                    f"{after.pod} led {before.last - after.first:.3f} s before {before.pod} had stopped to"
                )
                assert after.token > before.token, (before, after)

    def changes(self) -> list[Change]:
        """All changes of leader, in order."""
        reigns = self.reigns
        return [
            Change(
                before.pod,
                after.pod,
                after.first - before.last,
                after.first - self._last_answer[before.pod],
            )
            for before, after in itertools.pairwise(reigns)
            if before.pod != after.pod
        ]

    def leaderless(self) -> list[float]:
        """Seconds of each time without a leader, between the first and the last one."""
        reigns = self.reigns
        return [after.first - before.last for before, after in itertools.pairwise(reigns)]

    @property
    def reigns(self) -> list[Reign]:
        """Who led when, in order."""
        with self._lock:
            return sorted((*self._reigns, *self._open.values()), key=lambda reign: reign.first)

    def _discover(self) -> None:
        while not self._stop.wait(_DISCOVER):
            found = self._cluster.core.list_namespaced_pod(self._namespace, label_selector=self._selector).items
            for pod in found:
                name, address = pod.metadata.name, pod.status.pod_ip
                if address and name not in self._threads and pod.status.phase not in ("Succeeded", "Failed"):
                    thread = threading.Thread(target=self._watch, args=(name, address), daemon=True)
                    self._threads[name] = thread
                    thread.start()

    def _watch(self, pod: str, address: str) -> None:
        while not self._stop.wait(_PAUSE):
            asked = time.monotonic()
            body: dict[str, Any] = {"leading": False}
            with suppress(OSError, ValueError):
                body = json.loads(self._cluster.get(address, self._port, "/v1/leader", timeout=_ANSWER)[1])
            self._note(pod, asked, time.monotonic(), body)

    def _note(self, pod: str, asked: float, received: float, body: dict[str, Any]) -> None:
        with self._lock:
            former = self._open.get(pod)
            if "name" in body:
                self.asked += 1
                self._last_answer[pod] = asked
            if body["leading"]:
                if former is None or former.token != body["token"]:
                    self._close(pod)
                    self._open[pod] = Reign(pod, body["token"], received, asked)
                else:
                    self._open[pod] = Reign(pod, former.token, former.first, asked)
            else:
                self._close(pod)

    def _close(self, pod: str) -> None:
        reign = self._open.pop(pod, None)
        if reign is not None:
            self._reigns.append(reign)
