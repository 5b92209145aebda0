"""What the webhook costs: `python -m bench.webhook [--reviews 1000000]` prints tables, and asserts nothing.

The figures of record, and how they came about, are in `docs/benchmarks/webhook.md`.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from itertools import chain
from statistics import median, quantiles

from bench._admission import Webhook, review, webhook
from bench._creations import Kind, Registered, Round, measure

__all__ = ["main"]

_WARM = 2_000
_TRIALS = 5
_PER_TRIAL = 5_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.webhook", description="What the webhook costs.")
    parser.add_argument("--reviews", type=int, default=200_000, help="how many to watch the memory over (default: %(default)s)")
    parser.add_argument("--pods", type=int, default=500, help="of each kind, on the API server; 0: none (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=6, help="of that many pods, both ways (default: %(default)s)")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.machine()}, {cores} cores, Python {platform.python_version()}"
    print(f"{system}; load {os.getloadavg()[0]:.1f}\n")
    with webhook() as one:
        _latency(one)
        _memory(one, options.reviews)
    if options.pods:
        _creations(options.pods, options.rounds)
    return 0


def _latency(one: Webhook) -> None:
    print(f"One injection over one keep-alive TLS connection, validation and log on, {_PER_TRIAL} per trial:\n")
    print("| pod | trial | p50 | p99 | per second | CPU per review | per second and core |")
    print("|---|---|---|---|---|---|---|")
    connection = one.connect()
    for name in ("deployment", "several-containers"):
        body = review(name)
        for _ in range(_WARM):
            connection.post(body)
        for trial in range(_TRIALS):
            taken, cpu, began = [], one.cpu_seconds(), time.perf_counter()
            for _ in range(_PER_TRIAL):
                sent = time.perf_counter()
                connection.post(body)
                taken.append(time.perf_counter() - sent)
            each = (one.cpu_seconds() - cpu) / _PER_TRIAL
            cuts = quantiles(taken, n=100)
            print(
                f"| {name} | {trial + 1} | {1000 * cuts[49]:.3f} ms | {1000 * cuts[98]:.3f} ms "
                f"| {_PER_TRIAL / (time.perf_counter() - began):,.0f} | {1000 * each:.3f} ms | {1 / each:,.0f} |",
                flush=True,
            )
    connection.close()


def _memory(one: Webhook, reviews: int) -> None:
    print(f"\nResident memory of the admission process over {reviews:,} reviews:\n")
    print("| reviews | resident |")
    print("|---|---|")
    connection = one.connect()
    bodies = [review(name) for name in ("deployment", "several-containers", "host-network", "classic-statefulset")]
    step = max(1, reviews // 10)
    for number in range(reviews + 1):
        if number % step == 0:
            print(f"| {number:,} | {one.resident():.1f} MB |", flush=True)
        connection.post(bodies[number % len(bodies)])
    connection.close()


def _creations(pods: int, rounds: int) -> None:
    found = measure(pods, rounds, lambda line: print(line, file=sys.stderr, flush=True))
    for alone in (False, True):
        company = "while the controller-manager stands still" if alone else "and whatever the controller-manager does about them"
        print(f"\nCreating {pods} pods of each kind on a real API server, {company}, {rounds} rounds:\n")
        _table([one for one in found if one.alone is alone])


def _apart(one: Round, kind: Kind, registered: Registered, other: Registered) -> float:
    return median(one.times(kind, registered)) - median(one.times(kind, other))


def _noise(one: Round) -> float:
    """What differs by less cannot be told from nothing: both halves are of the same, in turns."""
    blocks = one.blocks["plain", "none"]
    return abs(median(chain(*blocks[::2])) - median(chain(*blocks[1::2])))


_COLUMNS: dict[str, Callable[[Round], float]] = {
    "a plain pod, no webhook": lambda one: median(one.times("plain", "none")),
    "two halves of those differ by": _noise,
    "plain, ours less none": lambda one: _apart(one, "plain", "ours", "none"),
    "plain, the one in Go less none": lambda one: _apart(one, "plain", "canned", "none"),
    "annotated, ours less none": lambda one: _apart(one, "annotated", "ours", "none"),
    "the one in Go less none": lambda one: _apart(one, "annotated", "canned", "none"),
    "ours less the one in Go": lambda one: _apart(one, "annotated", "ours", "canned"),
    "with the elector by hand, less plain": lambda one: median(one.times("by-hand", "none")) - median(one.times("plain", "none")),
}


def _table(rounds: list[Round]) -> None:
    print(f"| round | {' | '.join(_COLUMNS)} | other programs |")
    print("|" + "---|" * (len(_COLUMNS) + 2))
    rows = [[column(one) for column in _COLUMNS.values()] for one in rounds]
    for number, (row, one) in enumerate(zip(rows, rounds, strict=True)):
        print(f"| {number + 1} | {_shown(row)} | {one.foreign:.0%} |")
    print(
        f"| median | {_shown([median(column) for column in zip(*rows, strict=True)])} | {median(o.foreign for o in rounds):.0%} |"
    )


def _shown(row: list[float]) -> str:
    # The first two are times, the others differences.
    return " | ".join(f"{one:.2f} ms" if i < 2 else f"{one:+.2f} ms" for i, one in enumerate(row))


if __name__ == "__main__":
    sys.exit(main())
