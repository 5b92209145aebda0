"""uvicorn's HTTP, with a short way for the common review: answered in the turn of the loop in which its last byte came.

The long way, through ASGI, costs a task, two events and as much again as the decision; a pod waits for that. Whatever is not
the common case goes the long way and is answered there.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from webhook._app import MUTATE, Application, is_json

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

__all__ = ["ReviewProtocol"]

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


class ReviewProtocol(HttpToolsProtocol):
    """One connection. The configuration's application has to be an `Application`."""

    _waiting: ASGI3Application | None = None
    """The application, while a review's body is still to come that may go the short way."""
    _began = 0.0

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        # uvicorn calls this at the end of the headers, or for a pipelined request once the one before it was answered.
        if cycle.more_body and _is_common(cycle):
            self._waiting, self._began = app, perf_counter()
        else:
            super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        """The body is whole (called by the parser)."""
        app, self._waiting = self._waiting, None
        super().on_message_complete()
        if app is None:
            return
        reply = None
        # uvicorn takes `keep_alive` away when it ends; the long way says so to the peer.
        if self.cycle.keep_alive and not self.flow.write_paused:
            application = self.config.app
            assert isinstance(application, Application)
            reply = application.mutate.at_once(bytes(self.cycle.body), self._began)
        if reply is None:
            super()._start_asgi_task(self.cycle, app)
            return
        self._send(reply)

    def _send(self, reply: bytes) -> None:
        self.cycle.response_started = self.cycle.response_complete = True
        more = b"".join(b"%s: %s\r\n" % header for header in self.server_state.default_headers)
        # In one piece: two would be two records of TLS.
        self.transport.write(b"%s%scontent-length: %d\r\n\r\n%s" % (_HEAD, more, len(reply), reply))
        self.on_response_complete()


def _is_common(cycle: RequestResponseCycle) -> bool:
    """Whether this is a review of ordinary length, by its headers."""
    scope = cycle.scope
    if scope["method"] != "POST" or scope["path"] != MUTATE or cycle.waiting_for_100_continue:
        return False
    headers = scope["headers"]
    length = next((value for name, value in headers if name == b"content-length"), b"")
    # A longer body is held back by uvicorn until somebody reads it.
    return is_json(headers) and length.isdigit() and int(length) <= HIGH_WATER_LIMIT
