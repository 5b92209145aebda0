"""A controller that acts, on an API server in memory of which a test knows everything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from elector.library import INSTANCE, RECORD, TOKEN
from tests.unit.controller.fake_objects import FakeObjects, pod
from tests.unit.controller.fakes import FakeClock
from webhook._marks import LEADER, role_name
from webhook.controller._granting import Granting
from webhook.controller._objects import BINDINGS, ENDPOINTS, EVENTS, LEASES, PODS, ROLES, Json

__all__ = ["ELECTION", "GRACE", "KEY", "NS", "OWN", "Scene", "run", "settle"]

NS, ELECTION = "shop", "orders.leader"
KEY = (NS, ELECTION)
OWN = ("le-system", "leader-election-controller.leader")
GRACE = 300.0


class Scene:
    """A controller that acts, on an API server of which the test knows everything."""

    def __init__(self) -> None:
        self.objects = FakeObjects()
        self.clock = FakeClock()
        self.granting = self._new()

    def _new(self) -> Granting:
        return Granting(self.objects, self.clock, grace=GRACE, own=OWN, instance="controller-a")

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Scene, None]:
        self.granting = self._new()
        task = asyncio.create_task(self.granting.run())
        await asyncio.wait_for(self.granting.ready.wait(), 5)
        await settle()
        yield self
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def after(self, seconds: float) -> None:
        """Time has passed: what is due then is looked at."""
        self.clock.time += seconds
        await self.granting.grants.settle(KEY)
        await self.granting.labels.settle(KEY)
        await settle()

    def pod(self, name: str, **more: Any) -> None:
        self.objects.put(PODS, NS, pod(name, **more))

    def lock(self, kind: str = "endpoints") -> Json | None:
        return self.objects.get(ENDPOINTS if kind == "endpoints" else LEASES, NS, ELECTION)

    def record(self) -> Json:
        found = self.lock()
        assert found is not None
        return dict(json.loads(found["metadata"]["annotations"][RECORD]))

    def hold(self, holder: str, token: int = 7, lease: int = 10) -> None:
        """A candidate writes the lock."""
        found = self.lock()
        assert found is not None
        record = self.record() | {"holderIdentity": holder, "leaseDurationSeconds": lease}
        found["metadata"]["annotations"].update({RECORD: json.dumps(record), TOKEN: str(token), INSTANCE: f"{holder}/e"})
        self.objects.put(ENDPOINTS, NS, found)

    def role(self) -> Json | None:
        return self.objects.get(ROLES, NS, role_name(ELECTION))

    def binding(self) -> Json | None:
        return self.objects.get(BINDINGS, NS, role_name(ELECTION))

    @property
    def rights(self) -> tuple[list[str], list[str]]:
        role, binding = self.role(), self.binding()
        kinds = [rule["resources"][0] for rule in role["rules"]] if role else []
        return kinds, [one["name"] for one in binding["subjects"]] if binding else []

    @property
    def labelled(self) -> list[str]:
        found = [body for (kind, _, _), body in self.objects.stored.items() if kind == "pods"]
        return [body["metadata"]["name"] for body in found if body["metadata"]["labels"].get(LEADER) == "true"]

    def events(self, reason: str) -> list[Json]:
        return [body for (kind, _, _), body in self.objects.stored.items() if kind == EVENTS.plural and body["reason"] == reason]


async def settle() -> None:
    """Let all tasks run until nothing is left to do at this moment."""
    for _ in range(300):
        await asyncio.sleep(0)


def run(test: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(20):
            await test(Scene())

    asyncio.run(whole())
