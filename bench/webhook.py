"""What the webhook costs: `python -m bench.webhook [--reviews 1000000]` prints tables, and asserts nothing.

The figures of record, and how they came about, are in `docs/benchmarks/webhook.md`.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from itertools import chain, pairwise
from statistics import median, quantiles

from bench._admission import Webhook, review, webhook
from bench._creations import Registered, Round, Turn, measure

__all__ = ["main"]

_WARM = 2_000
_TRIALS = 5
_PER_TRIAL = 5_000
_BY_HAND = "with the elector by hand"
_QUIET = 0.1
"""Share of the processors that other programs may take in a quiet round."""

_KINDS = ("plain", "annotated", _BY_HAND)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.webhook", description="What the webhook costs.")
    parser.add_argument("--reviews", type=int, default=200_000, help="how many to watch the memory over (default: %(default)s)")
    parser.add_argument("--pods", type=int, default=500, help="of each kind, on the API server; 0: none (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="in which the pods are created (default: %(default)s)")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.machine()}, {cores} cores, Python {platform.python_version()}"
    print(f"{system}; load {os.getloadavg()[0]:.1f}\n")
    with webhook() as one:
        _latency(one)
        _memory(one, options.reviews)
    if options.pods:
        for alone in (False, True):
            _creations(options.pods, options.rounds, alone=alone)
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


def _creations(pods: int, rounds: int, *, alone: bool) -> None:
    turns = measure(pods, rounds, lambda line: print(line, file=sys.stderr, flush=True), alone=alone)
    company = "while the controller-manager stands still" if alone else "and whatever the controller-manager does about them"
    print(f"\nCreating {pods} pods of each kind on a real API server, {company}, {rounds} rounds:\n")
    _table(turns)
    # Who waits for a processor measures what others do.
    quiet = [turn for turn in turns if max(one.foreign for one in turn.values()) < _QUIET]
    shares = [one.foreign for turn in turns for one in turn.values()]
    print(f"\nOther programs took {min(shares):.0%} to {max(shares):.0%} of the processors, {median(shares):.0%} at the median.")
    if 0 < len(quiet) < len(turns):
        print(f"The {len(quiet)} rounds in which they took less than {_QUIET:.0%}:\n")
        _table(quiet)
    # Nor is a virtual machine as fast in one minute as in the next, for reasons that it is not told.
    paces = sorted(_pace(turn) for turn in turns)
    fast = [turn for turn in turns if _pace(turn) <= median(paces)]
    took = f"{paces[0]:.2f} to {paces[-1]:.2f} ms of CPU, {median(paces):.2f} at the median"
    print(f"\nFor the same work on each pod, etcd took {took}.")
    print(f"The {len(fast)} rounds in which the machine was at its fastest by that:\n")
    _table(fast)


def _table(turns: list[Turn]) -> None:
    print("| pods | no webhook | ours | ours less none | the one in Go less none | ours less the one in Go |")
    print("|---|---|---|---|---|---|")
    for title in _KINDS:
        without, ours = (chain(*(_times(turn[webhook], title) for turn in turns)) for webhook in ("none", "ours"))
        differences = [_apart(turns, title, *pair) for pair in (("ours", "none"), ("canned", "none"), ("ours", "canned"))]
        print(f"| {title} | {median(without):.2f} ms | {median(ours):.2f} ms | {' | '.join(differences)} |")
    print("\nDifferences are between the medians of one round: the median of all rounds, and the smallest and the largest.")
    beside = median(median(turn["ours"].annotated) - median(turn["none"].by_hand) for turn in turns)
    print(f"The same pods, injected by the webhook instead of by hand: {beside:+.2f} ms at the median.")
    _noise(turns)


def _pace(turn: Turn) -> float:
    return sum(one.pace for one in turn.values()) / len(turn)


def _apart(turns: list[Turn], title: str, one: Registered, other: Registered) -> str:
    found = [median(_times(turn[one], title)) - median(_times(turn[other], title)) for turn in turns]
    return f"{median(found):+.2f} ms ({min(found):+.2f} to {max(found):+.2f})"


def _times(one: Round, title: str) -> list[float]:
    return {"plain": one.plain, "annotated": one.annotated, _BY_HAND: one.by_hand}[title]


def _noise(turns: list[Turn]) -> None:
    """How much two rounds differ that should not: what is less cannot be told from nothing."""
    medians = [median(turn["none"].plain) for turn in turns]
    apart = [abs(one - other) for one, other in pairwise(medians)]
    if apart:
        print(f"Two rounds of plain pods without a webhook differ by {median(apart):.2f} ms at the median.")


if __name__ == "__main__":
    sys.exit(main())
