"""The candidates that are measured: three or more of one kind in one election, on a sandbox of their own."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCONT, SIGKILL
from typing import Any

import kubernetes.client

from bench._elector_http import Connection, fetch
from sandbox import Program, Sandbox
from tests.api.electors import RECORD, ROOT, clean_environment, make_free_lock
from tests.interop.candidates import candidate
from tests.ports import free_port

__all__ = ["OURS", "RIVAL", "SETTLE", "TTL", "Candidate", "Group", "Setup", "named_in"]

TTL = 10.0
"""Seconds, of all that is measured. A claim holds for half of it, and tries are a quarter of it apart, on both sides."""

OURS, RIVAL = "ours", "client-go"
NAMESPACE = "bench"
SEATS = 3
SETTLE = 1.0
"""Seconds between the agreement of all, one of them just started perhaps, and the next round: as in a roll-out."""
_LONG = 60.0
"""Seconds after which something that should have happened will not any more."""


@dataclass
class Setup:
    """What all groups share. Every seat has an account of its own, so that the API server's log says who wrote."""

    sandbox: Sandbox
    python: str
    lock: str
    rival_lock: str
    kubeconfigs: list[Path] = field(default_factory=list)
    """One for each seat, for client-go's candidates."""
    mounts: list[Path] = field(default_factory=list)
    """The same as folders like those that a kubelet mounts: ours run as in a pod, where no kubeconfig is read."""
    _groups: int = 0

    def prepare(self) -> None:
        """Namespace, accounts, and a role that lets them do what candidates do; and our elector compiled, as in its image."""
        # Where PYTHONDONTWRITEBYTECODE is set, every start would compile it anew.
        subprocess.run([self.python, "-m", "compileall", "-q", "elector"], cwd=ROOT, check=True)
        core: Any = kubernetes.client.CoreV1Api(self.sandbox.api)
        rbac: Any = kubernetes.client.RbacAuthorizationV1Api(self.sandbox.api)
        core.create_namespace({"metadata": {"name": NAMESPACE}})
        verbs = ["get", "list", "watch", "create", "update", "patch"]
        rules = [
            {"apiGroups": ["", "coordination.k8s.io"], "resources": ["endpoints", "leases"], "verbs": verbs},
        ]
        rbac.create_namespaced_role(NAMESPACE, {"metadata": {"name": "candidate"}, "rules": rules})
        reference = {"kind": "Role", "name": "candidate", "apiGroup": "rbac.authorization.k8s.io"}
        names = [f"seat-{number}" for number in range(SEATS)]
        subjects = [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE} for name in names]
        rbac.create_namespaced_role_binding(
            NAMESPACE, {"metadata": {"name": "candidate"}, "subjects": subjects, "roleRef": reference}
        )
        for name in names:
            core.create_namespaced_service_account(NAMESPACE, {"metadata": {"name": name}})
            token = self.sandbox.service_account_token(NAMESPACE, name, seconds=4 * 3600)
            self.kubeconfigs.append(self.sandbox.kubeconfig_for(token, self.sandbox.directory / f"{name}.kubeconfig"))
            self.mounts.append(self._mount(name, token))

    def environment(self, kind: str, seat: int) -> dict[str, str]:
        """The whole environment of a candidate in that seat."""
        if kind == RIVAL:
            return clean_environment(KUBECONFIG=str(self.kubeconfigs[seat]))
        host, _, port = self.sandbox.url.removeprefix("https://").rpartition(":")
        return clean_environment(
            KUBERNETES_SERVICE_HOST=host, KUBERNETES_SERVICE_PORT=port, ELECTOR_SERVICE_ACCOUNT_DIR=str(self.mounts[seat])
        )

    def _mount(self, name: str, token: str) -> Path:
        folder = self.sandbox.directory / f"mount-{name}"
        folder.mkdir(mode=0o700)
        for file, text in (("token", token), ("ca.crt", self.sandbox.ca_file.read_text()), ("namespace", NAMESPACE)):
            (folder / file).write_text(text)
        return folder

    def group(self, kind: str, label: str) -> Group:
        """An election of its own without candidates yet. Its name is in no other's."""
        self._groups += 1
        return Group(self, kind, f"{label}-{self._groups}-{kind}")

    def lock_of(self, kind: str) -> str:
        return self.lock if kind == OURS else self.rival_lock


class Candidate:
    """One candidate, which can be ended and started again under its name."""

    def __init__(self, group: Group, number: int) -> None:
        self.name = f"pod-{number}"
        self.seat = number % SEATS
        self.port = free_port()
        self._group = group
        self._number = number
        self.program: Program | None = None

    @property
    def user(self) -> str:
        """As whom the API server knows it."""
        return f"system:serviceaccount:{NAMESPACE}:seat-{self.seat}"

    @property
    def pid(self) -> int:
        assert self.program is not None
        return self.program.pid

    def start(self, wrapper: Sequence[str] = ()) -> None:
        """`wrapper`: a command line that runs the one after it."""
        setup = self._group.setup
        command = self._ours() if self._group.kind == OURS else self._rivals()
        env = setup.environment(self._group.kind, self.seat)
        self.program = setup.sandbox.run(f"{self.name}-{self._group.election}", [*wrapper, *command], env=env, cwd=ROOT)

    def signal(self, number: int) -> float:
        """Returns the wall-clock time right before. Not by way of the keeper, which takes a moment."""
        now = time.time()
        os.kill(self.pid, number)
        return now

    async def ended(self) -> None:
        """Wait for its end."""
        assert self.program is not None
        await asyncio.to_thread(self.program.wait, _LONG)

    async def end(self) -> None:
        """Whatever state it is in."""
        if self.program is not None and self.program.running:
            self.signal(SIGKILL)
            await self.ended()

    async def leader(self) -> str | None:
        """Whom it names; None when it does not answer."""
        return named_in(await fetch(self.port))

    def _ours(self) -> list[str]:
        group, lock = self._group, self._group.setup.lock
        flags = [f"--election={group.election}", f"--election-namespace={NAMESPACE}", f"--id={self.name}", f"--ttl={TTL:g}s"]
        # Not said where it is the default, so that an elector that knows no other kind can be measured as well.
        kind = [] if lock == "endpoints" else [f"--lock={lock}"]
        return [
            group.setup.python,
            "-m",
            "elector",
            *flags,
            *kind,
            f"--http=127.0.0.1:{self.port}",
            "--sidecar=native",
            "--use-cluster-credentials",
        ]

    def _rivals(self) -> list[str]:
        group, lock = self._group, self._group.setup.rival_lock
        where = [f"-lock={lock}", f"-namespace={NAMESPACE}", f"-name={group.election}", f"-id={self.name}"]
        times = [f"-lease={TTL:g}s", f"-renew={TTL / 2:g}s", f"-retry={TTL / 4:g}s"]
        access = [f"-kubeconfig={group.setup.kubeconfigs[self.seat]}", f"-http=127.0.0.1:{self.port}"]
        return [str(candidate(lock)), *where, *times, *access, "-release-on-cancel"]


class Group:
    """The candidates of one election, all of one kind."""

    def __init__(self, setup: Setup, kind: str, election: str) -> None:
        self.setup = setup
        self.kind = kind
        self.election = election
        self.candidates: list[Candidate] = []

    async def start(self, count: int = 3) -> None:
        """Start them a few at a time, and wait until all agree."""
        if self.setup.lock_of(self.kind) == "endpoints":
            make_free_lock(self.setup.sandbox, NAMESPACE, self.election)  # a missing one is waited out for a ttl
        for number in range(count):
            one = self.add(number)
            if number % 4 == 3:
                await self._answers(one)
        await self._settled()

    async def _answers(self, one: Candidate) -> None:
        for _ in range(600):
            if await one.leader() is not None:
                return
            await asyncio.sleep(0.05)
        raise TimeoutError(f"{self.election}: {one.name} does not answer")

    def add(self, number: int, wrapper: Sequence[str] = ()) -> Candidate:
        one = Candidate(self, number)
        self.candidates.append(one)
        one.start(wrapper)
        return one

    async def agreed(self, among: Sequence[Candidate], *, every: float = 0.1) -> Candidate:
        """Wait until all of these name the same one of this group, and return it."""
        deadline = time.monotonic() + _LONG
        while time.monotonic() < deadline:
            heard = set(await asyncio.gather(*(one.leader() for one in among)))
            for one in self.candidates:
                if heard == {one.name}:
                    return one
            await asyncio.sleep(every)
        raise TimeoutError(f"{self.election}: no agreement within {_LONG:g} s; named are {sorted(map(str, heard))}")

    async def restarted(self, one: Candidate) -> None:
        """Start it again, and wait until all agree and have settled down."""
        await one.ended()
        one.start()
        await self._settled()

    async def _settled(self) -> None:
        await self.agreed(self.candidates)
        await asyncio.sleep(SETTLE)

    async def close(self) -> None:
        """End them all, stopped ones too."""
        for one in self.candidates:
            if one.program is not None and one.program.running:
                one.signal(SIGCONT)
            await one.end()

    async def holders(self) -> AsyncGenerator[tuple[float, str], None]:
        """The holder after every change of the lock from now on, with the wall-clock time at which the watch told it."""
        sandbox = self.setup.sandbox
        tls = ssl.create_default_context(cafile=str(sandbox.ca_file))
        tls.load_cert_chain(*map(str, sandbox.admin_files))
        endpoints = self.setup.lock_of(self.kind) == "endpoints"
        collection = "api/v1" if endpoints else "apis/coordination.k8s.io/v1"
        resource = "endpoints" if endpoints else "leases"
        path = f"/{collection}/namespaces/{NAMESPACE}/{resource}?watch=1&fieldSelector=metadata.name%3D{self.election}"
        first = True
        async with Connection(int(sandbox.url.rpartition(":")[2]), tls=tls) as connection:
            async for received, line in connection.lines(path):
                if not first:  # that is the state now
                    yield received, _holder(json.loads(line)["object"])
                first = False


def _holder(lock: dict[str, Any]) -> str:
    if "spec" in lock:
        return str(lock["spec"].get("holderIdentity", ""))
    return str(json.loads(lock["metadata"]["annotations"][RECORD])["holderIdentity"])


def named_in(answer: dict[str, Any] | None) -> str | None:
    return None if answer is None else str(answer["name"])
