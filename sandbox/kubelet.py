"""Plays the kubelet for one container: what its image's program would be started with.

A sandbox without a node runs the injected container as a plain process. It gets exactly the container's own arguments and
environment, and only what a kubelet substitutes is substituted: downward fields, `$(VAR)`, the address of the API server, and
the mounted token. The token's folder cannot be mounted over the real path here, so the program is told where it is by
`ELECTOR_SERVICE_ACCOUNT_DIR`.
"""

import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sandbox._errors import SandboxError
from sandbox._sandbox import Sandbox

__all__ = ["SERVICE_ACCOUNT_VARIABLE", "Container", "expand", "field_of", "prepare"]

SERVICE_ACCOUNT_VARIABLE = "ELECTOR_SERVICE_ACCOUNT_DIR"
"""Tells the elector where the folder with `token`, `ca.crt` and `namespace` is when not at the usual path."""

_TOKEN_SECONDS = 3607
"""What the kubelet asks for, by default, for a pod's token."""

Pod = Mapping[str, Any]
"""A pod as the API server has stored it, in its JSON form."""


@dataclass(frozen=True)
class Container:
    """What a container's program is started with, and its token folder."""

    args: list[str]
    """The arguments, without the program itself, which the image knows."""
    env: dict[str, str]
    """The whole environment."""
    service_account_folder: Path
    _issue_token: Callable[[], str]

    def refresh_token(self) -> str:
        """Put a new token in place as the kubelet does, all files at once by moving one symbolic link; returns the token."""
        folder = self.service_account_folder
        token = self._issue_token()
        now = (folder / "..data").resolve(strict=True)
        _publish(folder, {**{file.name: file.read_text() for file in now.iterdir()}, "token": token})
        return token


def prepare(sandbox: Sandbox, pod: Pod, container: str, scratch: Path, *, token_seconds: int = _TOKEN_SECONDS) -> Container:
    """Prepare the (init) container of that name of a stored pod; its token folder is made below `scratch`.

    The token is issued by the API server, for the pod's ServiceAccount and bound to the pod, for `token_seconds` (600 or more).
    `SandboxError` when the pod has no such container, or it uses something that this kubelet does not know.
    """
    found = _container_of(pod, container)
    api_server = urlsplit(sandbox.url)
    service = {"KUBERNETES_SERVICE_HOST": api_server.hostname or "", "KUBERNETES_SERVICE_PORT": str(api_server.port or 443)}
    env = _environment(found, pod, service)
    metadata = pod["metadata"]
    namespace, account = metadata["namespace"], pod["spec"].get("serviceAccountName", "default")

    def issue() -> str:
        return sandbox.service_account_token(
            namespace, account, pod=metadata["name"], pod_uid=metadata["uid"], seconds=token_seconds
        )

    folder = scratch / f"serviceaccount-{metadata['uid']}-{container}"
    folder.mkdir(mode=0o700)
    _publish(folder, {"token": issue(), "ca.crt": sandbox.ca_file.read_text(), "namespace": namespace})
    for name in ("token", "ca.crt", "namespace"):
        (folder / name).symlink_to(Path("..data") / name)
    args = [expand(argument, env) for argument in found.get("args") or []]
    return Container(args, {**env, SERVICE_ACCOUNT_VARIABLE: str(folder)}, folder, issue)


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(VAR)` replaced by Kubernetes' rules: `$$` is one `$` (so `$$(VAR)` is not a reference), and what is unknown stays."""

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", replace, text)


def field_of(pod: Pod, path: str) -> str:
    """A downward field; `""` where the pod has none, as the kubelet has it. `SandboxError` for a path it does not know here."""
    metadata, spec = pod["metadata"], pod["spec"]
    keyed = re.fullmatch(r"metadata\.(labels|annotations)\['([^']*)'\]", path)
    if keyed:
        return str((metadata.get(keyed[1]) or {}).get(keyed[2], ""))
    plain = {
        "metadata.name": metadata.get("name"),
        "metadata.namespace": metadata.get("namespace"),
        "metadata.uid": metadata.get("uid"),
        "spec.serviceAccountName": spec.get("serviceAccountName"),
        "spec.nodeName": spec.get("nodeName"),
        "status.podIP": "127.0.0.1",  # all of a sandbox's pods share this machine's network
    }
    if path not in plain:
        raise SandboxError(
            f"fieldPath {path!r}: known here are {', '.join(plain)}, metadata.labels['...'], metadata.annotations['...']"
        )
    return str(plain[path] or "")


def _container_of(pod: Pod, name: str) -> Mapping[str, Any]:
    spec = pod["spec"]
    containers: Sequence[Mapping[str, Any]] = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    for container in containers:
        if container["name"] == name:
            return container
    names = ", ".join(container["name"] for container in containers)
    raise SandboxError(f"pod {pod['metadata'].get('name')!r} has no container {name!r}; it has: {names}")


def _environment(container: Mapping[str, Any], pod: Pod, service: Mapping[str, str]) -> dict[str, str]:
    if container.get("envFrom"):
        raise SandboxError(f"container {container['name']!r} has envFrom, which is not known here")
    env: dict[str, str] = {}
    for variable in container.get("env") or []:
        source = variable.get("valueFrom")
        if source is None:
            # Earlier variables only, and those of services.
            value = expand(variable.get("value", ""), {**service, **env})
        elif set(source) == {"fieldRef"}:
            value = field_of(pod, source["fieldRef"]["fieldPath"])
        else:
            raise SandboxError(f"env {variable['name']!r} has valueFrom.{next(iter(source))}, known here is fieldRef")
        env[variable["name"]] = value
    return {**service, **env}


def _publish(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files into a new folder and move the link `..data` to it: readers see all of the old or all of the new."""
    data = folder / f"..{secrets.token_hex(6)}"
    data.mkdir(mode=0o700)
    for name, content in files.items():
        (data / name).write_text(content)
    link = folder / "..data"
    former = link.resolve() if link.is_symlink() else None
    moving = folder / "..data_tmp"
    moving.symlink_to(data.name)
    moving.replace(link)
    if former is not None:
        shutil.rmtree(former)
