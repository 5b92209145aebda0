"""Ports for the servers that tests start. Nobody else is given one of them for as long as the tests run."""

from __future__ import annotations

import socket
from contextlib import suppress

from sandbox._ports import hold_port

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
    holder = hold_port(host, port)
    _held.append(holder)
    found: int = holder.getsockname()[1]
    return found
