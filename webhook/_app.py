"""The admission application: HTTP around `answer`, kept flat because it stands in the way of every annotated pod."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from time import perf_counter

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from webhook._errors import MalformedReview, quoted
from webhook._metrics import CONTENT_TYPE, Metrics
from webhook._review import Decision, answer
from webhook._settings import InjectionSettings

__all__ = ["LARGEST_BODY", "MUTATE", "Application", "create_app", "is_json"]

LARGEST_BODY = 3 * 1024 * 1024
"""Bytes. The API server's own limit for a request is 3 MiB, so no pod that it sends is larger by much."""

MUTATE = "/mutate"
"""The path of reviews."""

_JSON = (b"content-type", b"application/json")
_LAST = (b"connection", b"close")

log = logging.getLogger(__name__)


def create_app(settings: InjectionSettings, metrics: Metrics | None = None) -> Application:
    """The application: `POST /mutate`, `GET /healthz`, `/readyz` and `/metrics`."""
    counted = metrics or Metrics()

    async def alive(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def scrape(_: Request) -> Response:
        return Response(counted.text(), media_type=CONTENT_TYPE)

    app = Application(Mutate(settings, counted))
    app.add_route("/healthz", alive, methods=["GET"])
    app.add_route("/readyz", alive, methods=["GET"])
    app.add_route("/metrics", scrape, methods=["GET"])
    return app


class Application(FastAPI):
    """FastAPI, and what answers its reviews, for `ReviewProtocol` to ask directly."""

    def __init__(self, mutate: Mutate) -> None:
        # No pages about an API that no person calls.
        super().__init__(title="leader-election", openapi_url=None, docs_url=None, redoc_url=None)
        self.mutate = mutate
        # Starlette's routes: FastAPI's own would send the pod through pydantic.
        self.router.routes.append(Route(MUTATE, mutate, methods=["POST"]))


class _Refused(Exception):
    """This is no review that could be answered."""

    def __init__(self, status: int, code: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code


class Mutate:
    """`POST /mutate`, as plain ASGI: request and response objects would take as long as the injection."""

    ending = False
    """From now on each answer is the last on its connection, and says so."""

    def __init__(self, settings: InjectionSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics

    def at_once(self, body: bytes, began: float) -> bytes | None:
        """Answer a review that was declared to be JSON and whose headers came at `began`.

        None where there is more to say than the answer, or it fails: then nothing was counted or logged, and it has to be called
        as ASGI. The parser that calls would take an exception for a fault of the request.
        """
        if self.ending:
            return None
        try:
            reply, decision = answer(body, self._settings)
        except Exception:
            return None
        self._book_later(decision, perf_counter() - began)
        return reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        try:
            _check_content_type(scope)
            body = await _read(receive)
            if body is None:
                return
            try:
                reply, decision = answer(body, self._settings)
            except MalformedReview as error:
                raise _Refused(400, "malformed", str(error)) from error
        except _Refused as refused:
            seconds = perf_counter() - began
            # The rest of a body that was not read must not be taken for the next request.
            await PlainTextResponse(f"{refused}\n", refused.status, headers={"connection": "close"})(scope, receive, send)
            self._metrics.reviewed("refused", refused.code, dry_run=False, seconds=seconds)
            log.warning("result=refused status=%d reason=%s", refused.status, quoted(refused, longest=1000))
            return
        seconds = perf_counter() - began
        await send(_start(len(reply), last=self.ending))
        await send({"type": "http.response.body", "body": reply})
        self._book_later(decision, seconds)

    def _book_later(self, decision: Decision, seconds: float) -> None:
        # The loop sends what was written when this turn ends: the pod need not wait for our books.
        asyncio.get_running_loop().call_soon(self._book, decision, seconds)

    def _book(self, decision: Decision, seconds: float) -> None:
        self._metrics.reviewed(decision.result.value, decision.code, dry_run=decision.dry_run, seconds=seconds)
        log.info(_line(decision))


def _line(decision: Decision) -> str:
    line = (
        f"result={decision.result.value} namespace={quoted(decision.namespace)} subject={quoted(decision.subject)} "
        f"reason={quoted(decision.reason, longest=1000)}"
    )
    return f"{line} dryRun=true" if decision.dry_run else line


def _start(length: int, *, last: bool) -> Message:
    headers = [_JSON, (b"content-length", str(length).encode()), *([_LAST] if last else [])]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def is_json(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request's headers declare its body to be JSON; their names are in lower case, as ASGI has them."""
    return _content_type(headers).partition(b";")[0].strip().lower() == b"application/json"


def _content_type(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return next((value for name, value in headers if name == b"content-type"), b"")


def _check_content_type(scope: Scope) -> None:
    if not is_json(scope["headers"]):
        given = quoted(_content_type(scope["headers"]).decode("latin-1"))
        raise _Refused(415, "content-type", f"the content type is {given}, allowed is application/json")


async def _read(receive: Receive) -> bytes | None:
    """The whole body, or None when the client has gone. Raises `_Refused` when it is too large."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > LARGEST_BODY:
            raise _Refused(413, "too-large", f"the body is larger than {LARGEST_BODY} bytes")
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
