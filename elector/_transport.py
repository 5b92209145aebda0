"""What the election needs of a connection to the API server; the tests' simulated network speaks the same."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Response", "Transport"]


@dataclass(frozen=True, slots=True)
class Response:
    """A complete reply of the API server, whatever its status.

    `headers` has lower-case names; of repeated headers the values are joined by ", ".
    """

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Transport(Protocol):
    """Sends requests to one API server. `path` is absolute and carries the query."""

    async def request(self, method: str, path: str, body: bytes | None = None, *, timeout: float) -> Response:
        """Send one request (JSON) and read the whole reply, all within `timeout` seconds.

        Raises `NotSent` when it certainly had no effect and `OutcomeUnknown` when it may have had one.
        Idle connections are kept and used again; after any failure the next request opens a fresh one.
        """
        ...

    def watch(self, path: str, *, timeout: float) -> AsyncGenerator[bytes, None]:
        """Open a watch and yield its events, one JSON line each, on a connection of its own.

        `timeout` bounds the time until the response's headers have come. Ends when the server ends the stream.
        Raises `NotSent`, `OutcomeUnknown`, or `WatchRefused` with the status when the server refuses the watch.
        """
        ...

    async def close(self) -> None:
        """Close every connection; safe to call twice."""
        ...
