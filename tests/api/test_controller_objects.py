"""The controller's requests on a real API server: what its tests in memory take for granted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from kubernetes.aio import client

from sandbox import Sandbox
from webhook.controller import _objects
from webhook.controller._errors import ClusterError, Conflict, Refused
from webhook.controller._objects import ENDPOINTS, PODS, ROLES, KubernetesObjects

pytestmark = pytest.mark.api

NS, SELECTOR = "default", "test/objects"


def body(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}}


def run(sandbox: Sandbox, test: Callable[[KubernetesObjects], Awaitable[None]], leads: Callable[[], bool] = lambda: True) -> None:
    own = sandbox.api.configuration
    configuration = client.Configuration()
    configuration.host, configuration.ssl_ca_cert = own.host, own.ssl_ca_cert
    configuration.cert_file, configuration.key_file = own.cert_file, own.key_file
    configuration.disable_strict_ssl_verification = True

    async def whole() -> None:
        async with client.ApiClient(configuration) as api, asyncio.timeout(60):
            await test(KubernetesObjects(api, leads))

    asyncio.run(whole())


def test_writes_compare_uid_and_version(sandbox: Sandbox) -> None:
    async def test(objects: KubernetesObjects) -> None:
        first = await objects.create(ENDPOINTS, NS, body("objects-written"))
        with pytest.raises(Conflict):
            await objects.create(ENDPOINTS, NS, body("objects-written"))
        second = await objects.replace(ENDPOINTS, NS, "objects-written", {**first, "subsets": []} | body_of(first, x="y"))
        with pytest.raises(Conflict):
            await objects.replace(ENDPOINTS, NS, "objects-written", first)
        old, new = first["metadata"], second["metadata"]
        with pytest.raises(Conflict):
            await objects.delete(ENDPOINTS, NS, "objects-written", old["uid"], old["resourceVersion"])
        with pytest.raises(Conflict):
            await objects.delete(ENDPOINTS, NS, "objects-written", "another", "")
        await objects.delete(ENDPOINTS, NS, "objects-written", new["uid"], new["resourceVersion"])
        await objects.delete(ENDPOINTS, NS, "objects-written", new["uid"], new["resourceVersion"])
        assert await objects.read(ENDPOINTS, NS, "objects-written") is None
        assert await objects.patch(PODS, NS, "nobody", {"metadata": {"labels": {"a": "b"}}}, "status") is None
        with pytest.raises(Refused, match="422"):
            await objects.create(ROLES, NS, {"metadata": {"name": "x"}, "rules": [{"verbs": []}]})

    run(sandbox, test)


def body_of(found: dict[str, Any], **labels: str) -> dict[str, Any]:
    return {"metadata": {**found["metadata"], "labels": labels}}


def test_lists_come_in_pages_and_watches_go_on_from_there(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_objects, "_PAGE", 2)

    async def test(objects: KubernetesObjects) -> None:
        for number in range(5):
            await objects.create(ENDPOINTS, NS, body(f"objects-{number}", **{SELECTOR: "x"}))
        await objects.create(ENDPOINTS, NS, body("objects-other"))
        first = await objects.page(ENDPOINTS, SELECTOR)
        names, more, pages = [one["metadata"]["name"] for one in first.items], first.more, 1
        while more:
            page = await objects.page(ENDPOINTS, SELECTOR, more)
            names += [one["metadata"]["name"] for one in page.items]
            more, pages = page.more, pages + 1
        assert (names, pages) == ([f"objects-{number}" for number in range(5)], 3)
        seen: list[tuple[bool, str]] = []

        async def follow() -> None:
            async for change in objects.watch(ENDPOINTS, SELECTOR, first.version):
                if not change.bookmark:
                    seen.append((change.gone, change.object["metadata"]["name"]))
                if len(seen) == 4:
                    return

        following = asyncio.create_task(follow())
        await objects.create(ENDPOINTS, NS, body("objects-new", **{SELECTOR: "x"}))
        await objects.patch(ENDPOINTS, NS, "objects-0", {"metadata": {"labels": {"a": "b"}}})
        await objects.patch(ENDPOINTS, NS, "objects-1", {"metadata": {"labels": {SELECTOR: None}}})
        found = await objects.read(ENDPOINTS, NS, "objects-2")
        assert found is not None
        await objects.delete(ENDPOINTS, NS, "objects-2", found["metadata"]["uid"], "")
        await following
        # One that lost its label is gone, like one that was deleted.
        assert seen == [(False, "objects-new"), (False, "objects-0"), (True, "objects-1"), (True, "objects-2")]

    run(sandbox, test)


def test_a_watch_without_a_word_ends(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_objects, "_QUIET", 1.0)

    async def test(objects: KubernetesObjects) -> None:
        page = await objects.page(ROLES, "test/nothing")
        began = time.monotonic()
        changes = [change async for change in objects.watch(ROLES, "test/nothing", page.version)]
        assert [change for change in changes if not change.bookmark] == []
        assert time.monotonic() - began < 30

    run(sandbox, test)


def test_who_does_not_lead_writes_nothing(sandbox: Sandbox) -> None:
    async def test(objects: KubernetesObjects) -> None:
        writes: list[Awaitable[object]] = [
            objects.create(ENDPOINTS, NS, body("objects-overtaken")),
            objects.replace(ENDPOINTS, NS, "objects-overtaken", body("objects-overtaken")),
            objects.delete(ENDPOINTS, NS, "objects-overtaken", "u", ""),
            objects.patch(ENDPOINTS, NS, "objects-overtaken", {}),
        ]
        for write in writes:
            with pytest.raises(ClusterError, match="does not lead any more"):
                await write
        assert await objects.read(ENDPOINTS, NS, "objects-overtaken") is None

    run(sandbox, test, leads=lambda: False)
