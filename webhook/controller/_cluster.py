"""The controller's requests to the API server. Each has a deadline, each write compares the version that was read.

The `kubernetes` package's asynchronous client sends them; its models are left alone, since they refuse what they do not know.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
from kubernetes.aio import client, config

from webhook._marks import LOCK
from webhook.controller._errors import CannotRun, ClusterError, Conflict
from webhook.controller._settings import Names

__all__ = ["Cluster", "KubernetesCluster", "Registration", "StoredSecret", "open_client"]

_CALL = 5.0
"""Seconds that a request may take, its time at the API server included."""

_WATCH = 240
"""Seconds after which the API server is to end a watch, which is opened anew."""

_MANAGER = "leader-election-controller"


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

    def __init__(self, api: Any, names: Names) -> None:
        self._core: Any = client.CoreV1Api(api)
        self._apps: Any = client.AppsV1Api(api)
        self._admission: Any = client.AdmissionregistrationV1Api(api)
        self._names = names
        self._owner: dict[str, Any] | None = None

    async def read_secret(self) -> StoredSecret | None:
        names = self._names
        found = await _send(self._core.read_namespaced_secret_without_preload_content, names.secret, names.namespace)
        if found is None:
            return None
        return StoredSecret({key: _decoded(value) for key, value in (found.get("data") or {}).items()}, found)

    async def create_secret(self, data: Mapping[str, bytes]) -> None:
        names = self._names
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": names.secret, "ownerReferences": await self._owners()},
            "data": _encoded(data),
        }
        await _send(self._core.create_namespaced_secret_without_preload_content, names.namespace, body)

    async def replace_secret(self, base: StoredSecret, data: Mapping[str, bytes]) -> None:
        names = self._names
        # uid and resourceVersion stay as they were read: it is a compare-and-swap on exactly that object.
        body = {**base.raw, "data": _encoded(data)}
        done = await _send(self._core.replace_namespaced_secret_without_preload_content, names.secret, names.namespace, body)
        if done is None:
            raise Conflict(f"Secret {names.secret} was deleted")

    async def read_registration(self) -> Registration | None:
        found = await _send(self._admission.read_mutating_webhook_configuration_without_preload_content, self._names.registration)
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
        patch = self._admission.patch_mutating_webhook_configuration_without_preload_content
        if await _send(patch, name, body, field_manager=_MANAGER) is None:
            raise Conflict(f"MutatingWebhookConfiguration {name} was deleted")

    async def own_lock(self) -> None:
        """Let the lock of the controller's election go away with the release, and obey the policy for locks."""
        names, owners = self._names, await self._owners()
        found = await _send(self._core.read_namespaced_endpoints_without_preload_content, names.lock, names.namespace)
        if found is None:
            return
        metadata = found["metadata"]
        owned = not owners or owners[0] in (metadata.get("ownerReferences") or [])
        if owned and (metadata.get("labels") or {}).get(LOCK) == "true":
            return
        body: dict[str, Any] = {"metadata": {"uid": metadata["uid"], "labels": {LOCK: "true"}}}
        if owners:
            body["metadata"]["ownerReferences"] = owners
        await _send(self._core.patch_namespaced_endpoints_without_preload_content, names.lock, names.namespace, body)

    async def changes(self) -> AsyncGenerator[None, None]:
        """Yields whenever Secret or registration may have changed, and at once. Raises `ClusterError` when watching fails."""
        names = self._names
        queue: asyncio.Queue[None] = asyncio.Queue(1)
        secrets = self._core.list_namespaced_secret_without_preload_content
        registrations = self._admission.list_mutating_webhook_configuration_without_preload_content
        async with asyncio.TaskGroup() as group:
            watches = [
                group.create_task(_watch(queue, secrets, names.namespace, name=names.secret)),
                group.create_task(_watch(queue, registrations, name=names.registration)),
            ]
            try:
                while True:
                    await queue.get()
                    yield
            finally:
                for watch in watches:
                    watch.cancel()

    async def _owners(self) -> list[dict[str, Any]]:
        names = self._names
        if not names.owner:
            return []
        if self._owner is None:
            found = await _send(self._apps.read_namespaced_deployment_without_preload_content, names.owner, names.namespace)
            if found is None:
                # Uninstalled this moment: what is made now would be left behind.
                raise ClusterError(f"Deployment {names.owner}, which is to own what is made, does not exist")
            # Without blockOwnerDeletion, which would need rights on the Deployment's finalizers.
            self._owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": names.owner, "uid": found["metadata"]["uid"]}
        return [self._owner]


async def _send(call: Any, *arguments: Any, **options: Any) -> dict[str, Any] | None:
    """The object in the reply; None when there is no such object. Raises `Conflict`, else `ClusterError`."""
    what = call.__name__.removesuffix("_without_preload_content").replace("_", " ")
    try:
        async with asyncio.timeout(_CALL):
            response = await call(*arguments, _request_timeout=_CALL, **options)
            body = await response.read()
    except (aiohttp.ClientError, client.ApiException, OSError) as error:  # TimeoutError is an OSError
        raise ClusterError(f"{what}: {_words(error)}") from error
    if response.status == 404 and not what.startswith("create"):
        return None
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise ClusterError(f"{what}: {response.status}, and the reply is not JSON") from error
    if response.status == 409:
        raise Conflict(f"{what}: {answer.get('message', '')[:300]}")
    if response.status >= 300:
        raise ClusterError(f"{what}: {response.status} {answer.get('message', '')[:300]}")
    return dict(answer)


async def _watch(queue: asyncio.Queue[None], call: Any, *arguments: Any, name: str) -> None:
    """Watch one object, by field selector, as a Role limited by resourceNames allows; every event goes into `queue`."""
    what = call.__name__.removesuffix("_without_preload_content").replace("_", " ")
    while True:
        # Without a resourceVersion, so that the present state comes first and nothing between two watches is missed.
        options = {"field_selector": f"metadata.name={name}", "watch": True, "timeout_seconds": _WATCH}
        try:
            async with asyncio.timeout(_CALL):
                response = await call(*arguments, _request_timeout=_WATCH + _CALL, **options)
            if response.status != 200:
                raise ClusterError(f"watch, {what}: {response.status}")
            if queue.empty():
                queue.put_nowait(None)
            async for _ in response.content:
                if queue.empty():
                    queue.put_nowait(None)
        except (aiohttp.ClientError, client.ApiException, OSError, ValueError) as error:
            raise ClusterError(f"watch, {what}: {_words(error)}") from error


def _words(error: Exception) -> str:
    return f"no reply within {_CALL:g} s" if isinstance(error, TimeoutError) else str(error)[:300] or type(error).__name__


def _encoded(data: Mapping[str, bytes]) -> dict[str, str]:
    return {key: base64.b64encode(value).decode() for key, value in data.items()}


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return b""
