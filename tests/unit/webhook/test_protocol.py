"""Two ways to the same answer: the short one of `ReviewProtocol`, and ASGI for whatever is not the common case."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from tests.unit.webhook.conftest import PATIENCE, Server
from tests.unit.webhook.pods import pod, review
from webhook._app import create_app
from webhook._protocol import ReviewProtocol
from webhook._settings import InjectionSettings

BODY = json.dumps(review(pod())).encode()
SETTINGS = InjectionSettings(image="elector:test")


class Peer:
    """A connection on which raw bytes are sent, and which reads one answer at a time."""

    def __init__(self, server: Server) -> None:
        connection = server.connect()
        connection.connect()
        self.socket = connection.sock
        self._received = b""

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def answer(self) -> tuple[bytes, bytes]:
        """Status line with headers, and body, of the next answer."""
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        needed = int(length[1]) if length else 0
        while len(self._received) < needed:
            self._receive()
        body, self._received = self._received[:needed], self._received[needed:]
        return head, body

    def _receive(self) -> None:
        more = self.socket.recv(65536)
        assert more, "the connection was closed"
        self._received += more


@contextmanager
def connected(server: Server) -> Iterator[Peer]:
    peer = Peer(server)
    try:
        yield peer
    finally:
        peer.socket.close()


def head(*headers: str, length: int | None = len(BODY), version: str = "1.1") -> bytes:
    lines = [f"POST /mutate HTTP/{version}", "host: webhook", "content-type: application/json", *headers]
    if length is not None:
        lines.append(f"content-length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()


def is_patch(body: bytes) -> bool:
    response = json.loads(body)["response"]
    return response["allowed"] is True and bool(response["patch"])


def test_a_body_in_pieces_is_put_together(server: Server) -> None:
    with connected(server) as peer:
        peer.send(head())
        for start in range(0, len(BODY), 100):
            peer.send(BODY[start : start + 100])
        said, body = peer.answer()
        assert said.startswith(b"HTTP/1.1 200 OK\r\n")
        assert is_patch(body)


@pytest.mark.parametrize("number", [2, 5])
def test_reviews_sent_without_waiting_are_answered_in_their_order(server: Server, number: int) -> None:
    documents = [review(pod()) for _ in range(number)]
    for i, document in enumerate(documents):
        document["request"]["uid"] = f"review-{i}"
    with connected(server) as peer:
        sent = [json.dumps(document).encode() for document in documents]
        peer.send(*(part for body in sent for part in (head(length=len(body)), body)))
        assert [json.loads(peer.answer()[1])["response"]["uid"] for _ in sent] == [f"review-{i}" for i in range(number)]


def test_the_ways_can_follow_each_other_on_one_connection(server: Server) -> None:
    probe = b"GET /healthz HTTP/1.1\r\nhost: webhook\r\n\r\n"
    with connected(server) as peer:
        for _ in range(2):
            peer.send(head(), BODY, probe, head(), BODY[:50])
            assert is_patch(peer.answer()[1])
            assert peer.answer()[1] == b"ok\n"
            peer.send(BODY[50:])
            assert is_patch(peer.answer()[1])


def test_a_body_in_chunks_is_answered(server: Server) -> None:
    with connected(server) as peer:
        peer.send(head("transfer-encoding: chunked", length=None), b"%x\r\n" % len(BODY), BODY, b"\r\n0\r\n\r\n")
        assert is_patch(peer.answer()[1])


def test_a_client_that_asks_first_is_told_to_go_on(server: Server) -> None:
    with connected(server) as peer:
        peer.send(head("expect: 100-continue"))
        assert peer.answer() == (b"HTTP/1.1 100 Continue", b"")
        peer.send(BODY)
        assert is_patch(peer.answer()[1])


@pytest.mark.parametrize(("version", "header"), [("1.1", "connection: close"), ("1.0", "accept: */*")])
def test_a_connection_that_is_not_kept_ends_with_its_answer(server: Server, version: str, header: str) -> None:
    with connected(server) as peer:
        peer.send(head(header, version=version), BODY)
        said, body = peer.answer()
        assert b"connection: close" in said.split(b"\r\n")
        assert is_patch(body)
        assert peer.socket.recv(1) == b""


def test_a_body_that_says_nothing_is_refused_and_counted_once(server: Server) -> None:
    def refused() -> int:
        found = re.search(rb'reviews_total\{[^}]*reason="malformed"[^}]*\} (\d+)', server.request("GET", "/metrics")[1])
        return int(found[1]) if found else 0

    before = refused()
    with connected(server) as peer:
        peer.send(head(length=2), b"{}")
        said, body = peer.answer()
        assert said.startswith(b"HTTP/1.1 400 ")
        assert body == b"the body is not an AdmissionReview\n"
        assert peer.socket.recv(1) == b""
    assert refused() == before + 1


class Written:
    """What a transport was asked to send. Only what the protocol calls of `asyncio.Transport`."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def get_extra_info(self, name: str) -> Any:
        return None

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing is open."""


async def take_one(*, tasks: int) -> bytes:
    """What is sent for a common review; `tasks`: how many have to be waited for."""
    config = uvicorn.Config(create_app(SETTINGS), http=ReviewProtocol, ws="none", lifespan="off", log_config=None)
    config.load()
    state = uvicorn.Server(config).server_state
    protocol = ReviewProtocol(config, state, {})
    written = Written()
    protocol.connection_made(written)  # type: ignore[arg-type]
    protocol.data_received(head() + BODY)
    assert len(state.tasks) == tasks
    if tasks:
        await asyncio.wait_for(asyncio.gather(*state.tasks), PATIENCE)
    else:
        assert len(written.pieces) == 1
    protocol.connection_lost(RuntimeError("the test is over"))
    if protocol.timeout_keep_alive_task is not None:
        protocol.timeout_keep_alive_task.cancel()
    return b"".join(written.pieces)


def test_the_common_review_takes_the_short_way() -> None:
    """Answered before `data_received` returns, in one piece, and without a task."""
    assert is_patch(asyncio.run(take_one(tasks=0)).partition(b"\r\n\r\n")[2])


def test_a_mistake_of_ours_is_no_fault_of_the_request(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr("webhook._app.answer", fail)
    assert asyncio.run(take_one(tasks=1)).startswith(b"HTTP/1.1 500 ")
    assert "ZeroDivisionError: a mistake" in caplog.text
