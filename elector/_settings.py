"""The elector's settings: each declared once, with its flag, its environment variable, its default and its meaning.

The first six flags and their defaults are the original's.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from elector._durations import format_duration, parse_duration
from elector._errors import SettingsError
from elector._timing import LONGEST_TTL, SHORTEST_TTL, Timing
from elector._view import Sidecar

__all__ = ["Address", "Settings", "describe", "parse_settings"]

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Settings:
    """What one elector was told; see `--help`. Durations are in seconds, addresses are (host, port), none: no server."""

    election: str
    identity: str
    namespace: str
    timing: Timing
    http: tuple[Address, ...]
    status_http: tuple[Address, ...]
    use_cluster_credentials: bool
    kubeconfig: str
    lock: str
    health_url: str
    sidecar: Sidecar
    drain: float
    instance: str
    log_level: str
    log_format: str


@dataclass(frozen=True, slots=True)
class _Option:
    """`parse` turns the text into the value and raises `ValueError` with what is allowed."""

    flag: str
    default: str
    parse: Callable[[str], Any]
    metavar: str
    help: str

    @property
    def variable(self) -> str:
        return "ELECTOR_" + self.flag.removeprefix("--").replace("-", "_").upper()


def _election(text: str) -> str:
    if not _SUBDOMAIN.fullmatch(text) or len(text) > 253:
        raise ValueError("a DNS subdomain of at most 253 characters: lower-case letters, digits, '-' and '.'")
    return text


def _identity(text: str) -> str:
    if not text or len(text) > 253 or not text.isprintable():
        raise ValueError("1 to 253 printable characters")
    return text


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ValueError("a duration such as 10s, 1m30s or 1500ms") from error


def _ttl(text: str) -> float:
    seconds = _duration(text)
    if not SHORTEST_TTL <= seconds <= LONGEST_TTL:
        raise ValueError("a duration from 1s to 10m")
    return seconds


def _derived(text: str) -> float | None:
    return _duration(text) if text else None


def _addresses(text: str) -> tuple[Address, ...]:
    if not text:
        return ()
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("HOST:PORT or :PORT with a port from 0 to 65535, or nothing for no server")
    host = host.removeprefix("[").removesuffix("]")
    # Some resolvers hand out ::1 first: a client that asks localhost must find us whichever it tries.
    hosts = ("127.0.0.1", "::1") if host == "localhost" else (host,)
    return tuple((one, int(port)) for one in hosts)


def _local_url(text: str) -> str:
    if not text:
        return ""
    found = re.fullmatch(r"http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?(/[!-~]*)?", text)
    if not found or int((found[2] or ":80")[1:]) > 65535:
        raise ValueError("http:// on localhost, 127.0.0.1 or [::1], with a port and a path if need be")
    return text


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False, "": False}[text.lower()]
    except KeyError as error:
        raise ValueError("true or false") from error


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(" or ".join(name or "nothing" for name in allowed))
        return text

    return parse


_OPTIONS = (
    _Option("--election", "", _election, "NAME", "the election: the name of the lock object (required)"),
    _Option("--id", "", _identity, "NAME", "the name of this candidate (default: the hostname, which is the pod's name)"),
    _Option("--election-namespace", "default", _election, "NAMESPACE", "where the lock object lives"),
    _Option("--ttl", "10s", _ttl, "DURATION", "others may take over after this time without a renewal, 1s to 10m"),
    _Option("--http", "", _addresses, "HOST:PORT", "serve the leader as JSON there; empty: no server"),
    _Option("--use-cluster-credentials", "false", _boolean, "true|false", "use the service account, whatever KUBECONFIG says"),
    _Option("--kubeconfig", "", str, "FILE", "how to reach the API server (default: $KUBECONFIG, else the service account)"),
    _Option(
        "--lock",
        "endpoints",
        _one_of("endpoints", "leases", "endpointsleases"),
        "KIND",
        "endpoints, leases, or endpointsleases, which holds both: the step between the two",
    ),
    _Option("--renew-deadline", "", _derived, "DURATION", "how long a claim holds without a renewal (default: half the ttl)"),
    _Option(
        "--retry-period", "", _derived, "DURATION", "between renewals, and the limit of each (default: a quarter of the ttl)"
    ),
    _Option(
        "--status-http",
        "",
        _addresses,
        "HOST:PORT",
        "serve /healthz, /readyz and /metrics there; empty: no server",
    ),
    _Option(
        "--sidecar",
        "",
        _one_of("", "native", "classic"),
        "native|classic",
        "what SIGTERM means: native: the application has ended, release at once; classic: it is ending, drain first; "
        "unset: unknown, wait until no answer given can be believed any more",
    ),
    _Option("--drain", "28s", _duration, "DURATION", "classic only: how long to go on leading after SIGTERM"),
    _Option(
        "--health-url",
        "",
        _local_url,
        "URL",
        "stand only while the application answers 2xx there, such as http://localhost:8080/healthz",
    ),
    _Option("--instance", "", str, "TEXT", "tells this container from others of the same name (default: random)"),
    _Option("--log-level", "info", _one_of("error", "warning", "info", "debug"), "LEVEL", "error, warning, info or debug"),
    _Option("--log-format", "text", _one_of("text", "json"), "text|json", "of the lines on standard output and error"),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)


def parse_settings(arguments: Sequence[str], environ: Mapping[str, str], version: str) -> Settings:
    """The settings from flags, else from `ELECTOR_...` variables, else defaults.

    Raises `SettingsError` naming the setting, its value and what is allowed. `--help` and `--version` print and exit.
    """
    parser = _Parser(
        prog="elector",
        usage="elector --election NAME [options]",
        description="Elects one leader among all processes that name the same election, and says who it is.",
        epilog="Exit codes: 0 ended by a signal, 1 cannot run (port taken, no credentials), 2 a wrong flag or value.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"elector {version}")
    for option in _OPTIONS:
        # A boolean may stand alone: --use-cluster-credentials means true, as in the original.
        alone = {"nargs": "?", "const": "true"} if option.parse is _boolean else {}
        default = f"; default {option.default}" if option.default else ""
        help_text = f"{option.help} [{option.variable}{default}]"
        parser.add_argument(option.flag, metavar=option.metavar, help=help_text, **alone)  # type: ignore[arg-type]
    given = vars(parser.parse_args(list(arguments)))
    values = {option.flag: _value(option, given[option.flag[2:].replace("-", "_")], environ) for option in _OPTIONS}
    return Settings(
        election=values["--election"],
        identity=values["--id"],
        namespace=values["--election-namespace"],
        timing=Timing.of(values["--ttl"], values["--renew-deadline"], values["--retry-period"]),
        http=values["--http"],
        status_http=values["--status-http"],
        use_cluster_credentials=values["--use-cluster-credentials"],
        kubeconfig=values["--kubeconfig"],
        lock=values["--lock"],
        health_url=values["--health-url"],
        sidecar=Sidecar(values["--sidecar"] or "unset"),
        drain=values["--drain"],
        instance=values["--instance"] or os.urandom(8).hex(),
        log_level=values["--log-level"],
        log_format=values["--log-format"],
    )


def _value(option: _Option, flag: str | None, environ: Mapping[str, str]) -> Any:
    text, source = flag, option.flag
    if text is None and option.variable in environ:
        text, source = environ[option.variable], option.variable
    if text is None:
        text = socket.gethostname() if option.flag == "--id" else option.default
        if option.flag == "--election":
            raise SettingsError("--election is missing: the name of the election, a DNS subdomain of at most 253 characters")
    try:
        return option.parse(text)
    except ValueError as error:
        raise SettingsError(f"{source} is {text!r}: allowed is {error}") from error


def describe(settings: Settings) -> str:
    """One line for the log at the start."""
    timing = settings.timing
    return (
        f"{settings.identity} stands for {settings.namespace}/{settings.election} "
        f"({settings.lock}, ttl {format_duration(timing.ttl)}, claims for {format_duration(timing.renew_deadline)}, "
        f"retries every {format_duration(timing.retry_period)})"
    )
