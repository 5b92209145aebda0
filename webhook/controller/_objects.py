"""Objects of the API server as plain JSON, of every kind that grants and labels need, by one road.

Lists come in pages and watches line by line, so that no more than one page of whole pods is ever in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from kubernetes.aio import client

from webhook.controller._errors import ClusterError, Conflict, Expired, Refused

__all__ = [
    "BINDINGS",
    "ENDPOINTS",
    "EVENTS",
    "LEASES",
    "LOCKS",
    "PODS",
    "ROLES",
    "Change",
    "Json",
    "Kind",
    "KubernetesObjects",
    "Objects",
    "Page",
]

Json = dict[str, Any]

_CALL = 5.0
"""Seconds that a request may take, its time at the API server included."""

_LIST = 30.0
"""Seconds for one page of a list."""

_PAGE = 100
"""Objects in one page: whole pods have some 10 kB each."""

_WATCH = 300
"""Seconds after which the API server is to end a watch, which is opened anew."""

_QUIET = 90.0
"""Seconds without a word, after which a watch is opened anew: the API server sends a bookmark about once a minute."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of namespaced object, and where the API has it."""

    group: str
    version: str
    name: str
    plural: str

    @property
    def api(self) -> str:
        """Its apiVersion."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "") -> str:
        """The path of one object, of all in a namespace, or of all."""
        root = f"/apis/{self.api}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{quote(namespace)}" if namespace else ""
        return f"{root}{scope}/{self.plural}" + (f"/{quote(name)}" if name else "")


PODS = Kind("", "v1", "Pod", "pods")
ENDPOINTS = Kind("", "v1", "Endpoints", "endpoints")
LEASES = Kind("coordination.k8s.io", "v1", "Lease", "leases")
ROLES = Kind("rbac.authorization.k8s.io", "v1", "Role", "roles")
BINDINGS = Kind("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings")
EVENTS = Kind("events.k8s.io", "v1", "Event", "events")
LOCKS = {kind.plural: kind for kind in (ENDPOINTS, LEASES)}
"""The kinds of objects that can be a lock, by the name that people give them."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list: its objects, the version to watch from, and what continues it (empty: it was the last)."""

    items: list[Json]
    version: str
    more: str


@dataclass(frozen=True, slots=True)
class Change:
    """One event of a watch. `gone`: it was deleted, or no longer has the label."""

    gone: bool
    object: Json
    bookmark: bool = False


class Objects(Protocol):
    """What grants and labels need of the API server. Every call may raise `ClusterError`, writes also `Conflict`."""

    async def read(self, kind: Kind, namespace: str, name: str) -> Json | None:
        """The object; None when there is none."""
        ...

    async def create(self, kind: Kind, namespace: str, body: Json) -> Json:
        """Create it and return what was stored; `Conflict` when there is one of that name."""
        ...

    async def replace(self, kind: Kind, namespace: str, name: str, body: Json) -> Json:
        """Put `body` in its place, whose metadata hold uid and resourceVersion; `Conflict` when it is no longer that."""
        ...

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str, version: str) -> None:
        """Delete exactly that object at that version (any, when empty); `Conflict` when it is another. Gone is fine."""
        ...

    async def patch(self, kind: Kind, namespace: str, name: str, body: Json, part: str = "") -> Json | None:
        """A merge patch of it, or of a part such as `status`; None when there is no such object."""
        ...

    async def page(self, kind: Kind, selector: str, more: str = "") -> Page:
        """A page of all objects with a label, in all namespaces. Raises `Expired` when `more` is too old."""
        ...

    def watch(self, kind: Kind, selector: str, version: str) -> AsyncGenerator[Change, None]:
        """What happens to them after `version`, until the API server ends it. Raises `Expired` when that is too old."""
        ...


class KubernetesObjects:
    """The `Objects` behind a client of the API server."""

    def __init__(self, api: Any, leads: Callable[[], bool] = lambda: True) -> None:
        """`leads` is asked before every write: a replica that was overtaken leaves things to its successor."""
        self._api = api
        self._leads = leads

    async def read(self, kind: Kind, namespace: str, name: str) -> Json | None:
        return await self._send("GET", kind.path(namespace, name))

    async def create(self, kind: Kind, namespace: str, body: Json) -> Json:
        typed = {"apiVersion": kind.api, "kind": kind.name, **body}
        answer = await self._send("POST", kind.path(namespace), typed)
        if answer is None:
            raise ClusterError(f"POST {kind.path(namespace)}: there is no such namespace")
        return answer

    async def replace(self, kind: Kind, namespace: str, name: str, body: Json) -> Json:
        typed = {"apiVersion": kind.api, "kind": kind.name, **body}
        answer = await self._send("PUT", kind.path(namespace, name), typed)
        if answer is None:
            raise Conflict(f"{kind.name} {namespace}/{name} was deleted")
        return answer

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str, version: str) -> None:
        preconditions = {"uid": uid, **({"resourceVersion": version} if version else {})}
        await self._send("DELETE", kind.path(namespace, name), {"preconditions": preconditions})

    async def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        body: Json,
        part: str = "",
        *,
        strategic: bool = False,
        manager: str = "",
    ) -> Json | None:
        """With `strategic`, lists are merged by their items' keys. `manager`: in whose name, for those who apply."""
        path = kind.path(namespace, name) + (f"/{part}" if part else "") + (f"?fieldManager={manager}" if manager else "")
        content_type = f"application/{'strategic-' if strategic else ''}merge-patch+json"
        return await self._send("PATCH", path, body, content_type=content_type)

    async def page(self, kind: Kind, selector: str, more: str = "") -> Page:
        query = {"labelSelector": selector, "limit": str(_PAGE), **({"continue": more} if more else {})}
        answer = await self._send("GET", f"{kind.path()}?{urlencode(query)}", within=_LIST)
        if answer is None:
            raise ClusterError(f"GET {kind.path()}: 404")
        metadata = answer.get("metadata") or {}
        return Page(answer.get("items") or [], str(metadata.get("resourceVersion")), str(metadata.get("continue") or ""))

    async def watch(self, kind: Kind, selector: str, version: str) -> AsyncGenerator[Change, None]:
        query = {"labelSelector": selector, "resourceVersion": version, "allowWatchBookmarks": "true"}
        async with contextlib.aclosing(self._watch(kind, kind.path(), query)) as changes:
            async for change in changes:
                yield change

    async def watch_one(self, kind: Kind, namespace: str, name: str) -> AsyncGenerator[Change, None]:
        """The object as it is, and what happens to it, as a Role limited by resourceNames allows."""
        async with contextlib.aclosing(
            self._watch(kind, kind.path(namespace), {"fieldSelector": f"metadata.name={name}"})
        ) as changes:
            async for change in changes:
                yield change

    async def _watch(self, kind: Kind, path: str, query: Mapping[str, str]) -> AsyncGenerator[Change, None]:
        path = f"{path}?{urlencode({**query, 'watch': 'true', 'timeoutSeconds': str(_WATCH)})}"
        try:
            async with asyncio.timeout(_CALL):
                response = await self._exchange(
                    "GET", path, None, {}, aiohttp.ClientTimeout(total=_WATCH + _CALL, sock_read=_QUIET)
                )
            try:
                if response.status != 200:
                    raise _error(f"watch {kind.plural}", response.status, "")
                # Whether a quiet one is still connected is found out by opening it anew.
                with contextlib.suppress(aiohttp.SocketTimeoutError):
                    async for line in response.content:
                        yield _change(kind, line)
            finally:
                response.close()
        except (aiohttp.ClientError, client.ApiException, OSError, ValueError) as error:
            raise ClusterError(f"watch {kind.plural}: {_words(error, _CALL)}") from error

    async def _send(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        content_type: str = "application/json",
        within: float = _CALL,
    ) -> Json | None:
        """The object in the reply; None when there is no such object."""
        what = f"{method} {path.partition('?')[0]}"
        if method != "GET" and not self._leads():
            raise ClusterError(f"{what}: not sent, since this replica does not lead any more")
        try:
            async with asyncio.timeout(within):
                response = await self._exchange(method, path, body, {"Content-Type": content_type}, within)
                content = await response.read()
        except (aiohttp.ClientError, client.ApiException, OSError) as error:  # TimeoutError is an OSError
            raise ClusterError(f"{what}: {_words(error, within)}") from error
        if response.status == 404:
            return None
        try:
            answer = orjson.loads(content)
        except ValueError as error:
            raise ClusterError(f"{what}: {response.status}, and the reply is not JSON") from error
        if not isinstance(answer, dict):
            raise ClusterError(f"{what}: {response.status}, and the reply is no object of the API")
        if response.status >= 300:
            raise _error(what, response.status, str(answer.get("message", "")))
        return answer

    async def _exchange(self, method: str, path: str, body: Json | None, headers: Mapping[str, str], within: Any) -> Any:
        headers = {"Accept": "application/json", **headers}
        parts = await self._api.param_serialize(method, path, header_params=headers, body=body, auth_settings=["BearerToken"])
        answer = await self._api.call_api(*parts, _request_timeout=within)
        return answer.response


def _change(kind: Kind, line: bytes) -> Change:
    """One line of a watch."""
    event = orjson.loads(line)
    found, body = event["type"], event["object"]
    if found == "ERROR":
        raise _error(f"watch {kind.plural}", int(body.get("code") or 500), str(body.get("message", "")))
    return Change(found == "DELETED", body, found == "BOOKMARK")


def _error(what: str, status: int, message: str) -> ClusterError:
    words = f"{what}: {status} {message[:300]}".rstrip()
    if status == 410:
        return Expired(words)
    if status == 409:
        return Conflict(words)
    return Refused(words, status) if status < 500 and status != 429 else ClusterError(words)


def _words(error: Exception, within: float) -> str:
    return f"no reply within {within:g} s" if isinstance(error, TimeoutError) else str(error)[:300] or type(error).__name__
