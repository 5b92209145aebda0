"""`python -m tests.simulation --seeds N`: run many seeds on all cores and sum up; `--seed S` replays one with its log."""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
import time
from collections import Counter

from tests.simulation.scenario import Outcome, run_seed

_TWO_LEADERS = re.compile(r" (claims|believes) while | leads with token ")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds (default 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--seed", type=int, help="replay this one and print what happened")
    parser.add_argument(
        "--until-two-leaders", action="store_true", help="stop at the first seed with two leaders, or a token that did not grow"
    )
    options = parser.parse_args()
    if options.seed is not None:
        outcome = run_seed(options.seed, keep_log=True)
        print("\n".join(outcome.log))
        print("\n".join(f"VIOLATION {text}" for text in outcome.violations) or "no violation")
        return 1 if outcome.violations else 0
    return run_many(options.first, options.seeds, until_two_leaders=options.until_two_leaders)


def run_many(first: int, count: int, *, until_two_leaders: bool = False) -> int:
    """Run the seeds, print the failing ones as they come, then the sums; 1 when there was a violation."""
    started = last = time.monotonic()
    faults: Counter[str] = Counter()
    seconds = gap = 0.0
    elections = violations = done = 0
    # Who waits for the first one wants to hear of it at once, not when a hundred seeds are done.
    chunk = 1 if until_two_leaders else max(1, min(100, count // 50))
    with multiprocessing.Pool() as pool:
        for outcome in pool.imap_unordered(run_seed, range(first, first + count), chunksize=chunk):
            _show_failure(outcome)
            if until_two_leaders and any(_TWO_LEADERS.search(text) for text in outcome.violations):
                pool.terminate()
                print(f"two leaders after {done + 1} seeds")
                return 1
            violations += bool(outcome.violations)
            faults += outcome.faults
            seconds += outcome.seconds
            elections += outcome.elections
            gap = max(gap, outcome.longest_gap)
            done += 1
            if time.monotonic() - last > 30:
                last = time.monotonic()
                print(f"{done} of {count} seeds, {violations} with violations, {last - started:.0f} s", flush=True)
    print(f"{count} seeds from {first}, {seconds / 3600:.1f} simulated hours in {time.monotonic() - started:.0f} s")
    print(f"{sum(faults.values())} faults:", ", ".join(f"{number} {kind}" for kind, number in sorted(faults.items())))
    print(f"{elections} elections; longest time without a leader, faults and all: {gap:.1f} s")
    print(f"seeds with violations: {violations}")
    return 1 if violations else 0


def _show_failure(outcome: Outcome) -> None:
    if outcome.violations:
        print(f"seed {outcome.seed}: {outcome.violations[0]} (and {len(outcome.violations) - 1} more)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
