"""Those who compete for one lock, ours and client-go's, each on a port of its own, and an observer who asks them all the time."""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from signal import SIGKILL
from typing import Any

from sandbox import Program, Sandbox
from tests.api.electors import ROOT, clean_environment
from tests.interop.candidates import candidate
from tests.ports import free_port

__all__ = ["LEASE", "Claim", "Contender", "Observer", "Ours", "Theirs"]

LEASE = 3.0
"""Seconds, of all contenders."""

_EVERY = 0.01
"""Seconds between two questions of the observer to one contender."""


class Contender:
    """One candidate of the election `namespace/election`. It may be ended and started again under its name."""

    claim_path = ""
    """Answers with a JSON object that has `leading` and `expires_in`, the seconds that the claim still holds."""

    def __init__(self, sandbox: Sandbox, lock: str, namespace: str, election: str, name: str) -> None:
        self.name = name
        self.port = free_port()
        self._sandbox = sandbox
        self._argv = self._command(lock, namespace, election)
        self._program = f"{name}-{election}"
        self.program = self._start()

    def __repr__(self) -> str:
        return self.name

    def _command(self, lock: str, namespace: str, election: str) -> list[str]:
        raise NotImplementedError

    def _start(self) -> Program:
        env = clean_environment(KUBECONFIG=str(self._sandbox.kubeconfig))
        return self._sandbox.run(self._program, self._argv, env=env, cwd=ROOT)

    def restart(self) -> None:
        """Start it anew after it has ended."""
        assert self.program.wait(5.0) is not None, f"{self.name} has not ended"
        self.program = self._start()

    def end(self) -> None:
        """Whatever state it is in."""
        if self.program.running:
            self.program.signal(SIGKILL)
            self.program.wait(5.0)

    @property
    def leader(self) -> str | None:
        """Whom it names; None while it does not answer."""
        try:
            return str(self.ask("/")["name"])
        except (OSError, http.client.HTTPException):
            return None

    def ask(self, path: str) -> dict[str, Any]:
        """The JSON object that it answers there. `OSError` or `http.client.HTTPException` when it does not, within 1 s."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1.0)
        try:
            return _get(connection, path)
        finally:
            connection.close()


class Ours(Contender):
    claim_path = "/v1/leader"

    def _command(self, lock: str, namespace: str, election: str) -> list[str]:
        flags = [f"--election={election}", f"--election-namespace={namespace}", f"--id={self.name}", f"--ttl={LEASE:g}s"]
        # Not said where it is the default, so that an elector that knows no other kind can be tried as well.
        kind = [] if lock == "endpoints" else [f"--lock={lock}"]
        return [sys.executable, "-m", "elector", *flags, *kind, f"--http=127.0.0.1:{self.port}", "--sidecar=native"]


class Theirs(Contender):
    claim_path = "/leading"

    def _command(self, lock: str, namespace: str, election: str) -> list[str]:
        where = [f"-lock={lock}", f"-namespace={namespace}", f"-name={election}", f"-id={self.name}"]
        times = [f"-lease={LEASE:g}s", f"-renew={LEASE * 2 / 3:g}s", f"-retry={LEASE / 6:g}s"]
        access = [f"-kubeconfig={self._sandbox.kubeconfig}", f"-http=127.0.0.1:{self.port}"]
        return [str(candidate(lock)), *where, *times, *access, "-release-on-cancel"]


@dataclass(frozen=True, order=True)
class Claim:
    """What an answer gave its reader: leadership from when it was received until `expires_in` after it was asked for."""

    begin: float
    end: float
    name: str


class Observer:
    """Asks every contender for its claim 100 times a second, each on a thread of its own, and compares at the end."""

    def __init__(self, *contenders: Contender) -> None:
        self._claims: dict[str, list[Claim]] = {one.name: [] for one in contenders}
        self._answers = dict.fromkeys(self._claims, 0)
        self._pauses: dict[str, list[tuple[float, float]]] = {one.name: [] for one in contenders}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on, args=(one,), daemon=True) for one in contenders]

    def __enter__(self) -> Observer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(15.0)
        if error[0] is None:
            self.check()

    @contextmanager
    def application_ended(self, contender: Contender) -> Iterator[None]:
        """While in it, nobody acts on what this contender says or has said before: who is asked to release is told so."""
        began = time.monotonic()
        yield
        self._pauses[contender.name].append((began, time.monotonic()))

    def claims_of(self, contender: Contender) -> int:
        """How many answers with a claim it has given."""
        return len(self._claims[contender.name])

    def answers_of(self, contender: Contender) -> int:
        """How many answers of any kind it has given."""
        return self._answers[contender.name]

    def check(self) -> None:
        """No two claims of different contenders overlap."""
        claims = sorted(claim for one in self._claims.values() for claim in map(self._cut, one) if claim.begin < claim.end)
        assert claims, "nobody ever led"
        latest = claims[0]
        for claim in claims[1:]:
            assert claim.name == latest.name or claim.begin >= latest.end, (
                f"{claim.name} claims {latest.end - claim.begin:.3f} s before {latest.name}'s claim has ended"
            )
            if claim.name != latest.name or claim.end > latest.end:
                latest = claim

    def _cut(self, claim: Claim) -> Claim:
        """What is left of it; nothing, with an end that is not after its begin, of one made while the application had ended."""
        ends = [began for began, over in self._pauses[claim.name] if claim.begin < over and began < claim.end]
        return Claim(claim.begin, min([claim.end, *ends]), claim.name)

    def _ask_on(self, contender: Contender) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", contender.port, timeout=15.0)
        while not self._stop.wait(_EVERY):
            asked = time.monotonic()
            try:
                body = _get(connection, contender.claim_path)
            except (OSError, http.client.HTTPException):
                connection.close()  # it is opened again by the next question
                continue
            self._answers[contender.name] += 1
            if body["leading"]:
                self._claims[contender.name].append(Claim(time.monotonic(), asked + body["expires_in"], contender.name))
        connection.close()


def _get(connection: http.client.HTTPConnection, path: str) -> dict[str, Any]:
    connection.request("GET", path)
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    return answer
