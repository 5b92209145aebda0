"""Real elector processes on a sandbox, and a witness that never lets two of them claim at once."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes.client

from sandbox import Program, Sandbox
from tests.ports import free_port

__all__ = [
    "ROOT",
    "Answer",
    "Elector",
    "Relay",
    "Witness",
    "clean_environment",
    "lock_of",
    "make_free_lock",
]

ROOT = Path(__file__).resolve().parents[2]
RECORD = "control-plane.alpha.kubernetes.io/leader"


def clean_environment(**more: str) -> dict[str, str]:
    """This process' environment without what would steer an elector."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ELECTOR_", "KUBE"))}
    return {**env, **more}


def make_free_lock(sandbox: Sandbox, namespace: str, election: str) -> None:
    """A lock that is released: nobody has to wait a ttl for it."""
    free = {"holderIdentity": "", "leaseDurationSeconds": 1, "acquireTime": None, "renewTime": None, "leaderTransitions": 0}
    body = {"metadata": {"name": election, "annotations": {RECORD: json.dumps(free)}}}
    _core(sandbox).create_namespaced_endpoints(namespace, body)


def lock_of(sandbox: Sandbox, namespace: str, election: str) -> dict[str, Any]:
    """The record as it stands in the Endpoints object."""
    found = _core(sandbox).read_namespaced_endpoints(election, namespace)
    record: dict[str, Any] = json.loads(found.metadata.annotations[RECORD])
    return record


def _core(sandbox: Sandbox) -> Any:
    # Endpoints are deprecated and the client says so in a header only, so no warning is raised here.
    return kubernetes.client.CoreV1Api(sandbox.api)


@dataclass(frozen=True)
class Answer:
    """One answer of `/v1/leader`; times by this machine's monotonic clock."""

    asked: float
    received: float
    body: dict[str, Any]


class Elector:
    """One `python -m elector`."""

    def __init__(
        self,
        sandbox: Sandbox,
        name: str,
        *flags: str,
        env: Mapping[str, str] | None = None,
        program: str = "",
    ) -> None:
        """`env`: its whole environment; by default one with `KUBECONFIG` of the sandbox's administrator."""
        self.name = name
        self.port = free_port()
        self.program: Program = sandbox.run(
            program or name,
            [sys.executable, "-m", "elector", f"--id={name}", f"--http=127.0.0.1:{self.port}", *flags],
            env=clean_environment(KUBECONFIG=str(sandbox.kubeconfig)) if env is None else env,
            cwd=ROOT,
        )

    def ask(
        self, path: str = "/v1/leader", timeout: float = 5.0, *, method: str = "GET", port: int | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port if port is None else port, timeout=timeout)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    @property
    def leader(self) -> str | None:
        """Whom it names at `/`; None while it does not answer."""
        try:
            return str(json.loads(self.ask("/", timeout=1.0)[1])["name"])
        except (OSError, http.client.HTTPException):
            return None

    @property
    def leads(self) -> bool:
        try:
            return self.ask("/v1/leading", timeout=1.0)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    @property
    def said(self) -> list[str]:
        """The names in its lines `leader is NAME`, in order."""
        return re.findall(r"^leader is (.+)$", self.log, re.MULTILINE)

    @property
    def log(self) -> str:
        return self.program.log.read_text()


class Witness:
    """Asks every elector for its claim all the time, each on a thread of its own, and compares afterwards.

    A claim lasts for a reader from when it has received the answer until `expires_in` after it sent the request.
    """

    def __init__(self, *electors: Elector) -> None:
        self.answers: dict[Elector, list[Answer]] = {}
        self._ended: dict[Elector, float] = {}
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        for elector in electors:
            self.watch(elector)

    def watch(self, elector: Elector) -> None:
        self.answers[elector] = []
        thread = threading.Thread(target=self._ask_on, args=(elector,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def application_ends(self, elector: Elector) -> None:
        """Nobody acts on this elector's answers any more from now on: its claims end here."""
        self._ended[elector] = time.monotonic()

    def has_led(self, *electors: Elector) -> bool:
        """Whether one of these has answered that it leads."""
        return any(answer.body["leading"] for elector in electors for answer in tuple(self.answers[elector]))

    def __enter__(self) -> Witness:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(15.0)
        if error[0] is None:
            self.check()

    def check(self) -> None:
        """No two claims of different electors overlap, and the token of a later one is higher."""
        claims = []
        for elector, answers in self.answers.items():
            for answer in answers:
                end = min(answer.asked + answer.body["expires_in"], self._ended.get(elector, float("inf")))
                if answer.body["leading"] and answer.received < end:
                    claims.append((answer.received, end, answer.body["token"], elector.name, id(elector)))
        claims.sort()
        assert claims, "nobody ever led"
        latest = claims[0]
        for claim in claims[1:]:
            if claim[4] != latest[4]:
                assert claim[0] >= latest[1], (
                    f"{claim[3]} claims {latest[1] - claim[0]:.3f} s before {latest[3]}'s claim has ended"
                )
                assert claim[2] > latest[2], f"{claim[3]} leads with token {claim[2]} after {latest[3]} with {latest[2]}"
            if claim[4] != latest[4] or claim[1] > latest[1]:
                latest = claim

    def _ask_on(self, elector: Elector) -> None:
        while not self._stop.is_set():
            asked = time.monotonic()
            try:
                body = json.loads(elector.ask(timeout=10.0)[1])
            except (OSError, http.client.HTTPException):
                self._stop.wait(0.02)
                continue
            self.answers[elector].append(Answer(asked, time.monotonic(), body))
            self._stop.wait(0.01)


class Relay:
    """A port that passes bytes on to the API server: not there before `listen`, and holding everybody until `open`."""

    def __init__(self, sandbox: Sandbox) -> None:
        host, _, port = sandbox.url.rpartition("//")[2].rpartition(":")
        self._target = (host, int(port))
        self._url = sandbox.url
        self.port = free_port()
        self._server: socket.socket | None = None
        self._opened = threading.Event()
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        self.waiting = 0

    def kubeconfig(self, original: Path, path: Path) -> Path:
        """The same kubeconfig, but through this port."""
        text = original.read_text()
        assert self._url in text
        path.touch(mode=0o600)
        path.write_text(text.replace(self._url, f"https://127.0.0.1:{self.port}"))
        return path

    def listen(self) -> None:
        self._server = socket.create_server(("127.0.0.1", self.port))
        self._server.settimeout(0.05)
        self._run(self._accept, self._server)

    def open(self) -> None:
        self._opened.set()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._opened.set()
        for thread in self._threads:
            thread.join(5.0)
        if self._server is not None:
            self._server.close()

    def _run(self, target: Callable[[socket.socket], None], connection: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(connection,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, server: socket.socket) -> None:
        while not self._closed.is_set():
            with suppress(TimeoutError):
                self._run(self._pass, server.accept()[0])

    def _pass(self, client: socket.socket) -> None:
        self.waiting += 1
        self._opened.wait()
        with client, suppress(OSError), socket.create_connection(self._target) as server:
            while not self._closed.is_set():
                for readable in select.select([client, server], [], [], 0.05)[0]:
                    data = readable.recv(65536)
                    if not data:
                        return
                    (server if readable is client else client).sendall(data)
