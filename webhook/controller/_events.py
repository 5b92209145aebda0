"""Events for people, few enough for the API server: a storm of them is cut, and what is repeated is counted, not written again.

See https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md#events; the bounds
are client-go's (https://pkg.go.dev/k8s.io/client-go/tools/record#CorrelatorOptions): 25 at once for one object, then one in five
minutes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime

from webhook.controller._errors import ClusterError
from webhook.controller._leader import Clock
from webhook.controller._objects import EVENTS, Json, Objects
from webhook.controller._pods import Owner

__all__ = ["CONTROLLER", "Events"]

CONTROLLER = "leader-election/controller"
"""The reporting controller of every Event of ours."""

_BURST = 25
_REFILL = 300.0
"""Seconds for one more Event about one object."""

_REPEATED = 1800.0
"""Seconds after which an Event that is still true is refreshed, as a series; API servers forget Events after an hour."""

_MOST_OBJECTS = 4096
"""Objects whose Events are remembered; the longest ago is forgotten first."""

_MOST_WAITING = 1000
_NOTE = 1024
"""Characters that the API takes."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Said:
    name: str
    at: float
    count: int


class _Budget:
    """How many Events an object may still have."""

    __slots__ = ("at", "left", "said")

    def __init__(self, now: float) -> None:
        self.left = float(_BURST)
        self.at = now
        self.said: dict[tuple[str, str], _Said] = {}

    def take(self, now: float) -> bool:
        self.left = min(_BURST, self.left + (now - self.at) / _REFILL)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Events:
    """`say` whatever is true; `run` as a task writes what is worth it. Events that cannot be written are lost, as everywhere."""

    def __init__(self, objects: Objects, clock: Clock, instance: str) -> None:
        """`instance` is the name of this replica."""
        self._objects = objects
        self._clock = clock
        self._instance = instance[:128]
        self._budgets: OrderedDict[str, _Budget] = OrderedDict()
        self._waiting: asyncio.Queue[tuple[str, Json, str]] = asyncio.Queue(_MOST_WAITING)
        self._count = 0

    @staticmethod
    def of_pod(name: str, uid: str) -> Owner:
        """A pod as what an Event is about."""
        return Owner("v1", "Pod", name, uid, "")

    def say(self, namespace: str, about: Owner, reason: str, action: str, note: str, *, warning: bool = False) -> None:
        """Something is so. Saying it again soon costs nothing."""
        now = self._clock.now()
        budget = self._budgets.setdefault(about.uid, _Budget(now))
        self._budgets.move_to_end(about.uid)
        while len(self._budgets) > _MOST_OBJECTS:
            self._budgets.popitem(last=False)
        note = note[:_NOTE]
        said = budget.said.get((reason, note))
        if said is not None:
            said.count += 1
            if now < said.at + _REPEATED:
                return
            said.at = now
            self._put((namespace, {"series": {"count": said.count, "lastObservedTime": self._time()}}, said.name))
            return
        if not budget.take(now):
            return
        if len(budget.said) >= _BURST:
            del budget.said[next(iter(budget.said))]
        self._count += 1
        name = f"{about.name[:220].rstrip('.-')}.{int(self._clock.wall() * 1e6):x}{self._count % 4096:03x}"
        budget.said[reason, note] = _Said(name, now, 1)
        body = {
            "metadata": {"name": name},
            "eventTime": self._time(),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "action": action,
            "reason": reason,
            "regarding": {
                "apiVersion": about.api,
                "kind": about.kind,
                "name": about.name,
                "namespace": namespace,
                "uid": about.uid,
            },
            "note": note,
            "type": "Warning" if warning else "Normal",
        }
        self._put((namespace, body, ""))

    async def run(self) -> None:
        """Write them until cancelled."""
        while True:
            namespace, body, name = await self._waiting.get()
            try:
                if name:
                    await self._objects.patch(EVENTS, namespace, name, body)
                else:
                    await self._objects.create(EVENTS, namespace, body)
            except ClusterError as error:
                log.info("an Event was not written: %s", error)

    def _put(self, event: tuple[str, Json, str]) -> None:
        if self._waiting.full():
            return
        self._waiting.put_nowait(event)

    def _time(self) -> str:
        return datetime.fromtimestamp(self._clock.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
