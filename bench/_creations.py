"""What the webhook adds to the creation of a pod, on the sandbox's real API server."""

from __future__ import annotations

import json
import os
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from bench._canned import start_canned
from sandbox import Sandbox
from sandbox.injection import start_webhook

__all__ = ["Registered", "Round", "Turn", "measure"]

_NAMESPACE = "bench"
_PODS = f"/api/v1/namespaces/{_NAMESPACE}/pods"
_CONFIGURATION = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
_WITHIN = 30.0
_WARM = 20
_FIRST_TURNS = 2
"""Turns that are not counted: an API server that has just started, and its garbage collector, are slower."""

_ANNOTATED = {"leader-election/enabled": "true", "leader-election/name": "bench"}

Registered = Literal["none", "ours", "canned"]
"""Which one is registered; `canned` is the one in Go that decides nothing."""


@dataclass
class Round:
    """Milliseconds for each creation of one round."""

    plain: list[float] = field(default_factory=list)
    annotated: list[float] = field(default_factory=list)
    by_hand: list[float] = field(default_factory=list)
    """Pods that came with all that the webhook adds, so that it is not asked: what the elector itself costs."""
    foreign: float = 0.0
    """The share of the machine's processors that programs took which have nothing to do with this."""
    pace: float = 0.0
    """Milliseconds of CPU that etcd took for each pod. Its work is the same with any webhook and with none, so that this says how
    fast the machine itself was just then."""


Turn = dict[Registered, Round]
"""One round of each, right after each other."""


def measure(pods: int, rounds: int, say: Callable[[str], None], *, alone: bool) -> list[Turn]:
    """Turns of one round for each webhook, `pods` of each kind of pod in all the turns together.

    `alone`: the controller-manager stands still while pods are created. It looks at every pod that has been stored, just when
    the next one is created, and on a small machine takes the processor from whoever is asked about that one.
    """
    with Sandbox.start() as sandbox:
        start_webhook(sandbox)
        api = _Api(sandbox)
        api.call("POST", "/api/v1/namespaces", {"metadata": {"name": _NAMESPACE}})
        _until(lambda: api.status("GET", f"/api/v1/namespaces/{_NAMESPACE}/serviceaccounts/default") == 200)
        registered = api.call("GET", f"{_CONFIGURATION}/leader-election")
        for field_name in ("resourceVersion", "uid", "generation", "creationTimestamp", "managedFields"):
            registered["metadata"].pop(field_name, None)
        injected = api.call("POST", f"{_PODS}?dryRun=All", _pod("probe", _ANNOTATED))["spec"]
        by_hand = {key: injected[key] for key in ("initContainers", "containers", "volumes")}
        _install(api, None)
        canned = start_canned(sandbox, api.call("POST", f"{_PODS}?dryRun=All", _pod("probe", _ANNOTATED)))
        registrations: dict[Registered, dict[str, Any] | None] = {"none": None, "ours": registered, "canned": canned}
        order: list[Registered] = list(registrations)
        turns = []
        for number in range(-_FIRST_TURNS, rounds):
            turn: Turn = {}
            # Now this first, now that: the machine gets slower and faster for reasons of its own.
            first = number % len(order)
            for webhook in order[first:] + order[:first]:
                _install(api, registrations[webhook])
                with _standing_still(sandbox) if alone else nullcontext():
                    began = _Spent.now(sandbox)
                    turn[webhook] = _create(api, pods // rounds, by_hand)
                    spent = _Spent.now(sandbox)
                turn[webhook].foreign = spent.foreign_since(began)
                turn[webhook].pace = spent.etcd_since(began) / (3 * (pods // rounds + _WARM))
            if number >= 0:
                turns.append(turn)
                say(f"round {number + 1} of {rounds}")
        return turns


@dataclass(frozen=True)
class _Spent:
    """Processor time so far, in clock ticks."""

    all: int
    ours: int
    idle: int
    etcd: int

    @classmethod
    def now(cls, sandbox: Sandbox) -> _Spent:
        # user nice system idle iowait irq softirq steal: https://man7.org/linux/man-pages/man5/proc_stat.5.html
        fields = [int(one) for one in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        pids = [sandbox.program(name).pid for name in ("etcd", "kube-apiserver", "kube-controller-manager", "webhook", "canned")]
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in [*pids, os.getpid()]]
        ours = [int(one[11]) + int(one[12]) for one in stats]
        return cls(sum(fields), sum(ours), fields[3] + fields[4], etcd=ours[0])

    def foreign_since(self, before: _Spent) -> float:
        every = self.all - before.all
        return max(0.0, every - (self.idle - before.idle) - (self.ours - before.ours)) / max(1, every)

    def etcd_since(self, before: _Spent) -> float:
        """Milliseconds."""
        return 1000 * (self.etcd - before.etcd) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _standing_still(sandbox: Sandbox) -> Iterator[None]:
    manager = sandbox.program("kube-controller-manager")
    manager.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        manager.signal(signal.SIGCONT)


class _Api:
    """The administrator's requests over one connection."""

    def __init__(self, sandbox: Sandbox) -> None:
        context = ssl.create_default_context(cafile=str(sandbox.ca_file))
        certificate, key = sandbox.admin_files
        context.load_cert_chain(certificate, key)
        address = urlsplit(sandbox.url)
        self._connection = HTTPSConnection(address.hostname or "", address.port, timeout=30, context=context)

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        return self.exchange(method, path, json.dumps(body).encode() if body is not None else None)

    def exchange(self, method: str, path: str, content: bytes | None) -> tuple[int, bytes]:
        self._connection.request(method, path, content, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def status(self, method: str, path: str) -> int:
        return self.request(method, path)[0]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        status, content = self.request(method, path, body)
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {content[:300]!r}")
        return json.loads(content)


def _install(api: _Api, registration: dict[str, Any] | None) -> None:
    """Register the webhook, or remove it; returns when the API server goes by it."""
    if registration is not None:
        api.request("DELETE", f"{_CONFIGURATION}/leader-election")
        api.call("POST", _CONFIGURATION, registration)
    else:
        api.request("DELETE", f"{_CONFIGURATION}/leader-election")
    path = f"{_PODS}?dryRun=All"
    wanted = registration is not None
    _until(lambda: ("initContainers" in api.call("POST", path, _pod("probe", _ANNOTATED))["spec"]) is wanted)


def _create(api: _Api, count: int, by_hand: dict[str, Any]) -> Round:
    taken = Round()
    # One kind after the other: what an annotated pod leaves to be tidied up should not be counted for the next plain one.
    for kind, marks, spec, times in (
        ("plain", {}, None, taken.plain),
        ("annotated", _ANNOTATED, None, taken.annotated),
        ("by-hand", {}, by_hand, taken.by_hand),
    ):
        for number in range(count + _WARM):
            content = json.dumps(_pod(f"{kind}-{number}", marks, spec)).encode()
            # What this client does with the answer is nothing that the API server or the webhook could be faster at.
            began = time.perf_counter()
            status, answer = api.exchange("POST", _PODS, content)
            took = time.perf_counter() - began
            if status != 201:
                raise RuntimeError(f"a {kind} pod was not created: {status} {answer[:300]!r}")
            if number >= _WARM:
                times.append(1000 * took)
    api.call("DELETE", f"{_PODS}?gracePeriodSeconds=0")
    _until(lambda: not api.call("GET", f"{_PODS}?limit=1")["items"])
    return taken


def _pod(name: str, annotations: dict[str, str], spec: dict[str, Any] | None = None) -> dict[str, Any]:
    metadata = {"name": name, "annotations": annotations}
    return {"metadata": metadata, "spec": spec or {"containers": [{"name": "app", "image": "app"}]}}


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WITHIN
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited in vain for {_WITHIN:g} s")
        time.sleep(0.02)
