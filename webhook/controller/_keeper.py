"""Keeps the Secret and the registration's caBundle as the rules of `_rotation` want them, whoever changes them meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable

from cryptography import x509

from webhook.controller._certificates import ends, fingerprint, read_bundle
from webhook.controller._cluster import Cluster, Registration, StoredSecret
from webhook.controller._errors import Conflict, UnusableCertificate
from webhook.controller._leader import Clock
from webhook.controller._rotation import Material, begin, next_step
from webhook.controller._settings import Rules

__all__ = ["Keeper"]

_STEPS = 10
"""Changes in one go; a healthy rotation takes two."""

log = logging.getLogger(__name__)


class Keeper:
    """Looks at both objects and puts right what is not. It remembers only since when an authority is known to be trusted."""

    def __init__(self, cluster: Cluster, rules: Rules, clock: Clock, leads: Callable[[], bool] = lambda: True) -> None:
        """`leads` is asked before every write: a replica that was overtaken leaves things to its successor."""
        self._cluster = cluster
        self._rules = rules
        self._clock = clock
        self._leads = leads
        self._published: dict[bytes, float] = {}
        self._draft: Material | None = None
        self.material: Material | None = None
        """What was stored when it was last looked at."""
        self.published = False
        """Whether the registration was found, or put, right when it was last looked at."""
        self.repairs = 0
        """How often the registration's caBundle was written."""

    async def look(self) -> float:
        """Look, and do what is due. Returns in how many seconds to look again at the latest.

        Raises `ClusterError` when the API server cannot be asked. Conflicts are settled by looking again.
        """
        for _ in range(_STEPS):
            if not self._leads():
                return 0.0
            try:
                again = await self._turn()
            except Conflict as conflict:
                log.info("changed by somebody else, looking again: %s", conflict)
                continue
            if again > 0:
                return again
        return 1.0

    async def _turn(self) -> float:
        """One change at most; returns 0 after one, else in how many seconds something is due."""
        secret = await self._cluster.read_secret()
        registration = await self._cluster.read_registration()
        self.material = material = self._read(secret)
        if material is None:
            return await self._begin(secret, registration)
        self._draft = None
        if await self._publish(registration, material):
            return 0.0
        now = self._clock.wall()
        step = next_step(material, self._published_for(material.newest), self._rules, now)
        if step.material is None:
            return max(step.again, 0.1)
        assert secret is not None
        if not self._leads():
            return 0.0
        await self._cluster.replace_secret(secret, step.material.data())
        log.info("%s: stored (it ends at %s)", step.why, step.material.served.not_valid_after_utc.isoformat())
        return 0.0

    async def _begin(self, secret: StoredSecret | None, registration: Registration | None) -> float:
        """Nothing usable is stored. What still is served may be trusted, so a successor is announced before it is stored."""
        trusted = [] if registration is None else _trusted(registration)
        if self._draft is None:
            self._draft = begin(self._rules, trusted, self._clock.wall())
        draft = self._draft
        if any(ends(authority) > self._clock.wall() for authority in draft.authorities[1:]):
            if await self._publish(registration, draft):
                return 0.0
            waited = self._published_for(draft.newest)
            if waited is not None and waited < self._rules.settle:
                return max(self._rules.settle - waited, 0.1)
        if not self._leads():
            return 0.0
        try:
            if secret is None:
                await self._cluster.create_secret(draft.data())
            else:
                await self._cluster.replace_secret(secret, draft.data())
        finally:
            self._draft = None
        log.info("a new authority and a certificate: stored")
        return 0.0

    async def _publish(self, registration: Registration | None, material: Material) -> bool:
        """Let the API server trust what `material` says; returns whether something had to be written for that."""
        self.published = False
        if registration is None:
            self._published.clear()
            return False
        # What somebody removed counts anew from when it is put back.
        everywhere = [_fingerprints(bundle) for bundle in registration.bundles.values()]
        in_all = set.intersection(*everywhere) if everywhere else set()
        now = self._clock.now()
        self._published = {one: self._published.get(one, now) for one in in_all}
        wanted = {fingerprint(authority) for authority in material.authorities}
        if all(found == wanted for found in everywhere):
            self.published = True
            return False
        if not self._leads():
            return False
        await self._cluster.publish(registration, material.bundle)
        self.repairs += 1
        log.info("caBundle written: %d authorities", len(material.authorities))
        return True

    def _published_for(self, authority: x509.Certificate) -> float | None:
        since = self._published.get(fingerprint(authority))
        return None if since is None else self._clock.now() - since

    def _read(self, secret: StoredSecret | None) -> Material | None:
        if secret is None:
            return None
        try:
            return Material.read(secret.data)
        except UnusableCertificate as error:
            log.warning("the Secret is unusable, starting over: %s", error)
            return None


def _fingerprints(pem: bytes) -> set[bytes]:
    return {fingerprint(certificate) for certificate in read_bundle(pem)}


def _trusted(registration: Registration) -> list[x509.Certificate]:
    found = {fingerprint(one): one for bundle in registration.bundles.values() for one in read_bundle(bundle)}
    return list(found.values())
