"""A TCP proxy that goes wrong on demand, one between each candidate and the API server, and an observer of all candidates."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import Path

from sandbox import Sandbox
from tests.api.electors import Answer, Elector, Witness

__all__ = ["Direction", "FaultProxy", "Observer"]

_CHUNK = 65536  # bytes read at a time
_REPLY = 10.0  # seconds in which the proxy's thread has to obey


class Direction(Enum):
    """Which way bytes go."""

    TO_SERVER = "to the API server"
    TO_CLIENT = "to the candidate"


BOTH = (Direction.TO_SERVER, Direction.TO_CLIENT)


class FaultProxy:
    """A port of 127.0.0.1 that passes bytes on to the API server of a sandbox, until told otherwise.

    Faults hold from when the call returns until `heal`. What a candidate had sent before it gave a connection up is still
    delivered, however late, unless the fault is a reset or a cut: so a write may be carried out long after its time-out.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        host, _, port = sandbox.url.rpartition("//")[2].rpartition(":")
        self._target = (host, int(port))
        self._url = sandbox.url
        self._original = sandbox.kubeconfig
        # Bound and never listening: the port stays ours while nobody listens on it, which refuses connections.
        self._holder = _bound(0)
        self.port: int = self._holder.getsockname()[1]
        self._open = dict.fromkeys(Direction, True)
        self._delay = dict.fromkeys(Direction, 0.0)
        self._resetting = False
        self._listener: asyncio.Server | None = None
        self._links: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}
        self._loop = asyncio.new_event_loop()
        self._moved = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy on {self.port}", daemon=True)

    def kubeconfig(self, path: Path) -> Path:
        """Write the administrator's kubeconfig to `path`, but through this port."""
        text = self._original.read_text()
        assert self._url in text
        path.touch(mode=0o600)
        path.write_text(text.replace(self._url, f"https://127.0.0.1:{self.port}"))
        return path

    # Faults

    def delay(self, seconds: float, *directions: Direction) -> None:
        """Deliver everything this much later; both ways unless directions are given."""

        def slow_down() -> None:
            self._delay.update(dict.fromkeys(directions or BOTH, seconds))

        self._obey(slow_down)

    def stall(self, *directions: Direction) -> None:
        """Hold everything back, without closing anything; both ways unless directions are given."""

        def close_gates() -> None:
            self._open.update(dict.fromkeys(directions or BOTH, False))

        self._obey(close_gates)

    def reset(self) -> None:
        """Reset every connection, and every new one as soon as it is made."""

        def reset_all() -> None:
            self._resetting = True
            self._end_links(_reset)

        self._obey(reset_all)

    def cut(self) -> None:
        """Close every connection in good order, and let new ones be refused."""

        def close_all() -> None:
            self._stop_listening()
            self._end_links(asyncio.StreamWriter.close)

        self._obey(close_all)

    def heal(self) -> None:
        """Pass everything on again, what was held back first."""

        def pass_on() -> None:
            self._open = dict.fromkeys(Direction, True)
            self._delay = dict.fromkeys(Direction, 0.0)
            self._resetting = False

        self._obey(pass_on)
        if self._listener is None:
            self._listen()

    @property
    def connections(self) -> int:
        """How many go through now."""
        return len(self._links)

    # Life

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._listen()
        return self

    def __exit__(self, *error: object) -> None:
        async def end() -> None:
            self._stop_listening()
            links = dict(self._links)
            self._end_links(_abort)
            await asyncio.gather(*links, return_exceptions=True)
            for writer in itertools.chain(*links.values()):
                with suppress(OSError):
                    await writer.wait_closed()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(_REPLY)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_REPLY)
        self._loop.close()
        self._holder.close()

    def _listen(self) -> None:
        async def listen() -> None:
            self._listener = await asyncio.start_server(self._serve, sock=_bound(self.port))

        asyncio.run_coroutine_threadsafe(listen(), self._loop).result(_REPLY)

    def _obey(self, change: Callable[[], None]) -> None:
        async def apply() -> None:
            change()
            # Whoever waits looks again.
            self._moved.set()
            self._moved = asyncio.Event()

        asyncio.run_coroutine_threadsafe(apply(), self._loop).result(_REPLY)

    # In the proxy's thread

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _end_links(self, end: Callable[[asyncio.StreamWriter], None]) -> None:
        for task, writers in self._links.items():
            for writer in writers:
                end(writer)
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._resetting:
            _reset(writer)
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _abort(writer)
            return
        # Both ways in one task, which ends with the first of them: either end has closed, and all that came from it is delivered.
        link = asyncio.create_task(self._join(reader, writer, server_reader, server_writer))
        self._links[link] = (writer, server_writer)
        link.add_done_callback(self._links.pop)

    async def _join(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        ways = [
            asyncio.create_task(self._pass(Direction.TO_SERVER, reader, server_writer)),
            asyncio.create_task(self._pass(Direction.TO_CLIENT, server_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            with suppress(OSError):
                server_writer.close()
                writer.close()

    async def _pass(self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Deliver what comes, in order and each piece when its time has come, until the sender has closed."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def receive() -> None:
            with suppress(OSError):
                while data := await reader.read(_CHUNK):
                    queue.put_nowait((self._loop.time(), data))
            queue.put_nowait((self._loop.time(), b""))

        receiving = asyncio.create_task(receive())
        try:
            with suppress(OSError):
                while True:
                    arrived, data = await queue.get()
                    await self._let_through(direction, arrived)
                    if not data:
                        return
                    writer.write(data)
                    await writer.drain()
        finally:
            receiving.cancel()

    async def _let_through(self, direction: Direction, arrived: float) -> None:
        """Wait until what arrived then may go on."""
        while True:
            moved = self._moved
            left = arrived + self._delay[direction] - self._loop.time()
            if self._open[direction] and left <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(left if self._open[direction] else None):
                    await moved.wait()


def _bound(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def _abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Observer(Witness):
    """A witness that keeps its connections and asks at a steady rate, so that it can follow many."""

    def __init__(self, *electors: Elector, hertz: float = 100.0, tokens: bool = True) -> None:
        """`tokens`: whether fencing tokens have to grow; a restored etcd may take them back."""
        self._pause = 1 / hertz
        self._tokens = tokens
        self._began = time.monotonic()
        super().__init__(*electors)

    def __enter__(self) -> Observer:
        return self

    def leads_since(self, when: float, elector: Elector) -> bool:
        """Whether it claims in an answer to a question asked after that (monotonic) time."""
        return any(answer.asked > when and answer.body["leading"] for answer in reversed(tuple(self.answers[elector])))

    def leader_since(self, when: float, *electors: Elector) -> Elector | None:
        """One of these, or of all, who leads since then."""
        return next((one for one in electors or tuple(self.answers) if self.leads_since(when, one)), None)

    def claimed_until(self, elector: Elector) -> float:
        """When the last claim that it has given out ends; minus infinity when it gave none."""
        ends = (answer.asked + answer.body["expires_in"] for answer in tuple(self.answers[elector]) if answer.body["leading"])
        return max(ends, default=float("-inf"))

    def longest_without(self) -> float:
        """Seconds of the longest time in which nobody claimed, from the first claim to the last."""
        claims = sorted(
            (answer.received, answer.asked + answer.body["expires_in"])
            for answers in self.answers.values()
            for answer in tuple(answers)
            if answer.body["leading"]
        )
        longest, end = 0.0, claims[0][0]
        for begin, until_then in claims:
            longest, end = max(longest, begin - end), max(end, until_then)
        return longest

    def check(self) -> None:
        super().check()
        seconds = time.monotonic() - self._began
        count = sum(len(answers) for answers in self.answers.values())
        leaders = {elector.name for elector in self.answers if self.has_led(elector)}
        print(
            f"{count} answers of {len(self.answers)} candidates in {seconds:.1f} s "
            f"({count / seconds / len(self.answers):.0f} a second each), {len(leaders)} of them led, no two claims at a time; "
            f"longest without a claim: {self.longest_without():.2f} s"
        )
        # Fewer could miss an overlap of a moment. A quarter: the machine has more to do.
        assert count / seconds / len(self.answers) > 0.25 / self._pause, "the observer did not ask often enough to prove anything"

    def _ask_on(self, elector: Elector) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", elector.port, timeout=10.0)
        try:
            while not self._stop.is_set():
                asked = time.monotonic()
                try:
                    connection.request("GET", "/v1/leader")
                    response = connection.getresponse()
                    content = response.read()
                except (OSError, http.client.HTTPException):
                    connection.close()
                    self._stop.wait(0.02)
                    continue
                received = time.monotonic()
                if response.status == 200:
                    body = json.loads(content)
                    if not self._tokens:
                        body["token"] = received  # what always grows, for the check
                    self.answers[elector].append(Answer(asked, received, body))
                self._stop.wait(max(0.001, asked + self._pause - time.monotonic()))
        finally:
            connection.close()
