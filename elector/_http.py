"""What handlers of the HTTP server get and give, what clients may cost, and small things of HTTP (RFC 9110, RFC 9112)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

__all__ = ["REASONS", "Handler", "Limits", "Reply", "Request", "date", "plain_address", "split_target"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a handler gets to see; bodies are thrown away, since no answer here depends on one.

    `path` begins with "/" and is not percent-decoded; `query` is what stood after "?"; `client` is the peer's IP address
    (in IPv4 notation also when it reached an IPv6 socket).
    """

    method: str
    path: str
    query: str
    client: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A handler's answer. An iterator as `body` is sent piece by piece and always closed (`aclose`) at the end.

    `holds` is asked when `body`, if it is bytes, is ready to leave: False when it has ceased to be true since it was made.
    """

    status: int
    body: bytes | AsyncIterator[bytes]
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    holds: Callable[[], bool] = lambda: True


Handler = Callable[[Request], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server spends at most on its clients. Times in seconds, sizes in bytes."""

    connections: int = 256
    """At a time, over all addresses, streams among them: far more than one pod has readers."""
    refused: int = 512
    """At a time beyond those that are told so, or have ended, and may linger. Stays below 1024 descriptors."""
    header_time: float = 5.0
    """From the connection, or a later request's first byte, to the end of the headers: they fit in one packet."""
    body_time: float = 30.0
    """From there to the end of the body."""
    idle_time: float = 60.0
    """Between two requests: who asks every few seconds should find the connection open."""
    write_time: float = 5.0
    """For output to leave for the kernel: a reader that is slower hangs."""
    linger_time: float = 1.0
    """For a client to take our last words and to close: closing before it does can destroy them on their way."""
    header_size: int = 16 << 10
    """Of request line and headers together: several times what browsers and proxies send."""
    body_size: int = 1 << 20
    """Beyond it, 413 without reading on. What is read is dropped as it comes."""
    socket_buffer: int = 64 << 10
    """In the kernel, per socket and direction: what a hanging reader costs beside our own memory in the pod's limit."""


REASONS = {
    200: b"OK",
    202: b"Accepted",
    204: b"No Content",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    409: b"Conflict",
    413: b"Content Too Large",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
    505: b"HTTP Version Not Supported",
}


def split_target(target: bytes) -> tuple[str, str] | None:
    """Path and query of a request's target (RFC 9112, section 3.2), None when it is none of the forms for a server."""
    path, _, query = target.decode("ascii").partition("?")
    if path.startswith("/"):
        return path, query
    scheme, separator, rest = path.partition("://")
    if separator and scheme.lower() in ("http", "https"):
        return "/" + rest.partition("/")[2], query
    return ("/", "") if target == b"*" else None


def plain_address(address: str) -> str:
    """The address without an IPv6 zone, and in IPv4 notation where it is one (RFC 4291, section 2.5.5.2)."""
    address = address.partition("%")[0]
    return address[7:] if address.startswith("::ffff:") and "." in address else address


_date_of = (0, "")


def date() -> str:
    """Now, as RFC 9110, section 5.6.7 has it; made once a second."""
    global _date_of
    now = int(time.time())
    if _date_of[0] != now:
        _date_of = (now, time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now)))
    return _date_of[1]
