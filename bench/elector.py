"""What the elector costs and how fast it is, beside client-go's: `python -m bench.elector` prints a table, and asserts nothing.

How each figure is taken is said in `docs/benchmarks/elector.md`, which `--write` writes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from bench._elector_group import Setup
from bench._elector_phases import PHASES, Bench
from bench._elector_report import document, machine, rival_of
from bench._elector_table import say, table
from sandbox import Sandbox

__all__ = ["main"]

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "elector.md"


def main() -> int:
    options = _options()
    setting = machine(options.python)
    say(f"{setting}; load {os.getloadavg()[0]:.1f}")
    with Sandbox.start(audit=True) as sandbox:
        setup = Setup(sandbox, options.python, options.lock, options.rival)
        setup.prepare()
        bench = Bench(setup, rounds=options.rounds, minutes=options.minutes, many=options.many, only=options.only)
        asyncio.run(bench.run())
        rows = bench.rows()
    shown = table(rows, rival_of(options.rival))
    print(f"{setting}\n\n{shown}")
    if options.write:
        _PAGE.parent.mkdir(parents=True, exist_ok=True)
        _PAGE.write_text(document(setting, shown, options.rounds, options.minutes))
        say(f"written to {_PAGE.name}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.elector", description="What the elector costs, beside client-go's.")
    parser.add_argument("--rounds", type=int, default=20, help="of each fail-over and start (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=10.0, help="to count API requests over (default: %(default)s)")
    parser.add_argument("--many", type=int, default=100, help="candidates of the large elections (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="3 rounds, 1 minute, 20 candidates")
    parser.add_argument("--only", type=_phases, default=PHASES, metavar="PHASES", help=f"some of {','.join(PHASES)}")
    parser.add_argument("--python", type=_program, default=sys.executable, help="that runs our elector; needs h11 and pyyaml")
    parser.add_argument("--lock", choices=["endpoints", "leases"], default="endpoints", help="of our elector")
    parser.add_argument("--rival", choices=["endpoints", "leases"], default="leases", help="client-go 0.22's lock, or today's")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks/elector.md")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.minutes, options.many = 3, 1.0, 20
    if options.write and (options.quick or set(options.only) != set(PHASES)):
        parser.error("--write is for a whole run: without --only and --quick")
    return options


def _phases(text: str) -> Sequence[str]:
    wanted = text.split(",")
    if unknown := [name for name in wanted if name not in PHASES]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there are {', '.join(PHASES)}")
    return wanted


def _program(text: str) -> str:
    found = shutil.which(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"there is no program {text}")
    return found


if __name__ == "__main__":
    sys.exit(main())
