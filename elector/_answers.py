"""What the elector answers over HTTP: the original's bytes on every path, more under `/v1/`.

Every answer is computed at the moment it is given (rule 1) and handed to the server without an await in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from ipaddress import ip_address

from elector._durations import parse_duration
from elector._election import Election, View
from elector._metrics import render_metrics
from elector._server import Reply, Request

__all__ = ["Answers", "StatusAnswers"]

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

_LONGEST_WAIT = 600.0
"""Seconds that an answer may be held back; longer waits are cut to it, so that no dead reader is kept for ever."""

_COMMENT_EVERY = 15.0
"""Seconds between two comments on an event stream, so that both ends notice when the other is gone."""


class Answers:
    """The handler for `--http`."""

    def __init__(self, election: Election, lock: str) -> None:
        self._election = election
        self._lock = lock

    async def __call__(self, request: Request) -> Reply:
        """Answer one request (the table under "HTTP" in `docs/http.md`)."""
        if not request.path.startswith("/v1/"):
            return self._name()
        if request.path == "/v1/resign":
            return self._resign(request)
        if request.method not in ("GET", "HEAD"):
            return _json(405, {"error": f"{request.method} {request.path}: allowed are GET and HEAD"}, ("Allow", "GET, HEAD"))
        match request.path:
            case "/v1/leader":
                return await self._leader(request)
            case "/v1/leader/events":
                return Reply(200, self._events(), "text/event-stream", (("Cache-Control", "no-store"),))
            case "/v1/leading":
                return self._leading()
        return _json(
            404,
            {
                "error": f"{request.path}: there are /, /v1/leader, /v1/leader/events, /v1/leading and POST /v1/resign",
            },
        )

    def _name(self) -> Reply:
        view = self._election.tell_name()
        return self._held(view, Reply(200, f'{{"name":{_go_string(view.name)}}}'.encode()))

    def _leading(self) -> Reply:
        view = self._election.tell_name()
        return self._held(view, _json(200 if view.leading else 409, {"leading": view.leading, "name": view.name}))

    def _held(self, view: View, reply: Reply) -> Reply:
        """The reply made of `view`, which is not sent any more once a claim in it has ended."""
        return replace(reply, holds=lambda: self._election.leads) if view.leading else reply

    def _resign(self, request: Request) -> Reply:
        if request.method != "POST":
            return _json(405, {"error": f"{request.method} /v1/resign: allowed is POST"}, ("Allow", "POST"))
        if not _is_loopback(request.client):
            return _json(403, {"error": "/v1/resign is answered on loopback only, to the application in this pod"})
        return _json(200, {"resigned": self._election.resign()})

    async def _leader(self, request: Request) -> Reply:
        query = _query(request.query)
        try:
            seconds = min(parse_duration(query["wait"]), _LONGEST_WAIT) if "wait" in query else 0.0
            since = int(query["since"]) if "since" in query else None
        except ValueError:
            return _json(400, {"error": f"?{request.query}: wait is a duration such as 30s, since a fencing token"})
        if seconds:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._other_than(query.get("not"), since)
        view = self._election.tell_claim()
        return self._held(view, _json(200, self._report(view)))

    async def _other_than(self, name: str | None, token: int | None) -> None:
        """Wait until the leader's name is not `name`, or the token is not `token`, or we begin or cease to lead."""
        first = self._election.view()
        while True:
            view = self._election.view()
            if name is not None and view.name != name:
                return
            if token is not None and (view.token != token or view.leading != first.leading):
                return
            await self._election.changed()

    async def _events(self) -> AsyncIterator[bytes]:
        """One event at once and one at each change. Hints: nothing in them is a claim that is given out."""
        while True:
            change = asyncio.ensure_future(self._election.changed())
            try:
                view = self._election.view()
                event = {"name": view.name, "leading": view.leading, "token": view.token}
                yield f"event: leader\ndata: {json.dumps(event)}\n\n".encode()
                while not (await asyncio.wait([change], timeout=_COMMENT_EVERY))[0]:
                    yield b":\n\n"
            finally:
                change.cancel()

    def _report(self, view: View) -> dict[str, object]:
        return {
            "name": view.name,
            "id": view.id,
            "leading": view.leading,
            "token": view.token,
            "transitions": view.transitions,
            "acquired": view.acquired,
            "renewed": view.renewed,
            # Rounded down: a reader must never be told more than holds.
            "expires_in": math.floor(view.expires_in * 1000) / 1000,
            "lock": self._lock,
            "ttl": self._election.timing.ttl,
        }


class StatusAnswers:
    """The handler for `--status-http`: probes that never wait for the API server, and metrics."""

    def __init__(self, election: Election, lock: str, version: str) -> None:
        self._election = election
        self._lock = lock
        self._version = version

    async def __call__(self, request: Request) -> Reply:
        match request.path:
            case "/healthz":
                if self._election.is_stuck:
                    return _text(503, f"the election has not moved for {self._election.stuck_for:.1f} s\n")
                return _text(200, "ok\n")
            case "/readyz":
                return _text(200, "ok\n") if self._election.has_seen_lock else _text(503, "the lock has not been seen yet\n")
            case "/metrics":
                return Reply(200, render_metrics(self._election, self._lock, self._version).encode(), _PROMETHEUS)
        return _text(404, f"{request.path}: there are /healthz, /readyz and /metrics\n")


def _json(status: int, body: dict[str, object], *headers: tuple[str, str]) -> Reply:
    return Reply(status, json.dumps(body, ensure_ascii=False).encode() + b"\n", headers=(("Cache-Control", "no-store"), *headers))


def _text(status: int, text: str) -> Reply:
    return Reply(status, text.encode(), "text/plain; charset=utf-8")


def _go_string(text: str) -> str:
    """A JSON string as Go's encoding/json writes it, which escapes for HTML: the original's bytes for any identity."""
    quoted = json.dumps(text, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        quoted = quoted.replace(character, f"\\u{ord(character):04x}")
    return quoted


def _query(text: str) -> dict[str, str]:
    """The fields of a query string; of a repeated one the last. `urllib.parse` costs more memory than it is worth here."""
    return {_unquoted(name): _unquoted(value) for name, _, value in _fields(text)}


def _fields(text: str) -> Iterable[tuple[str, str, str]]:
    return (field.partition("=") for field in text.split("&") if field)


def _unquoted(text: str) -> str:
    head, *rest = text.replace("+", " ").split("%")
    out = head.encode()
    for part in rest:
        try:
            out += int(part[:2], 16).to_bytes() + part[2:].encode() if len(part) > 1 else b"%" + part.encode()
        except ValueError:
            out += b"%" + part.encode()
    return out.decode(errors="replace")


def _is_loopback(address: str) -> bool:
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback
