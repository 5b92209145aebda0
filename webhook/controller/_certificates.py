"""Certificates: making an authority, signing with it, and reading what is stored. Nothing here reads a clock.

Elliptic-curve keys (P-256): small, fast, and known to every API server.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from webhook.controller._errors import UnusableCertificate

__all__ = ["Issuer", "ends", "fingerprint", "hosts_of", "in_pem", "is_signed_by", "make_issuer", "read_bundle", "read_pair"]

_BACKDATED = timedelta(hours=1)
"""The API server's clock may be behind ours."""


class Issuer:
    """An authority: its certificate and the key that signs."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def read(cls, certificate: x509.Certificate, key_pem: bytes) -> Issuer:
        """The authority with that certificate. Raises `UnusableCertificate` when the key is none, or another's."""
        return cls(certificate, _read_key(key_pem, certificate))

    @property
    def key_pem(self) -> bytes:
        """The key, unencrypted."""
        return _key_pem(self._key)

    def sign(self, hosts: Sequence[str], now: float, seconds: float) -> tuple[bytes, bytes]:
        """A new server certificate for those names and IP addresses, and its key, both PEM.

        It is valid for `seconds` from `now` (seconds since 1970), and never longer than the authority.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        until = min(_time(now + seconds), self.certificate.not_valid_after_utc)
        # A common name has at most 64 characters; clients read the alternative names.
        builder = (
            _builder(_name("leader-election webhook"), self.certificate.subject, key, now, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(names, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        return in_pem([builder.sign(self._key, hashes.SHA256())]), _key_pem(key)


def make_issuer(now: float, seconds: float) -> Issuer:
    """A new authority, valid for `seconds` from `now` (seconds since 1970)."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Of its own name, so that nobody mistakes one for its successor.
    name = _name(f"leader-election CA {secrets.token_hex(4)}")
    builder = (
        _builder(name, name, key, now, _time(now + seconds))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return Issuer(builder.sign(key, hashes.SHA256()), key)


def read_bundle(pem: bytes) -> list[x509.Certificate]:
    """The certificates in `pem`; none when it holds anything else, as after somebody wrote nonsense into it."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        return []


def read_pair(certificate_pem: bytes, key_pem: bytes) -> x509.Certificate:
    """The certificate. Raises `UnusableCertificate` when there is none, or the key is not its own."""
    found = read_bundle(certificate_pem)
    if not found:
        raise UnusableCertificate("tls.crt holds no certificate")
    _read_key(key_pem, found[0])
    return found[0]


def ends(certificate: x509.Certificate) -> float:
    """When it ends, in seconds since 1970."""
    return certificate.not_valid_after_utc.timestamp()


def fingerprint(certificate: x509.Certificate) -> bytes:
    """Tells one certificate from any other."""
    return certificate.fingerprint(hashes.SHA256())


def in_pem(certificates: Sequence[x509.Certificate]) -> bytes:
    """All of them, one after the other."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def hosts_of(certificate: x509.Certificate) -> set[str]:
    """The names and IP addresses that it is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return set()
    return {str(name.value) for name in names}


def is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether that authority signed it."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _read_key(pem: bytes, certificate: x509.Certificate) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise UnusableCertificate("the key cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise UnusableCertificate("the key is not the certificate's own")
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _time(seconds: float) -> datetime:
    # Certificates know whole seconds.
    return datetime.fromtimestamp(int(seconds), UTC)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: float, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now) - _BACKDATED)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
