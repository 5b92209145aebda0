"""What the webhook's operator sets: each setting declared once, and read from a flag, the environment or one file.

The parsed settings come in two parts, since the patch needs to know nothing of sockets: `InjectionSettings` rule what
is added to a pod, `ServeSettings` how the server runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from webhook._errors import SettingsError, quoted
from webhook._quantities import parse_quantity
from webhook._settings_file import read_file
from webhook._values import address, choice, image, number, path, quantity

__all__ = [
    "CONFIG",
    "INJECTION_OPTIONS",
    "OPTIONS",
    "InjectionSettings",
    "Option",
    "PullPolicy",
    "ServeSettings",
    "Sidecar",
    "read_injection_settings",
    "read_settings",
]

Sidecar = Literal["native", "classic"]
PullPolicy = Literal["Always", "IfNotPresent", "Never"]


@dataclass(frozen=True, slots=True)
class InjectionSettings:
    """What the injected container is made of, where the pod's annotations do not say."""

    image: str
    """The elector's image; its entry point is the elector."""

    image_pull_policy: PullPolicy | None = None
    """None leaves the choice to the API server (Always for `:latest`, else IfNotPresent)."""

    sidecar: Sidecar = "native"
    """native: an init container with restartPolicy Always (KEP-753, kubelet 1.29 or newer); classic: a container."""

    run_as_user: int | None = 65532
    """User and group of the elector. None leaves them to the cluster, as OpenShift wants it."""

    cpu_request: str = "10m"
    cpu_limit: str = "200m"
    memory_request: str = "40Mi"
    memory_limit: str = "64Mi"
    """Kubernetes quantities; a request is at most its limit."""


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How the server listens."""

    host: str
    """An address or a host name; empty: every address, IPv4 and IPv6."""

    port: int
    """0 takes a free one."""

    tls_cert_file: Path
    tls_key_file: Path


@dataclass(frozen=True, slots=True)
class Option:
    """A setting as people see it. One without a default has to be given, unless it is `optional`."""

    flag: str
    metavar: str
    means: str
    allowed: str
    parse: Callable[[str], Any]
    default: str | None = None
    optional: bool = False

    @property
    def name(self) -> str:
        """The flag without its dashes, as it stands in the file."""
        return self.flag.removeprefix("--")

    @property
    def key(self) -> str:
        """The name under which argparse and `read_settings` keep the value."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable that stands for the flag."""
        return "LEADER_ELECTION_WEBHOOK_" + self.key.upper()

    def help(self) -> str:
        """What it means, its default and its variable, for `--help`."""
        if self.default is not None:
            return f"{self.means} (default {self.default}; {self.variable})"
        needed = "" if self.optional else "required; "
        return f"{self.means} ({needed}{self.variable})"


def _user(text: str) -> int | None:
    return None if text == "none" else number(1, 2**31 - 1)(text)


def _resource(resource: str, bound: str, default: str) -> Option:
    return Option(
        f"--{resource}-{bound}",
        "QUANTITY",
        f"{resource} {bound} of the elector, where the pod's annotations do not say",
        "a Kubernetes quantity above 0, such as 100m or 64Mi",
        quantity,
        default=default,
    )


CONFIG = Option(
    "--config",
    "FILE",
    "settings that neither a flag nor a variable gives: YAML with the flags' names as keys",
    "the path of a file",
    path,
    optional=True,
)
"""Where the other settings may stand, too."""

_SERVE_OPTIONS = (
    Option(
        "--listen",
        "HOST:PORT",
        "address to serve on; without a host every address, IPv4 and IPv6",
        "HOST:PORT, [IPv6]:PORT or :PORT with a port from 0 (any free one) to 65535",
        address,
        default=":8443",
    ),
    Option("--tls-cert-file", "FILE", "certificate chain of the server, PEM", "the path of a file", path),
    Option("--tls-key-file", "FILE", "private key of the certificate, PEM", "the path of a file", path),
)
INJECTION_OPTIONS = (
    Option("--image", "IMAGE", "the elector's image, put into every annotated pod", "an image reference", image),
    Option(
        "--image-pull-policy",
        "POLICY",
        "pull policy of that image; left out: the API server's default",
        "Always, IfNotPresent or Never",
        choice("Always", "IfNotPresent", "Never"),
        optional=True,
    ),
    Option(
        "--sidecar",
        "KIND",
        "native: an init container that keeps running (kubelet 1.29 or newer); classic: a container beside the others",
        "native or classic",
        choice("native", "classic"),
        default="native",
    ),
    Option(
        "--run-as-user",
        "UID",
        "user and group of the elector; none leaves them to the cluster, as OpenShift wants it",
        "a number from 1 to 2147483647, or none",
        _user,
        default="65532",
    ),
    _resource("cpu", "request", "10m"),
    _resource("cpu", "limit", "200m"),
    _resource("memory", "request", "40Mi"),
    _resource("memory", "limit", "64Mi"),
)
"""The settings that rule what is added to a pod, in the order of the help."""

OPTIONS = (*_SERVE_OPTIONS, *INJECTION_OPTIONS)
"""Every setting of `leader-election webhook`, in the order of its help."""


def read_settings(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> tuple[InjectionSettings, ServeSettings]:
    """Settings from the flags given (by `Option.key`, None when not given), else the environment, else the file that
    `CONFIG` names by flag or variable, else the defaults.

    An empty variable counts as not set, since manifests can hardly leave one out. Raises `SettingsError` that names
    every wrong setting, its value and what is allowed.
    """
    values = _read(OPTIONS, flags, environ)
    host, port = values["listen"]
    serve = ServeSettings(host=host, port=port, tls_cert_file=values["tls_cert_file"], tls_key_file=values["tls_key_file"])
    return _injection(values), serve


def read_injection_settings(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> InjectionSettings:
    """As `read_settings`, for who injects without serving; what the file says of serving is let be."""
    return _injection(_read(INJECTION_OPTIONS, flags, environ))


def _injection(values: Mapping[str, Any]) -> InjectionSettings:
    # An option and its field have one name.
    return InjectionSettings(**{option.key: values[option.key] for option in INJECTION_OPTIONS})


def _read(options: Sequence[Option], flags: Mapping[str, str | None], environ: Mapping[str, str]) -> dict[str, Any]:
    file = flags.get(CONFIG.key) or environ.get(CONFIG.variable)
    filed = read_file(Path(file), [option.name for option in OPTIONS]) if file else {}
    values: dict[str, Any] = {}
    problems = []
    for option in options:
        # Without a flag the empty text is no value, wherever it stands; as a flag it is a wrong one.
        given, source = flags.get(option.key), option.flag
        if given is None and environ.get(option.variable):
            given, source = environ[option.variable], f"{option.flag} ({option.variable})"
        if given is None and filed.get(option.name):
            given, source = filed[option.name], f"{option.name} in {file}"
        if given is None:
            given = option.default
        if given is None:
            values[option.key] = None
            if not option.optional:
                problems.append(f"{option.flag} (or {option.variable}) is missing, allowed is {option.allowed}")
            continue
        try:
            values[option.key] = option.parse(given)
        except ValueError:
            problems.append(f"{source} is {quoted(given)}, allowed is {option.allowed}")
    if problems:
        raise SettingsError("; ".join(problems))
    for resource in ("cpu", "memory"):
        request, limit = values[f"{resource}_request"], values[f"{resource}_limit"]
        if parse_quantity(request) > parse_quantity(limit):
            raise SettingsError(f"--{resource}-request is {quoted(request)}, allowed is at most the limit of {limit}")
    return values
