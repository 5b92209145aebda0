"""`python -m elector`, and the console script `elector`."""

from __future__ import annotations

import gc
import os
import sys

__all__ = ["main"]


def main() -> int:
    """Run the elector. Returns its exit code: 0 ended by a signal, 1 cannot run, 2 a wrong flag or value."""
    # What imports make is there to stay: searching it for garbage again and again takes a sixth of the CPU time of a start.
    gc.disable()
    try:
        return _main()
    finally:
        gc.enable()


def _main() -> int:
    from elector import __version__
    from elector._errors import ElectorError, SettingsError
    from elector._settings import parse_settings

    try:
        settings = parse_settings(sys.argv[1:], os.environ, __version__)
    except SettingsError as error:
        print(f"elector: {error}\nusage: elector --election NAME [options]; elector --help lists them", file=sys.stderr)
        return 2
    # Imported only now: --help and a wrong flag need none of it.
    import asyncio

    from elector._run import run

    gc.freeze()
    gc.enable()
    try:
        asyncio.run(run(settings, __version__))
    except ElectorError as error:
        print(f"elector: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
