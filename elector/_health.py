"""The health gate (`--health-url`): a candidate stands only while its application answers 2xx.

It runs beside the election and only tells it what it found: no renewal ever waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import h11

__all__ = ["HealthGate"]

log = logging.getLogger("elector")

_TIMEOUT = 1.0
"""Seconds that one check may take; and between the end of one and the start of the next."""

_FAILURES, _SUCCESSES = 3, 2
"""In a row: so many failures give leadership up, so many successes let the candidate stand again."""


class HealthGate:
    """Asks the application once a second, and says when it has become healthy or unhealthy; it begins as unhealthy."""

    def __init__(self, url: str, on_change: Callable[[bool], None]) -> None:
        """`url` is `http://HOST[:PORT][/PATH]`."""
        authority, slash, path = url.removeprefix("http://").partition("/")
        host, _, port = authority.rpartition(":") if authority[-1].isdigit() and ":" in authority else (authority, "", "80")
        self._url = url
        self._authority = authority
        self._target = slash + path or "/"
        self._host, self._port = host.strip("[]"), int(port)
        self._on_change = on_change
        self._healthy = False
        self._in_a_row = 0

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            self.judge(await self._answer())
            await asyncio.sleep(_TIMEOUT)

    def judge(self, answer: str) -> None:
        """Take in one check: empty when it was answered 2xx, else what was wrong."""
        if (not answer) == self._healthy:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._in_a_row < (_FAILURES if self._healthy else _SUCCESSES):
            return
        self._healthy, self._in_a_row = not self._healthy, 0
        if self._healthy:
            log.info("the application is healthy: standing for election")
        else:
            log.warning("the application is not healthy (%s: %s): giving up", self._url, answer)
        self._on_change(self._healthy)

    async def _answer(self) -> str:
        try:
            async with asyncio.timeout(_TIMEOUT):
                status = await self._status()
        except TimeoutError:
            return f"no answer within {_TIMEOUT:g} s"
        except (OSError, EOFError, h11.RemoteProtocolError) as error:
            return str(error) or type(error).__name__
        return "" if 200 <= status < 300 else f"HTTP {status}"

    async def _status(self) -> int:
        """The status of one GET, on a connection of its own."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            http = h11.Connection(h11.CLIENT)
            headers = [("Host", self._authority), ("User-Agent", "leader-election"), ("Connection", "close")]
            writer.write(http.send(h11.Request(method="GET", target=self._target, headers=headers)) or b"")
            while True:
                event = http.next_event()
                if isinstance(event, h11.Response):
                    return event.status_code
                if event is h11.NEED_DATA:
                    http.receive_data(await reader.read(4096))
                elif not isinstance(event, h11.InformationalResponse):
                    raise EOFError("the connection was closed without an answer")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
