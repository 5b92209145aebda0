"""The mirror of objects, the work by key, and Events that stay few."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from tests.unit.controller.fake_objects import FakeObjects, pod
from tests.unit.controller.fakes import FakeClock
from webhook.controller._errors import ClusterError
from webhook.controller._events import Events
from webhook.controller._objects import EVENTS, PODS, Json
from webhook.controller._pods import Candidate, Owner, candidate_of
from webhook.controller._queue import WorkQueue
from webhook.controller._store import Key, Store


@dataclass
class Entry:
    revision: int
    text: str


def store(objects: FakeObjects, told: list[tuple[Key, str, str]]) -> Store[Entry]:
    def read(found: Json) -> Entry:
        return Entry(int(found["metadata"]["resourceVersion"]), found.get("text", ""))

    def changed(key: Key, former: Entry | None, new: Entry | None) -> None:
        told.append((key, former.text if former else "-", new.text if new else "-"))

    return Store(objects, PODS, "leader-election/injected", read, changed)


def labelled(name: str, text: str = "") -> Json:
    return {"metadata": {"name": name, "labels": {"leader-election/injected": "native"}}, "text": text}


async def settle() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


def test_a_store_follows_what_happens() -> None:
    async def test() -> None:
        objects, told = FakeObjects(), list[tuple[Key, str, str]]()
        for name in ("a", "b", "c"):
            objects.put(PODS, "n", labelled(name, "1"))
        mirror = store(objects, told)
        running = asyncio.create_task(mirror.run())
        await mirror.listed.wait()
        await settle()
        assert {key[1] for key in mirror.items} == {"a", "b", "c"}  # in two pages
        objects.put(PODS, "n", labelled("a", "2"))
        objects.remove(PODS, "n", "b")
        unlabelled = labelled("c")
        unlabelled["metadata"]["labels"] = {}
        objects.put(PODS, "n", unlabelled)
        await settle()
        assert [(key[1], entry.text) for key, entry in mirror.items.items()] == [("a", "2")]
        assert told[-3:] == [(("n", "a"), "1", "2"), (("n", "b"), "1", "-"), (("n", "c"), "1", "-")]
        # What went while no watch was open is found out by the next list.
        objects.remove_unseen(PODS, "n", "a")
        await settle()
        assert mirror.items == {}
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(test())


def test_a_store_takes_nothing_back() -> None:
    """The reply to a write comes before the watch tells of what was there before."""
    told: list[tuple[Key, str, str]] = []
    objects = FakeObjects()
    mirror = store(objects, told)
    old = objects.put(PODS, "n", labelled("a", "1"))
    new = objects.put(PODS, "n", labelled("a", "2"))
    mirror.put(new)
    mirror.put(old)
    mirror.drop(("n", "a"), int(old["metadata"]["resourceVersion"]))
    assert mirror.items["n", "a"].text == "2"
    # After a restored etcd what is older is what is true.
    mirror.put(old, rewound=True)
    assert mirror.items["n", "a"].text == "1"


def test_a_key_is_with_one_worker_and_worked_on_again() -> None:
    async def test() -> None:
        at_once, most, done = 0, 0, list[str]()
        failures, enough = 0, asyncio.Event()

        async def work(key: str) -> float | None:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.01)
            at_once -= 1
            done.append(key)
            if done.count("fails") == 3 and done.count("again") == 3:
                enough.set()
            if key == "fails" and done.count("fails") < 3:
                raise ClusterError("no")
            return 0.01 if key == "again" and done.count("again") < 3 else None

        def failed() -> None:
            nonlocal failures
            failures += 1

        queue: WorkQueue[str] = WorkQueue(work, 4, failed)
        running = asyncio.create_task(queue.run())
        for _ in range(5):
            queue.add("one")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        queue.add("one")  # while it is being worked on
        await queue.until_idle()
        assert (done, most) == (["one", "one"], 1)
        for key in ("fails", "again", "two"):
            queue.add(key)
        await asyncio.wait_for(enough.wait(), 5)
        assert failures == 2
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(test())


WEB = Owner("apps/v1", "StatefulSet", "web", "u-web", "StatefulSet web")


def events(*said: tuple[float, Owner, str]) -> list[Json]:
    """What is written when these are said, each so many seconds after the one before."""

    async def whole() -> list[Json]:
        objects, clock = FakeObjects(), FakeClock()
        of = Events(objects, clock, "controller-a")
        running = asyncio.create_task(of.run())
        for after, about, note in said:
            clock.time += after
            of.say("n", about, "LeaderChanged", "Elect", note)
            await settle()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return [body for (kind, _, _), body in objects.stored.items() if kind == EVENTS.plural]

    return asyncio.run(whole())


def test_an_event_has_what_the_api_asks_for() -> None:
    (event,) = events((0, WEB, "b leads"))
    assert event["reportingController"] == "leader-election/controller"
    assert event["reportingInstance"] == "controller-a"
    assert (event["type"], event["action"], event["reason"], event["note"]) == ("Normal", "Elect", "LeaderChanged", "b leads")
    assert event["regarding"] == {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "namespace": "n", "uid": "u-web"}


def test_what_is_said_again_is_counted_and_refreshed_once_in_a_while() -> None:
    (event,) = events(*[(60, WEB, "the same")] * 29)
    assert "series" not in event
    (event,) = events(*[(60, WEB, "the same")] * 40)
    assert event["series"]["count"] == 31


def test_a_storm_is_cut_for_one_object_and_no_other() -> None:
    other = WEB._replace(uid="u-other", name="other")
    found = events(*[(0.1, WEB, f"change {number}") for number in range(100)], (0, other, "quiet"))
    assert [one["regarding"]["name"] for one in found].count("web") == 25
    assert [one["regarding"]["name"] for one in found].count("other") == 1
    assert len(events(*[(301, WEB, f"change {number}") for number in range(100)])) == 100


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ("orders.leader", ("endpoints",), 10, "default")),
        ({"lock": "leases", "account": "x"}, ("orders.leader", ("leases",), 10, "x")),
        ({"lock": "endpointsleases", "ttl": "1m30s"}, ("orders.leader", ("endpoints", "leases"), 90, "default")),
        ({"ttl": "nonsense"}, ("orders.leader", ("endpoints",), 600, "default")),
        ({"ttl": "24h"}, ("orders.leader", ("endpoints",), 600, "default")),
        ({"lock": "configmaps"}, None),
        ({"election": "../../secrets"}, None),
        ({"election": ""}, None),
        ({"election": "a" * 254}, None),
        ({"phase": "Failed"}, None),
    ],
)
def test_what_is_kept_of_a_pod(change: dict[str, Any], expected: tuple[object, ...] | None) -> None:
    body = pod("a", **change)
    body["metadata"].update(namespace="n", uid="u", resourceVersion="7")
    found = candidate_of(body)
    if expected is None:
        assert found is None
        return
    assert isinstance(found, Candidate)
    assert (found.election, found.kinds, found.ttl, found.account) == expected
    assert (found.revision, found.uid, found.labelled, found.may_lead) == (7, "u", False, False)
