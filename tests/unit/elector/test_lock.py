"""The Endpoints lock: what it sends, and what it makes of the replies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

import pytest

from elector._errors import NotSent, OutcomeUnknown, TransportError
from elector._lock import Conflict, LockState, Mark, Refused
from elector._objects import INSTANCE, RECORD, TOKEN, EndpointsLock
from elector._record import PLACEHOLDER, Record
from elector._transport import Response

Answer = TypeVar("Answer")

HELD = Record("pod-a", 10, "2026-11-22T08:04:29Z", "2026-11-22T08:04:40Z", 3)
STORED: dict[str, Any] = {
    "kind": "Endpoints",
    "apiVersion": "v1",
    "metadata": {
        "name": "example",
        "namespace": "team",
        "uid": "u-1",
        "resourceVersion": "41",
        "creationTimestamp": "2026-11-22T08:00:00Z",
        "labels": {"app": "x"},
        "ownerReferences": [{"kind": "Thing", "name": "t", "uid": "u-9", "apiVersion": "v1"}],
        "finalizers": ["example.org/keep"],
        "annotations": {"note": "keep me", RECORD: HELD.to_json(), TOKEN: "12", INSTANCE: "other"},
    },
    "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}],
}


class Line:
    """A transport that gives one prepared reply, or raises one prepared error, and remembers what was asked."""

    def __init__(self, reply: Response | Exception) -> None:
        self.reply = reply
        self.sent: list[tuple[str, str, bytes | None, float]] = []

    async def request(self, method: str, path: str, body: bytes | None = None, *, timeout: float) -> Response:
        self.sent.append((method, path, body, timeout))
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply

    def watch(self, path: str, *, timeout: float) -> AsyncGenerator[bytes, None]:
        raise NotImplementedError

    async def close(self) -> None:
        pass

    @property
    def body(self) -> Any:
        return json.loads(self.sent[-1][2] or b"")


def run(coroutine: Coroutine[Any, Any, Answer]) -> Answer:
    return asyncio.run(coroutine)


def stored(annotations: dict[str, str] | None, **metadata: str) -> Response:
    body = {**STORED, "metadata": {**STORED["metadata"], "annotations": annotations, **metadata}}
    return Response(200, json.dumps(body).encode())


def lock_with(reply: Response | Exception) -> tuple[EndpointsLock, Line]:
    line = Line(reply)
    return EndpointsLock(line, "team", "example"), line


def state(reply: Response | None = None) -> LockState:
    found = run(lock_with(reply or Response(200, json.dumps(STORED).encode()))[0].read(1.0))
    assert found is not None
    return found


def refusal(status: int, message: str = "no") -> Response:
    return Response(status, json.dumps({"kind": "Status", "code": status, "message": message}).encode())


# Reading.


def test_a_read_names_no_resource_version_so_that_it_is_a_quorum_read() -> None:
    lock, line = lock_with(Response(200, json.dumps(STORED).encode()))
    run(lock.read(2.5))
    assert line.sent == [("GET", "/api/v1/namespaces/team/endpoints/example", None, 2.5)]


def test_what_is_read() -> None:
    found = state()
    assert (found.uid, found.version, found.revision) == ("u-1", "41", 41)
    assert (found.text, found.record, found.malformed) == (HELD.to_json(), HELD, "")
    assert (found.token, found.instance) == (12, "other")
    assert found.raw == STORED


def test_an_object_without_a_record() -> None:
    for present in (None, {}, {"note": "x"}):
        found = state(stored(present))
        assert (found.text, found.record, found.malformed, found.token, found.instance) == (None, None, "", 0, "")


def test_a_malformed_record_is_told_from_none() -> None:
    found = state(stored({RECORD: "garbage"}))
    assert (found.text, found.record) == ("garbage", None)
    assert found.malformed == "it is not JSON"


@pytest.mark.parametrize("token", ["", "x", "-5", "1.5", "９", "9" * 19])
def test_a_token_that_is_none_counts_as_0(token: str) -> None:
    assert state(stored({TOKEN: token})).token == 0


def test_a_resource_version_that_is_no_number_is_0() -> None:
    assert state(stored(None, resourceVersion="opaque")).revision == 0


def test_no_object_is_none() -> None:
    assert run(lock_with(refusal(404))[0].read(1.0)) is None


# Writing.


def test_a_put_carries_uid_and_resource_version_and_all_else_as_read() -> None:
    lock, line = lock_with(Response(200, json.dumps(STORED).encode()))
    mark = Mark(Record("pod-b", 10, "2026-11-22T08:05:00Z", "2026-11-22T08:05:00Z", 4), 42, "mine")
    run(lock.replace(state(), mark, 2.5))
    method, path, _, timeout = line.sent[0]
    assert (method, path, timeout) == ("PUT", "/api/v1/namespaces/team/endpoints/example?timeout=2.5s", 2.5)
    annotations = {"note": "keep me", RECORD: mark.record.to_json(), TOKEN: "42", INSTANCE: "mine"}
    assert line.body == {**STORED, "metadata": {**STORED["metadata"], "annotations": annotations}}
    assert line.body["metadata"]["uid"] == "u-1"
    assert line.body["metadata"]["resourceVersion"] == "41"


@pytest.mark.parametrize(("token", "written"), [(42, "42"), (43, "42"), (10**15, "42"), (12, "12")])
def test_a_put_raises_the_token_no_further_than_the_lock_alone_allows(token: int, written: str) -> None:
    """With two locks a token may come from the other one. A policy sees one object, and refuses more from a candidate."""
    lock, line = lock_with(Response(200, json.dumps(STORED).encode()))
    run(lock.replace(state(), Mark(HELD, token, "mine"), 1.0))
    assert line.body["metadata"]["annotations"][TOKEN] == written


def test_a_put_leaves_what_was_read_untouched() -> None:
    # The state is the base of a later write too: changed in place, a retry would send what was never read.
    base = state()
    lock, _ = lock_with(refusal(409))
    with pytest.raises(Conflict):
        run(lock.replace(base, Mark(HELD, 99, "mine"), 1.0))
    assert base.raw == STORED


def test_a_put_on_an_object_without_annotations() -> None:
    lock, line = lock_with(Response(200, json.dumps(STORED).encode()))
    run(lock.replace(state(stored(None)), Mark(HELD, 1, "mine"), 1.0))
    assert line.body["metadata"]["annotations"] == {RECORD: HELD.to_json(), TOKEN: "1", INSTANCE: "mine"}


def test_an_object_is_created_with_its_record_and_nothing_else() -> None:
    lock, line = lock_with(Response(201, json.dumps(STORED).encode()))
    mark = Mark(Record(PLACEHOLDER, 10, "t", "t", 0), 0, "")
    found = run(lock.create(mark, 0.25))
    assert line.sent[0][:2] == ("POST", "/api/v1/namespaces/team/endpoints?timeout=0.25s")
    assert line.sent[0][3] == 0.25
    assert line.body == {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "example", "annotations": {RECORD: mark.record.to_json()}},
    }
    assert found.version == "41"


# Replies by status.


def read(lock: EndpointsLock) -> Coroutine[Any, Any, object]:
    return lock.read(1.0)


def create(lock: EndpointsLock) -> Coroutine[Any, Any, object]:
    return lock.create(Mark(HELD, 1, "mine"), 1.0)


def replace(lock: EndpointsLock) -> Coroutine[Any, Any, object]:
    return lock.replace(state(), Mark(HELD, 1, "mine"), 1.0)


@pytest.mark.parametrize(
    ("call", "status", "error"),
    [
        (create, 409, Conflict),
        (replace, 409, Conflict),
        (replace, 404, Conflict),
        (create, 404, Refused),  # the namespace is missing
        *[(call, status, Refused) for call in (read, create, replace) for status in (301, 400, 401, 403, 422, 429)],
        *[(call, status, OutcomeUnknown) for call in (read, create, replace) for status in (500, 502, 503, 504)],
    ],
)
def test_an_error_by_its_status(call: Any, status: int, error: type[TransportError]) -> None:
    with pytest.raises(TransportError) as raised:
        run(call(lock_with(refusal(status, "because"))[0]))
    assert type(raised.value) is error
    assert str(status) in str(raised.value)
    assert "because" in str(raised.value)
    if isinstance(raised.value, Refused):
        assert raised.value.status == status


@pytest.mark.parametrize("call", [read, create, replace])
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"metadata":null}', b'{"metadata":[]}'])
def test_a_good_status_with_a_body_of_no_use_leaves_the_outcome_open(call: Any, body: bytes) -> None:
    # A proxy that answers 200 with a page of its own: what became of the write is not known.
    with pytest.raises(OutcomeUnknown):
        run(call(lock_with(Response(200, body))[0]))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"message":7}'])
def test_a_refusal_without_words(body: bytes) -> None:
    with pytest.raises(Refused, match=r"403$"):
        run(read(lock_with(Response(403, body))[0]))


def test_a_long_message_is_cut() -> None:
    with pytest.raises(Refused) as raised:
        run(read(lock_with(refusal(403, "x" * 10_000))[0]))
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("error", [NotSent("no connection"), OutcomeUnknown("time-out")])
@pytest.mark.parametrize("call", [read, create, replace])
def test_the_connections_errors_pass_unchanged(call: Any, error: TransportError) -> None:
    with pytest.raises(TransportError) as raised:
        run(call(lock_with(error)[0]))
    assert raised.value is error
