"""Asking over HTTP, many at a time: one connection, one request after another, and streams of lines."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import h11

__all__ = ["Connection", "fetch"]


class Connection:
    """One keep-alive connection to 127.0.0.1, opened by the first request.

    Failures are `OSError` or `h11.RemoteProtocolError`, also when the other side closes in between; it is opened anew after them.
    """

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self._port = port
        self._tls = tls
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._http = h11.Connection(h11.CLIENT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Abandon it; the next request opens another."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def get(self, path: str) -> tuple[int, bytes]:
        """The status and the body. No time limit: a frozen process answers when it goes on."""
        try:
            status = await self._send(path)
            body = b""
            while isinstance(event := await self._next(), h11.Data):
                body += event.data
        except BaseException:
            self.close()
            raise
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        else:
            self.close()
        return status, body

    async def lines(self, path: str) -> AsyncIterator[tuple[float, str]]:
        """Each line of an answer without an end, with the wall-clock time at which it came."""
        try:
            await self._send(path)
            rest = b""
            while isinstance(event := await self._next(), h11.Data):
                received = time.time()
                *complete, rest = (rest + event.data).split(b"\n")
                for line in complete:
                    yield received, line.decode()
        finally:
            self.close()

    async def _send(self, path: str) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls)
            self._http = h11.Connection(h11.CLIENT)
        request = h11.Request(method="GET", target=path, headers=[("Host", "localhost")])
        self._streams[1].write((self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b""))
        response = await self._next()
        assert isinstance(response, h11.Response)
        return response.status_code

    async def _next(self) -> Any:
        assert self._streams is not None
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._streams[0].read(65536))
        if isinstance(event, h11.ConnectionClosed):
            raise ConnectionResetError("closed in between")
        return event


async def fetch(port: int, path: str = "/", *, timeout: float = 2.0) -> dict[str, Any] | None:
    """The JSON object that is answered there on a connection of its own; None when nothing is, within `timeout` seconds."""
    try:
        async with asyncio.timeout(timeout), Connection(port) as connection:
            answer: dict[str, Any] = json.loads((await connection.get(path))[1])
            return answer
    except (OSError, TimeoutError, h11.RemoteProtocolError):
        return None
