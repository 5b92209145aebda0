"""What the webhook adds to the creation of a pod, on the sandbox's real API server."""

from __future__ import annotations

import json
import math
import os
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from http.client import HTTPSConnection
from itertools import chain
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from bench._canned import start_canned
from sandbox import Sandbox
from sandbox.injection import start_webhook

__all__ = ["Kind", "Registered", "Round", "measure"]

_CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
_WITHIN = 30.0
_BLOCK = 10
"""Pods that are created one after the other before it is another webhook's turn. They alternate that often because a machine
that others share is not as fast in one second as in the next; rows of 50 and of 250 showed the same, with more scatter."""
_UNCOUNTED = 2
"""Pods before each block: what the others left to be tidied up should not be counted for this one."""
_FIRST_BLOCKS = 8
"""Of a round, not counted: an API server that has just started, and its garbage collector, are slower."""
_TIDY = 8
"""Blocks after which their pods are deleted."""

_ANNOTATED = {"leader-election/enabled": "true", "leader-election/name": "bench"}

Registered = Literal["none", "ours", "canned"]
"""Which one is registered for a namespace, which has the same name; `canned` is the one in Go that decides nothing."""

Kind = Literal["plain", "annotated", "by-hand"]
"""`by-hand` are pods that come with all that the webhook adds, so that it is not asked: what the elector itself costs."""

_TURNS: dict[Kind, list[Registered]] = {
    "plain": ["none", "ours", "canned"],
    "annotated": ["none", "ours", "canned"],
    "by-hand": ["none"],
}


@dataclass
class Round:
    """One creation of all the pods."""

    alone: bool
    """Whether the controller-manager stood still. It looks at every pod that has been stored, just when the next one is created,
    and on a small machine takes the processor from whoever is asked about that one."""
    blocks: dict[tuple[Kind, Registered], list[list[float]]]
    """Milliseconds for each creation, block by block."""
    foreign: float
    """The share of the machine's processors that programs took which have nothing to do with this."""

    def times(self, kind: Kind, registered: Registered) -> list[float]:
        """Milliseconds for each creation."""
        return list(chain(*self.blocks[kind, registered]))


def measure(pods: int, rounds: int, say: Callable[[str], None]) -> list[Round]:
    """`rounds` rounds of `pods` pods of each kind for each webhook, and as many in which the controller-manager stands still.

    All that is compared is created in turns of a few pods, on one API server: each webhook has a namespace of its own, and
    "none" is a namespace that is left out by both.
    """
    with Sandbox.start() as sandbox:
        start_webhook(sandbox)
        api = _Api(sandbox)
        by_hand = _register(sandbox, api)
        found = []
        for number in range(2 * rounds):
            # Now this first, now that: both see the same minutes.
            alone = number % 4 in (1, 2)
            found.append(_round(sandbox, api, math.ceil(pods / _BLOCK), by_hand, alone=alone))
            say(f"round {number + 1} of {2 * rounds}")
        return found


def _register(sandbox: Sandbox, api: _Api) -> dict[str, Any]:
    """Register both webhooks, for a namespace each; returns a pod's spec as ours changes it."""
    namespaces = _TURNS["plain"]
    for namespace in namespaces:
        api.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        _until(partial(_has_account, api, namespace))
    probe = _pod("probe", _ANNOTATED)
    ours = api.call("GET", f"{_CONFIGURATIONS}/leader-election")
    api.call("DELETE", f"{_CONFIGURATIONS}/leader-election")
    _until(lambda: not _injects(api, "none"))
    canned = start_canned(sandbox, api.call("POST", f"{_pods('none')}?dryRun=All", probe))
    for namespace, registration in (("ours", ours), ("canned", canned)):
        (webhook,) = registration["webhooks"]
        webhook["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
        webhook["name"] = f"{namespace}.example.com"
        api.call("POST", _CONFIGURATIONS, {**registration, "metadata": {"name": namespace}})
        _until(partial(_injects, api, namespace))
    injected = api.call("POST", f"{_pods('ours')}?dryRun=All", probe)["spec"]
    return {key: injected[key] for key in ("initContainers", "containers", "volumes")}


def _has_account(api: _Api, namespace: str) -> bool:
    return api.status("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default") == 200


def _has_no_pods(api: _Api, namespace: str) -> bool:
    return not api.call("GET", f"{_pods(namespace)}?limit=1")["items"]


def _injects(api: _Api, namespace: str) -> bool:
    return "initContainers" in api.call("POST", f"{_pods(namespace)}?dryRun=All", _pod("probe", _ANNOTATED))["spec"]


def _round(sandbox: Sandbox, api: _Api, blocks: int, by_hand: dict[str, Any], *, alone: bool) -> Round:
    taken: dict[tuple[Kind, Registered], list[list[float]]] = {(kind, one): [] for kind in _TURNS for one in _TURNS[kind]}
    began = _Spent.now(sandbox)
    for first in range(-_FIRST_BLOCKS, blocks, _TIDY):
        with _standing_still(sandbox) if alone else nullcontext():
            for number in range(first, min(first + _TIDY, blocks)):
                for kind, turns in _TURNS.items():
                    turn = number % len(turns)
                    for one in turns[turn:] + turns[:turn]:
                        times = _block(api, kind, one, number, by_hand)
                        if number >= 0:
                            taken[kind, one].append(times)
        for namespace in _TURNS["plain"]:
            api.call("DELETE", f"{_pods(namespace)}?gracePeriodSeconds=0")
            _until(partial(_has_no_pods, api, namespace))
    return Round(alone, taken, _Spent.now(sandbox).foreign_since(began))


def _block(api: _Api, kind: Kind, namespace: str, number: int, by_hand: dict[str, Any]) -> list[float]:
    times = []
    for i in range(-_UNCOUNTED, _BLOCK):
        marks, spec = _ANNOTATED if kind == "annotated" else {}, by_hand if kind == "by-hand" else None
        content = json.dumps(_pod(f"{kind}-{number + _FIRST_BLOCKS}-{i + _UNCOUNTED}", marks, spec)).encode()
        # What this client does with the answer is nothing that the API server or the webhook could be faster at.
        began = time.perf_counter()
        status, answer = api.exchange("POST", _pods(namespace), content)
        took = time.perf_counter() - began
        if status != 201:
            raise RuntimeError(f"a {kind} pod was not created: {status} {answer[:300]!r}")
        if i >= 0:
            times.append(1000 * took)
    return times


def _pods(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


@dataclass(frozen=True)
class _Spent:
    """Processor time so far, in clock ticks."""

    all: int
    ours: int
    idle: int

    @classmethod
    def now(cls, sandbox: Sandbox) -> _Spent:
        # user nice system idle iowait irq softirq steal: https://man7.org/linux/man-pages/man5/proc_stat.5.html
        fields = [int(one) for one in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        pids = [sandbox.program(name).pid for name in ("etcd", "kube-apiserver", "kube-controller-manager", "webhook", "canned")]
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in [*pids, os.getpid()]]
        return cls(sum(fields), sum(int(one[11]) + int(one[12]) for one in stats), fields[3] + fields[4])

    def foreign_since(self, before: _Spent) -> float:
        every = self.all - before.all
        return max(0.0, every - (self.idle - before.idle) - (self.ours - before.ours)) / max(1, every)


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


def _pod(name: str, annotations: dict[str, str], spec: dict[str, Any] | None = None) -> dict[str, Any]:
    metadata = {"name": name, "annotations": annotations}
    return {"metadata": metadata, "spec": spec or {"containers": [{"name": "app", "image": "app"}]}}


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WITHIN
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited in vain for {_WITHIN:g} s")
        time.sleep(0.02)
