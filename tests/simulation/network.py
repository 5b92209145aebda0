"""The simulated network between one pod and the API server, and what can go wrong in it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from elector._errors import NotSent, OutcomeUnknown, WatchRefused
from elector._transport import Response
from tests.simulation.server import ApiServer, _status
from tests.simulation.world import LocalLoop, World

__all__ = ["SimulatedTransport", "Weather"]


@dataclass(slots=True)
class Weather:
    """What the network does to one pod's requests just now; times in true seconds."""

    lose_request: float = 0.0
    lose_reply: float = 0.0
    late_request: float = 0.0
    late_reply: float = 0.0
    double: float = 0.0
    errors: tuple[int, ...] = ()
    late_watch: float = 0.0
    stalled_until: float = 0.0
    """True time until which watch streams swallow events without closing."""
    slow: float = 0.002
    """Ordinary one-way delay at most."""


class SimulatedTransport:
    """A `Transport` whose requests cross the simulated network."""

    def __init__(self, world: World, server: ApiServer, loop: LocalLoop, weather: Weather, *, may_watch: bool) -> None:
        self._world = world
        self._server = server
        self._loop = loop
        self._weather = weather
        self.may_watch = may_watch
        self.requests = 0

    async def request(self, method: str, path: str, body: bytes | None = None, *, timeout: float) -> Response:
        if not self._server.up:
            raise NotSent("connection refused")
        self.requests += 1
        reply: asyncio.Future[Response] = self._loop.create_future()
        self._send(method, path, body, reply)
        try:
            async with asyncio.timeout(timeout):
                response = await reply
        except TimeoutError as error:
            raise OutcomeUnknown(f"{method}: no reply within {timeout:.3g} s") from error
        if response.status == 0:
            raise OutcomeUnknown(f"{method}: connection lost")
        return response

    def _send(self, method: str, path: str, body: bytes | None, reply: asyncio.Future[Response]) -> None:
        world, weather, rng = self._world, self._weather, self._world.rng
        # A process that froze after deciding to send sends when it goes on.
        start = max(world.now, self._loop.frozen_until)
        copies = 2 if rng.random() < weather.double else 1
        answered = rng.randrange(copies)
        for copy in range(copies):
            arrival = start + rng.random() * weather.slow
            if weather.late_request:
                arrival += rng.random() * weather.late_request
            lost = rng.random() < weather.lose_request
            if not lost:
                world.at(arrival, lambda wanted=copy == answered: self._arrive(method, path, body, reply, wanted))  # type: ignore[misc]

    def _arrive(self, method: str, path: str, body: bytes | None, reply: asyncio.Future[Response], wanted: bool) -> None:
        world, weather, rng = self._world, self._weather, self._world.rng
        if not self._server.up:
            response = Response(0, b"")
        else:
            error = rng.choice(weather.errors) if weather.errors and rng.random() < 0.7 else 0
            # Too many requests are turned away unread; a 5xx may come before or after the work was done.
            refused = error == 429 or (error and rng.random() < 0.5)
            response = _status(error, "error") if refused else self._server.handle(method, path, body)
            if error and not refused:
                response = _status(error, "error")
        if not wanted or rng.random() < weather.lose_reply:
            return
        delay = rng.random() * weather.slow
        if weather.late_reply:
            delay += rng.random() * weather.late_reply
        world.at(world.now + delay, lambda: self._deliver(reply, response))

    def _deliver(self, reply: asyncio.Future[Response], response: Response) -> None:
        if not self._loop.dead and not reply.done():
            reply.set_result(response)

    async def watch(self, path: str, *, timeout: float) -> AsyncGenerator[bytes, None]:
        """Events in order, each a moment later; a stall swallows what comes while it lasts, and the stream stays open."""
        if not self._server.up:
            raise NotSent("connection refused")
        if not self.may_watch:
            raise WatchRefused("watch: 403", 403)
        world, weather = self._world, self._weather
        self.requests += 1
        lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        last = world.now

        def put(line: bytes | None) -> None:
            if not self._loop.dead:
                lines.put_nowait(line)

        def deliver(line: bytes | None) -> None:
            nonlocal last
            if world.rng.random() < weather.lose_reply and line is None:
                return  # the end of a stream gets lost with the connection
            if world.now < weather.stalled_until:
                return
            last = max(last, world.now + world.rng.random() * max(weather.slow, weather.late_watch))
            world.at(last, lambda: put(line))

        await asyncio.sleep(world.rng.random() * weather.slow)
        if weather.lose_request == 1.0:
            await asyncio.sleep(timeout)
            raise OutcomeUnknown("watch: no reply")
        since = int(re.findall(r"resourceVersion=(\d+)", path)[0])
        error = self._server.watch(path, since, deliver)
        try:
            if error is not None:
                yield error
                return
            while (line := await lines.get()) is not None:
                yield line
        finally:
            self._server.unwatch(deliver)

    async def close(self) -> None:
        pass
