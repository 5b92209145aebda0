"""What the controller is told, by flags."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from webhook._durations import SECOND, parse_duration
from webhook._errors import SettingsError, quoted
from webhook._names import LONGEST_NAME
from webhook._values import address, subdomain

__all__ = ["Names", "Rules", "Settings", "add_flags", "read_settings"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Names:
    """The objects that the controller looks after."""

    namespace: str
    secret: str
    registration: str
    lock: str
    owner: str
    """The Deployment that the Secret and the lock go away with; empty: none."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the certificates are to be like. Times are in seconds."""

    hosts: tuple[str, ...]
    certificate_lifetime: float
    authority_lifetime: float
    """At least three times as long: it is replaced when twice a certificate's lifetime is left."""
    settle: float
    """From when a new authority is published until a certificate that it signed may be served."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that the controller is told."""

    names: Names
    rules: Rules | None
    """None: somebody else makes the certificates."""
    grace: float | None
    """Seconds for which rights outlive the last pod that needs them; None: somebody else gives the rights."""
    identity: str
    instance: str
    ttl: float
    """Seconds; of the controller's own election."""
    status: tuple[str, int]
    """Host (empty: every address) and port of probes and metrics."""


def _parsed(parse: Callable[[str], T], allowed: str) -> Callable[[str], T]:
    """`parse` with a message that says what is allowed."""

    def checked(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{quoted(text)} is not allowed, allowed is {allowed}") from error

    return checked


def _seconds(text: str) -> float:
    nanoseconds = parse_duration(text)
    if nanoseconds < 0:
        raise ValueError(text)
    return nanoseconds / SECOND


def _hosts(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_host(host) for host in text.split(",")))


def _host(text: str) -> str:
    """As a certificate spells it, since the one that is stored is compared with what is asked for."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(text))
    return subdomain(text.lower())


_NAME = _parsed(subdomain, "the name of an object, a DNS subdomain")
_DURATION = _parsed(_seconds, "a duration such as 30s, 15m or 720h")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add all flags."""

    def add(flag: str, metavar: str, means: str, **options: Any) -> None:
        default = options.get("default")
        shown = "required" if options.get("required") else f"default {default}" if default else ""
        parser.add_argument(flag, metavar=metavar, help=f"{means} ({shown})" if shown else means, **options)

    add("--namespace", "NAME", "namespace of the Secret, the lock and the owner", type=_NAME, required=True)
    add("--registration", "NAME", "the MutatingWebhookConfiguration whose caBundle is kept", type=_NAME)
    add("--secret", "NAME", "the Secret that holds the webhook's certificate", type=_NAME)
    hosts = _parsed(_hosts, "host names or IP addresses, separated by commas")
    add("--hosts", "NAMES", "what the certificate is for, separated by commas; without it no certificates are made", type=hosts)
    means = "give injected pods the rights on their locks, and label the leading ones"
    parser.add_argument("--grants", action="store_true", help=means)
    add(
        "--grants-grace",
        "DURATION",
        "how long rights and locks outlive the last pod that needs them",
        type=_DURATION,
        default="5m",
    )
    add("--lock", "NAME", "the lock of the controllers' own election", type=_NAME, required=True)
    owner = _parsed(lambda text: subdomain(text) if text else "", "the name of an object, or nothing")
    add("--owner", "NAME", "the Deployment that Secret and lock go away with", type=owner, default="")
    add("--id", "NAME", "the name of this replica: its pod's", default=os.environ.get("HOSTNAME", ""))
    add("--instance", "TEXT", "tells this container from others of that name", default="")
    add("--ttl", "DURATION", "others act after this time without a sign of the active replica", type=_DURATION, default="10s")
    add("--certificate-lifetime", "DURATION", "how long a certificate is valid", type=_DURATION, default="720h")
    add("--ca-lifetime", "DURATION", "how long the authority that signs is valid", type=_DURATION, default="8760h")
    add("--settle", "DURATION", "how long an authority is published before it is used", type=_DURATION, default="30s")
    listen = _parsed(address, "HOST:PORT, [IPv6]:PORT or :PORT")
    add("--status-listen", "HOST:PORT", "address of probes and metrics", type=listen, default=":8081")


def read_settings(options: argparse.Namespace) -> Settings:
    """The settings out of the flags. Raises `SettingsError` when they contradict each other."""
    if not options.id:
        raise SettingsError("--id is missing: the name of this replica")
    ttl, certificate, authority, settle = (
        f"{value:.10g}s" for value in (options.ttl, options.certificate_lifetime, options.ca_lifetime, options.settle)
    )
    if len(options.id) > LONGEST_NAME or not options.id.isprintable():
        raise SettingsError(f"--id is {quoted(options.id)}, allowed are {LONGEST_NAME} printable characters")
    if not 1 <= options.ttl <= 600:
        raise SettingsError(f"--ttl is {ttl}, allowed is 1s to 10m")
    if not options.hosts and not options.grants:
        raise SettingsError("there is nothing to do: neither --hosts nor --grants is given")
    if options.hosts and not (options.registration and options.secret):
        raise SettingsError("--hosts needs --registration and --secret, too")
    if options.certificate_lifetime < 3:
        raise SettingsError(f"--certificate-lifetime is {certificate}, allowed is at least 3s")
    if options.ca_lifetime < 3 * options.certificate_lifetime:
        raise SettingsError(
            f"--ca-lifetime is {authority}, allowed is at least three times --certificate-lifetime, which is {certificate}, "
            "to outlive what it signed"
        )
    if options.settle > options.certificate_lifetime / 4:
        raise SettingsError(
            f"--settle is {settle}, allowed is at most a quarter of --certificate-lifetime, which is {certificate}"
        )
    names = Names(
        namespace=options.namespace,
        secret=options.secret or "",
        registration=options.registration or "",
        lock=options.lock,
        owner=options.owner,
    )
    rules = Rules(
        hosts=options.hosts or (),
        certificate_lifetime=options.certificate_lifetime,
        authority_lifetime=options.ca_lifetime,
        settle=options.settle,
    )
    return Settings(
        names=names,
        rules=rules if options.hosts else None,
        grace=options.grants_grace if options.grants else None,
        identity=options.id,
        instance=options.instance or os.urandom(8).hex(),
        ttl=options.ttl,
        status=options.status_listen,
    )
