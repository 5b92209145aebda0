"""When which certificate is made: rules over what is stored, without a clock, an API server or a memory of its own.

A certificate is served only when its authority has been published for a while, and an authority stays published until it
ends. It outlives all that it signed, so at no moment is there a served certificate that the API server does not trust.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cryptography import x509

from webhook.controller._certificates import (
    Issuer,
    ends,
    hosts_of,
    in_pem,
    is_signed_by,
    make_issuer,
    read_bundle,
    read_pair,
)
from webhook.controller._errors import UnusableCertificate
from webhook.controller._settings import Rules

__all__ = ["Material", "Step", "begin", "next_step"]

_CERTIFICATE, _KEY, _AUTHORITIES, _AUTHORITY_KEY = "tls.crt", "tls.key", "ca.crt", "ca.key"


@dataclass(frozen=True, slots=True)
class Material:
    """All that the Secret holds: the certificate that is served, and the authorities that are trusted, the newest first."""

    authorities: tuple[x509.Certificate, ...]
    authority_key: bytes
    """Of the newest; nothing is signed by older ones any more."""
    certificate: bytes
    key: bytes

    @classmethod
    def read(cls, data: Mapping[str, bytes]) -> Material:
        """What a Secret holds. Raises `UnusableCertificate` when nothing can be signed or served with it."""
        authorities = read_bundle(data.get(_AUTHORITIES, b""))
        if not authorities:
            raise UnusableCertificate(f"{_AUTHORITIES} holds no certificate")
        Issuer.read(authorities[0], data.get(_AUTHORITY_KEY, b""))
        read_pair(data.get(_CERTIFICATE, b""), data.get(_KEY, b""))
        return cls(tuple(authorities), data[_AUTHORITY_KEY], data[_CERTIFICATE], data[_KEY])

    def data(self) -> dict[str, bytes]:
        """As it stands in the Secret, whose type kubernetes.io/tls asks for the first two."""
        return {
            _CERTIFICATE: self.certificate,
            _KEY: self.key,
            _AUTHORITIES: in_pem(self.authorities),
            _AUTHORITY_KEY: self.authority_key,
        }

    @property
    def newest(self) -> x509.Certificate:
        """The authority that signs."""
        return self.authorities[0]

    @property
    def bundle(self) -> bytes:
        """What the API server is to trust, PEM."""
        return in_pem(self.authorities)

    @property
    def served(self) -> x509.Certificate:
        """The certificate that the webhook serves with."""
        return read_bundle(self.certificate)[0]


@dataclass(frozen=True, slots=True)
class Step:
    """What to do next: store `material` (when not None) because of `why`; look again in `again` seconds at the latest."""

    material: Material | None
    why: str
    again: float


def begin(rules: Rules, trusted: Sequence[x509.Certificate], now: float) -> Material:
    """Material where none is stored. `trusted` is what the API server trusts so far: what still is served may rest on it."""
    issuer = make_issuer(now, rules.authority_lifetime)
    certificate, key = issuer.sign(rules.hosts, now, rules.certificate_lifetime)
    older = [authority for authority in trusted if ends(authority) > now]
    return Material((issuer.certificate, *older), issuer.key_pem, certificate, key)


def next_step(material: Material, published_for: float | None, rules: Rules, now: float) -> Step:
    """The next change of what is stored, if any is due.

    `published_for` is how long the API server has been known to trust the newest authority, in seconds; None: it does not.
    """
    kept = tuple(one for one in material.authorities if one is material.newest or ends(one) > now)
    if len(kept) < len(material.authorities):
        return Step(replace(material, authorities=kept), "an authority has ended", 0.0)
    renew_authority = ends(material.newest) - 2 * rules.certificate_lifetime - now
    if renew_authority <= 0:
        issuer = make_issuer(now, rules.authority_lifetime)
        stored = replace(material, authorities=(issuer.certificate, *kept), authority_key=issuer.key_pem)
        return Step(stored, "a new authority, to be trusted before it signs what is served", 0.0)
    why = _wrong(material, rules, now)
    renew = ends(material.served) - rules.certificate_lifetime / 3 - now
    if not why:
        first_end = min(ends(one) for one in material.authorities) - now
        return Step(None, "", min(renew_authority, renew, first_end))
    if published_for is None:
        return Step(None, f"{why}, but its authority is not published yet", rules.settle)
    # Nobody trusts what has ended: nothing can be lost by serving another one at once.
    left = 0.0 if ends(material.served) <= now else rules.settle - published_for
    if left > 0:
        return Step(None, f"{why}, but its authority is published too short a time", left)
    issuer = Issuer.read(material.newest, material.authority_key)
    certificate, key = issuer.sign(rules.hosts, now, rules.certificate_lifetime)
    return Step(replace(material, certificate=certificate, key=key), why, 0.0)


def _wrong(material: Material, rules: Rules, now: float) -> str:
    """Why the served certificate has to be replaced; empty when it need not be."""
    served = material.served
    if not is_signed_by(served, material.newest):
        return "the certificate is signed by a former authority"
    if hosts_of(served) != set(rules.hosts):
        return "the certificate is for other host names"
    if ends(served) - now <= rules.certificate_lifetime / 3:
        return "the certificate is to be renewed"
    return ""
