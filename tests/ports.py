"""Ports for the servers that tests start. Nobody else is given one of them for as long as the tests run."""

from __future__ import annotations

import socket
from contextlib import suppress

__all__ = ["free_pair", "free_port"]

_held: list[socket.socket] = []


def free_port() -> int:
    """A port of 127.0.0.1 for a server that asks to reuse addresses, as servers do."""
    return _hold("127.0.0.1", 0)


def free_pair() -> int:
    """A port, of all addresses, whose next one is as free."""
    while True:
        port = _hold("", 0)
        with suppress(OSError, OverflowError):
            _hold("", port + 1)
            return port


def _hold(host: str, port: int) -> int:
    # A port that is only looked up and let go may be the local end of anybody's connection when the server wants to listen.
    # One that is bound, without listening, is neither given to connections nor to whoever asks for any port.
    holder = socket.socket()
    try:
        holder.bind((host, port))
    except BaseException:
        holder.close()
        raise
    # After that: so no second holder gets it, but a server that asks for this as well may listen on it beside us.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _held.append(holder)
    found: int = holder.getsockname()[1]
    return found
