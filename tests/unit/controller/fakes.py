"""A cluster in memory that compares versions as the API server does, and a clock that stands still until told."""

import asyncio
from collections.abc import Mapping
from typing import Any

from webhook.controller._cluster import Registration, StoredSecret
from webhook.controller._errors import ClusterError, Conflict
from webhook.controller._settings import Rules

__all__ = ["DAY", "RULES", "FakeClock", "FakeCluster"]

DAY = 86_400.0
RULES = Rules(("webhook.ns.svc", "127.0.0.1"), certificate_lifetime=30 * DAY, authority_lifetime=365 * DAY, settle=30.0)
"""The chart's defaults."""


class FakeClock:
    """Both readings move together, as on a machine whose clock is right."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self.time = start

    def now(self) -> float:
        return self.time - 1_700_000_000.0

    def wall(self) -> float:
        return self.time


class FakeCluster:
    """One Secret and one registration. Every call gives others a chance to run, before it takes effect."""

    def __init__(self) -> None:
        self.secret: dict[str, bytes] | None = None
        self.bundle: bytes | None = b""
        """What the registration trusts; None: there is no registration."""
        self.version = 1
        self.down = False
        self.writes: list[str] = []

    async def _reached(self) -> None:
        await asyncio.sleep(0)
        if self.down:
            raise ClusterError("no reply within 5 s")

    def _wrote(self, what: str) -> None:
        self.version += 1
        self.writes.append(what)

    async def read_secret(self) -> StoredSecret | None:
        await self._reached()
        return None if self.secret is None else StoredSecret(dict(self.secret), {"version": self.version})

    async def create_secret(self, data: Mapping[str, bytes]) -> None:
        await self._reached()
        if self.secret is not None:
            raise Conflict("exists")
        self.secret = dict(data)
        self._wrote("create")

    async def replace_secret(self, base: StoredSecret, data: Mapping[str, bytes]) -> None:
        await self._reached()
        raw: dict[str, Any] = base.raw
        if self.secret is None or raw["version"] != self.version:
            raise Conflict("changed")
        self.secret = dict(data)
        self._wrote("replace")

    async def read_registration(self) -> Registration | None:
        await self._reached()
        return None if self.bundle is None else Registration(str(self.version), {"inject": self.bundle})

    async def publish(self, base: Registration, bundle: bytes) -> None:
        await self._reached()
        if self.bundle is None or base.version != str(self.version):
            raise Conflict("changed")
        self.bundle = bundle
        self._wrote("publish")
