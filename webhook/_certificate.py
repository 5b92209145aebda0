"""The server's certificate, which is taken up anew when its files change.

Certificates are rotated while the webhook serves: a Secret's volume changes under it, by a symbolic link that is moved.
Looking at the files every few seconds notices that on every file system, and costs two stat calls.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from webhook._errors import ServeError

__all__ = ["Certificate", "watch", "words"]

_EVERY = 2.0
"""Seconds between two looks at the files."""

_Stamp = tuple[tuple[int, ...], ...]

log = logging.getLogger(__name__)


class Certificate:
    """A certificate chain and its key, from two PEM files, as TLS servers need them."""

    def __init__(self, cert_file: Path, key_file: Path, now: Callable[[], float] = time.time) -> None:
        """Read the files. Raises `ServeError` when they cannot be read or used. `now` is in seconds since 1970."""
        self._files = (cert_file, key_file)
        self._now = now
        self._stamp: _Stamp | None = None
        self._report: Callable[[bool], None] = lambda _taken: None
        self._stamp = _stamp(self._files)
        self._context, self.ends = _load(cert_file, key_file)
        self.context = self._context
        """For the listening socket. Each handshake gets the newest certificate, whenever the socket was opened."""
        # Called for clients that send no server name, too. A context of its own for each certificate: loading a new pair
        # into the one in use would leave it with half of each if the key turned out not to fit.
        self.context.sni_callback = self._choose

    ends: float
    """When the certificate in use ends, in seconds since 1970."""

    def on_reload(self, report: Callable[[bool], None]) -> None:
        """Call `report` after every change of the files, with whether the new certificate was taken up."""
        self._report = report

    def refresh(self) -> None:
        """Take up the files if they changed; a broken, unreadable or ended certificate is logged once, and the old one kept."""
        stamp = _stamp(self._files)
        if stamp == self._stamp:
            return
        # The stamp from before reading: what changes meanwhile is seen the next time.
        self._stamp = stamp
        try:
            context, ends = _load(*self._files)
            if ends <= self._now() < self.ends:
                raise ServeError(f"the certificate {self._files[0]} ended at {_date(ends)}")  # noqa: TRY301
        except ServeError as error:
            log.error("certificate not taken up, the old one stays until %s: %s", _date(self.ends), error)  # noqa: TRY400
            self._report(False)
            return
        self._context, self.ends = context, ends
        log.info("certificate taken up, it ends at %s", _date(ends))
        self._report(True)

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._context


async def watch(certificate: Certificate, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Refresh the certificate every few seconds, until cancelled."""
    while True:
        await sleep(_EVERY)
        certificate.refresh()


def words(error: OSError) -> str:
    """What went wrong, without the address or path that our message names already."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)


def _load(cert_file: Path, key_file: Path) -> tuple[ssl.SSLContext, float]:
    for path in (cert_file, key_file):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ServeError(f"cannot read {path}: {words(error)}") from error
        if path is cert_file:
            chain = content
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without this a key with a passphrase would ask for it on the terminal.
        context.load_cert_chain(cert_file, key_file, password=lambda: "")
        ends = x509.load_pem_x509_certificate(chain).not_valid_after_utc.timestamp()
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ServeError(f"cannot use the certificate {cert_file} with the key {key_file}: {error}") from error
    return context, ends


def _stamp(files: tuple[Path, ...]) -> _Stamp:
    """Tells one state of the files from another; through symbolic links, so that a moved link is a change."""
    return tuple(_facts(path) for path in files)


def _facts(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError as error:
        return (-1, error.errno or 0)
    return (found.st_mtime_ns, found.st_ino, found.st_dev, found.st_size)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
