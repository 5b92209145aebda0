"""Which replica of the controller acts: this project's own election, used as a library.

The only place here that knows the elector.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping

from elector.library import (
    DEFAULT_DIRECTORY,
    DIRECTORY_VARIABLE,
    Clock,
    CredentialsError,
    Election,
    EndpointsLock,
    KubeTransport,
    Sidecar,
    SystemClock,
    Timing,
    View,
    __version__,
    in_cluster,
)
from webhook.controller._errors import CannotRun

__all__ = ["DEFAULT_DIRECTORY", "DIRECTORY_VARIABLE", "Clock", "Leadership", "SystemClock", "View"]


class Leadership:
    """One candidate. `run` it as a task; everything else may be called from the same event loop at any time."""

    def __init__(
        self, environ: Mapping[str, str], *, namespace: str, lock: str, identity: str, instance: str, ttl: float
    ) -> None:
        """`ttl` is in seconds. Raises `CannotRun` when the service account is not usable."""
        # The elector's own lines belong to this program's log.
        logging.getLogger("elector").setLevel(logging.INFO)
        try:
            self._transport = KubeTransport(in_cluster(environ), version=__version__)
        except CredentialsError as error:
            raise CannotRun(str(error)) from error
        # `native`: whoever is told that we lead has ended when `stop` is called, so the lock is released at once.
        self._election = Election(
            EndpointsLock(self._transport, namespace, lock),
            identity,
            instance,
            Timing.of(ttl),
            SystemClock(),
            random.Random(),
            sidecar=Sidecar.NATIVE,
        )

    @property
    def leads(self) -> bool:
        """Whether this replica leads at this moment."""
        return self._election.view().leading

    @property
    def has_seen_lock(self) -> bool:
        """Whether the lock's state has been seen since the start."""
        return self._election.has_seen_lock

    @property
    def stuck_for(self) -> float:
        """Seconds by which the election is late."""
        return self._election.stuck_for

    async def until(self, condition: Callable[[bool], bool]) -> None:
        """Return once `condition` holds for whether we lead."""
        while not condition(self.leads):
            await self._election.changed()

    async def run(self) -> None:
        """Take part until `stop`, then release what is held."""
        try:
            await self._election.run()
        finally:
            await asyncio.shield(self._transport.close())

    def stop(self) -> None:
        """Give up. Only when nothing acts on our leadership any more."""
        self._election.terminate()
