"""The controller's requests to the API server. Each has a deadline, each write compares the version that was read.

The `kubernetes` package's asynchronous client sends them; its models are left alone, since they refuse what they do not know,
and its classes for each group of the API, since these alone take 40 MB.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kubernetes.aio import client, config

from webhook._marks import LOCK
from webhook.controller._errors import CannotRun, ClusterError, Conflict
from webhook.controller._objects import ENDPOINTS, Json, Kind, KubernetesObjects
from webhook.controller._settings import Names

__all__ = ["Cluster", "KubernetesCluster", "Registration", "StoredSecret", "open_client"]

_MANAGER = "leader-election-controller"

_SECRETS = Kind("", "v1", "Secret", "secrets")
_DEPLOYMENTS = Kind("apps", "v1", "Deployment", "deployments")
_REGISTRATIONS = Kind("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations")


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A Secret as it was read."""

    data: Mapping[str, bytes]
    raw: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Registration:
    """A MutatingWebhookConfiguration as it was read: its version, and what each of its webhooks trusts (PEM)."""

    version: str
    bundles: Mapping[str, bytes]


class Cluster(Protocol):
    """What keeping the certificates needs of the API server. Every call raises `ClusterError`, writes also `Conflict`."""

    async def read_secret(self) -> StoredSecret | None:
        """The Secret; None when there is none."""
        ...

    async def create_secret(self, data: Mapping[str, bytes]) -> None:
        """Create it; `Conflict` when there is one."""
        ...

    async def replace_secret(self, base: StoredSecret, data: Mapping[str, bytes]) -> None:
        """Put `data` in place of what `base` holds; `Conflict` when it is no longer as it was read."""
        ...

    async def read_registration(self) -> Registration | None:
        """The registration; None when there is none."""
        ...

    async def publish(self, base: Registration, bundle: bytes) -> None:
        """Let all webhooks of the registration trust `bundle`; `Conflict` when it is no longer as it was read."""
        ...


def open_client(environ: Mapping[str, str], folder: Path) -> client.ApiClient:
    """A client with the service account whose token and CA are in `folder`. Raises `CannotRun` when they are not there."""
    settings = client.Configuration()
    loader: Any = config.incluster_config.InClusterConfigLoader(  # type: ignore[no-untyped-call]
        token_filename=str(folder / "token"), cert_filename=str(folder / "ca.crt"), environ=environ
    )
    try:
        loader.load_and_set(settings)
    except config.ConfigException as error:
        raise CannotRun(f"cannot use the service account in {folder}: {error}") from error
    # Python 3.13 asks more of the cluster's CA than older clusters put into theirs.
    settings.disable_strict_ssl_verification = True
    settings.retries = False
    return client.ApiClient(settings)


class KubernetesCluster:
    """The `Cluster` behind a client of the API server."""

    def __init__(self, objects: KubernetesObjects, names: Names) -> None:
        self._objects = objects
        self._names = names
        self._owner: Json | None = None

    async def read_secret(self) -> StoredSecret | None:
        names = self._names
        found = await self._objects.read(_SECRETS, names.namespace, names.secret)
        if found is None:
            return None
        return StoredSecret({key: _decoded(value) for key, value in (found.get("data") or {}).items()}, found)

    async def create_secret(self, data: Mapping[str, bytes]) -> None:
        names = self._names
        body = {
            "type": "kubernetes.io/tls",
            "metadata": {"name": names.secret, "ownerReferences": await self._owners()},
            "data": _encoded(data),
        }
        await self._objects.create(_SECRETS, names.namespace, body)

    async def replace_secret(self, base: StoredSecret, data: Mapping[str, bytes]) -> None:
        names = self._names
        # uid and resourceVersion stay as they were read: it is a compare-and-swap on exactly that object.
        await self._objects.replace(_SECRETS, names.namespace, names.secret, {**base.raw, "data": _encoded(data)})

    async def read_registration(self) -> Registration | None:
        found = await self._objects.read(_REGISTRATIONS, "", self._names.registration)
        if found is None:
            return None
        bundles = {
            webhook["name"]: _decoded(webhook["clientConfig"].get("caBundle") or "") for webhook in found.get("webhooks") or []
        }
        return Registration(found["metadata"]["resourceVersion"], bundles)

    async def publish(self, base: Registration, bundle: bytes) -> None:
        name = self._names.registration
        encoded = base64.b64encode(bundle).decode()
        body = {
            "metadata": {"resourceVersion": base.version},
            "webhooks": [{"name": webhook, "clientConfig": {"caBundle": encoded}} for webhook in base.bundles],
        }
        # By name: what else is in a webhook stays.
        if await self._objects.patch(_REGISTRATIONS, "", name, body, strategic=True, manager=_MANAGER) is None:
            raise Conflict(f"MutatingWebhookConfiguration {name} was deleted")

    async def own_lock(self) -> None:
        """Let the lock of the controller's election go away with the release, and obey the policy for locks."""
        names, owners = self._names, await self._owners()
        found = await self._objects.read(ENDPOINTS, names.namespace, names.lock)
        if found is None:
            return
        metadata = found["metadata"]
        owned = not owners or owners[0] in (metadata.get("ownerReferences") or [])
        if owned and (metadata.get("labels") or {}).get(LOCK) == "true":
            return
        body: Json = {"metadata": {"uid": metadata["uid"], "labels": {LOCK: "true"}}}
        if owners:
            body["metadata"]["ownerReferences"] = owners
        await self._objects.patch(ENDPOINTS, names.namespace, names.lock, body, strategic=True)

    async def changes(self) -> AsyncGenerator[None, None]:
        """Yields whenever Secret or registration may have changed, and at once. Raises `ClusterError` when watching fails."""
        names = self._names
        queue: asyncio.Queue[None] = asyncio.Queue(1)
        async with asyncio.TaskGroup() as group:
            watches = [
                group.create_task(self._watch(queue, _SECRETS, names.namespace, names.secret)),
                group.create_task(self._watch(queue, _REGISTRATIONS, "", names.registration)),
            ]
            try:
                while True:
                    await queue.get()
                    yield
            finally:
                for watch in watches:
                    watch.cancel()

    async def _watch(self, queue: asyncio.Queue[None], kind: Kind, namespace: str, name: str) -> None:
        """Every event of one object goes into `queue`."""
        while True:
            # Between two watches something may have been missed.
            if queue.empty():
                queue.put_nowait(None)
            async for _ in self._objects.watch_one(kind, namespace, name):
                if queue.empty():
                    queue.put_nowait(None)

    async def _owners(self) -> list[Json]:
        names = self._names
        if not names.owner:
            return []
        if self._owner is None:
            found = await self._objects.read(_DEPLOYMENTS, names.namespace, names.owner)
            if found is None:
                # Uninstalled this moment: what is made now would be left behind.
                raise ClusterError(f"Deployment {names.owner}, which is to own what is made, does not exist")
            # Without blockOwnerDeletion, which would need rights on the Deployment's finalizers.
            self._owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": names.owner, "uid": found["metadata"]["uid"]}
        return [self._owner]


def _encoded(data: Mapping[str, bytes]) -> dict[str, str]:
    return {key: base64.b64encode(value).decode() for key, value in data.items()}


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return b""
