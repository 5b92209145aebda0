"""`python -m elector`, and the console script `elector`."""

from __future__ import annotations

import asyncio
import os
import sys

from elector import __version__
from elector._errors import ElectorError, SettingsError
from elector._settings import parse_settings

__all__ = ["main"]


def main() -> int:
    """Run the elector. Returns its exit code: 0 ended by a signal, 1 cannot run, 2 a wrong flag or value."""
    try:
        settings = parse_settings(sys.argv[1:], os.environ, __version__)
    except SettingsError as error:
        print(f"elector: {error}\nusage: elector --election NAME [options]; elector --help lists them", file=sys.stderr)
        return 2
    # Imported only now: --help and a wrong flag need none of it.
    from elector._run import run

    try:
        asyncio.run(run(settings, __version__))
    except ElectorError as error:
        print(f"elector: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
