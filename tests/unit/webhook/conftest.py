"""A certificate for loopback, and the real program serving with it."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse, HTTPSConnection
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PATIENCE = 30
"""Seconds that a test waits for the program before it fails."""


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate of 127.0.0.1 and its key."""

    cert: Path
    key: Path

    def flags(self) -> list[str]:
        return ["--tls-cert-file", str(self.cert), "--tls-key-file", str(self.key)]


def make_certificate(folder: Path, days: float = 1) -> Certificate:
    """A new one in `folder`, over what was there, that ends in so many days."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "webhook")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    found = Certificate(folder / "tls.crt", folder / "tls.key")
    found.cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    found.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return found


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "webhook", *arguments]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without settings of the webhook, and with `variables`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LEADER_ELECTION_")}
    return {**kept, **variables}


@dataclass(frozen=True)
class Server:
    """The program, serving."""

    process: subprocess.Popen[str]
    port: int
    log: Path
    certificate: Certificate

    def connect(self, context: ssl.SSLContext | None = None) -> HTTPSConnection:
        trusting = context or ssl.create_default_context(cafile=str(self.certificate.cert))
        return HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=trusting)

    def request(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> tuple[HTTPResponse, bytes]:
        """One request on a connection of its own: the response and its body."""
        connection = self.connect()
        try:
            connection.request(method, path, body, {"content-type": content_type} if body is not None else {})
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()


@contextmanager
def serving(certificate: Certificate, folder: Path, *flags: str, **variables: str) -> Iterator[Server]:
    """The real program on a free port of loopback; ended at the end, if the test has not done it."""
    log = folder / "webhook.log"
    arguments = command("webhook", "--listen", "127.0.0.1:0", "--image", "elector:test", *certificate.flags(), *flags)
    with (
        log.open("w") as errors,
        subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment(**variables)) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("serving on https://127.0.0.1:"), (line, log.read_text())
            yield Server(process, int(line.rpartition(":")[2].partition("/")[0]), log, certificate)
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()


@pytest.fixture(scope="module")
def server(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(certificate, tmp_path_factory.mktemp("webhook")) as running:
        yield running
