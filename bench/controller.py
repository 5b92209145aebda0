"""What the controller costs and how fast it is: `python -m bench.controller` prints figures, and asserts nothing.

The figures of record, and how they came about, are in `docs/benchmarks/controller.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from bench._controller import RECORD, Api, Controller, Labelled, pod_body, wait
from sandbox import Sandbox

__all__ = ["main"]

_NAMESPACES = 10
_GRANT = "leader-election/grant=true"
_RENEWERS = 8
_RENEWALS = 400.0
"""Renewals per second of a thousand elections with the default ttl."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.controller", description="What the controller costs.")
    parser.add_argument("--elections", type=int, default=1000, help="of the cold start (default: %(default)s)")
    parser.add_argument("--pods", type=int, default=3, help="of each election (default: %(default)s)")
    parser.add_argument("--single", type=int, default=100, help="pods and changes measured one by one (default: %(default)s)")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.machine()}, {cores} cores, Python {platform.python_version()}"
    print(f"{system}; load {os.getloadavg()[0]:.1f}\n", flush=True)
    with tempfile.TemporaryDirectory() as scratch, Sandbox.start() as sandbox:
        controller = Controller(sandbox, Path(scratch))
        controller.start()
        controller.namespaces(["one", *(f"many-{number}" for number in range(_NAMESPACES))])
        _first(controller)
        _memory(controller, "one election")
        _single(sandbox, controller, options.single)
        _labels(sandbox, controller, options.single, "alone")
        controller.stop()
        elections = _create(controller, options.elections, options.pods)
        _cold(controller, elections, "nothing there yet")
        _memory(controller, f"{len(elections)} elections, {len(elections) * options.pods} pods")
        controller.stop()
        _cold(controller, elections, "all there")
        _memory(controller, "the same, after a restart")
        _labels(sandbox, controller, options.single, f"beside {len(elections)} elections")
        _labels(sandbox, controller, options.single, f"beside {len(elections)} elections that renew", elections)
        _memory(controller, "after that")
        controller.stop()
    return 0


def _first(controller: Controller) -> None:
    api = controller.api
    api.must("POST", "/api/v1/namespaces/one/pods", pod_body("first", "first.leader"))
    took = wait(lambda: _bound(api, "one", "first.leader"))
    print(f"The first controller of a cluster acts {took:.1f} s after its start (its own election, by rule a ttl)\n", flush=True)


def _bound(api: Api, namespace: str, election: str) -> bool:
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings/leader-election:{election}"
    return api.send("GET", path)[0] == 200


def _single(sandbox: Sandbox, controller: Controller, count: int) -> None:
    """From before a pod is created until its service account may read its lock."""
    client = Api(sandbox, sandbox.service_account_token("one", "default"))
    taken = []
    for number in range(count):
        election = f"single-{number}.leader"
        body = pod_body(f"single-{number}", election)
        began = time.perf_counter()
        controller.api.must("POST", "/api/v1/namespaces/one/pods", body)
        wait(lambda election=election: client.send("GET", f"/api/v1/namespaces/one/endpoints/{election}")[0] == 200)  # type: ignore[misc]
        taken.append(time.perf_counter() - began)
    _row("from pod creation to usable rights", taken, "300 ms at the median")


def _row(what: str, taken: list[float], wanted: str) -> None:
    cuts = quantiles(taken, n=100)
    print(
        f"{what}: median {1000 * median(taken):.0f} ms, p95 {1000 * cuts[94]:.0f} ms, most {1000 * max(taken):.0f} ms "
        f"({len(taken)} times; wanted: under {wanted})\n",
        flush=True,
    )


def _create(controller: Controller, elections: int, pods: int) -> list[tuple[str, str]]:
    found = []
    for number in range(elections):
        namespace, election = f"many-{number % _NAMESPACES}", f"election-{number}.leader"
        for each in range(pods):
            body = pod_body(f"pod-{number}-{each}", election)
            controller.api.must("POST", f"/api/v1/namespaces/{namespace}/pods", body)
        found.append((namespace, election))
    return found


def _cold(controller: Controller, elections: list[tuple[str, str]], what: str) -> None:
    """From the start of the process until everything is as it has to be: by the number of bindings, then by its log."""
    began = time.perf_counter()
    program = controller.start()
    wait(lambda: "grants: " in program.log.read_text())
    acts = time.perf_counter() - began
    wait(lambda: "grants: settled" in program.log.read_text())
    took = time.perf_counter() - began
    bindings = "/apis/rbac.authorization.k8s.io/v1/rolebindings"
    missing = len(elections) - sum(one.startswith("leader-election:election-") for one in controller.api.names(bindings, _GRANT))
    if missing:
        print(f"{missing} elections have no rights", flush=True)
    print(
        f"cold start, {len(elections)} elections, {what}: all reconciled {took:.1f} s after the start of the process, "
        f"{acts:.1f} s of which until it acts and has seen everything; {controller.cpu():.1f} CPU-seconds (wanted: under 30 s)\n",
        flush=True,
    )


def _memory(controller: Controller, what: str) -> None:
    time.sleep(2.0)
    now, most = controller.memory()
    print(f"memory, {what}: {now:.0f} MB resident, {most:.0f} MB at most (wanted: under 120 MB)\n", flush=True)


def _labels(sandbox: Sandbox, controller: Controller, changes: int, what: str, renewing: Sequence[tuple[str, str]] = ()) -> None:
    """From before the record names another leader until the pod has the label, and no other one has."""
    election = f"labels-{time.monotonic_ns()}.leader"
    pods = [f"l{time.monotonic_ns()}-{number}" for number in range(3)]
    for name in pods:
        body = pod_body(name, election)
        body["metadata"].setdefault("labels", {})["election"] = election
        controller.api.must("POST", "/api/v1/namespaces/one/pods", body)
    path = f"/api/v1/namespaces/one/endpoints/{election}"
    wait(lambda: controller.api.send("GET", path)[0] == 200)
    labelled = Labelled(sandbox, "one", f"election={election}")
    stop = threading.Event()
    written = [0]
    threads = [
        threading.Thread(target=_renew, args=(sandbox, stop, written, renewing[part::_RENEWERS]))
        for part in range(_RENEWERS if renewing else 0)
    ]
    for thread in threads:
        thread.start()
    cpu, began = controller.cpu(), time.perf_counter()
    taken = []
    for number in range(changes):
        leader = pods[number % len(pods)]
        sent = time.perf_counter()
        _hold(controller.api, path, leader, number)
        labelled.wait_for(leader)
        taken.append(time.perf_counter() - sent)
        time.sleep(0.05)
    elapsed = time.perf_counter() - began
    used = 100 * (controller.cpu() - cpu) / elapsed
    stop.set()
    for thread in threads:
        thread.join()
    if renewing:
        what += f" ({written[0] / elapsed:.0f} renewals a second)"
    _row(f"label after a change of leader, {what}; the controller uses {used:.0f} % of a core", taken, "100 ms at the median")


def _hold(api: Api, path: str, leader: str, number: int) -> None:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_800_000_000 + number))
    record = {
        "holderIdentity": leader,
        "leaseDurationSeconds": 600,
        "acquireTime": stamp,
        "renewTime": stamp,
        "leaderTransitions": number,
    }
    body: dict[str, Any] = {"metadata": {"annotations": {RECORD: json.dumps(record, separators=(",", ":"))}}}
    api.must("PATCH", path, body, "application/merge-patch+json")


def _renew(sandbox: Sandbox, stop: threading.Event, written: list[int], elections: Sequence[tuple[str, str]]) -> None:
    """As the leaders of a part of the elections do, evenly."""
    api = Api(sandbox)
    began = time.perf_counter()
    for count, (namespace, election) in enumerate(cycle(elections), 1):
        if stop.is_set():
            return
        _hold(api, f"/api/v1/namespaces/{namespace}/endpoints/{election}", "nobody", count)
        written[0] += 1
        stop.wait(max(0.0, began + count * _RENEWERS / _RENEWALS - time.perf_counter()))


if __name__ == "__main__":
    sys.exit(main())
