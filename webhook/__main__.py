"""The command line: `leader-election COMMAND`, also `python -m webhook COMMAND`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from webhook import _check_command, _cleanup_command, _inject_command, _status_command, _webhook_command
from webhook.controller import _command as _controller_command

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; each command's help lists its own, 2 is always a wrong use of flags."""
    parser = argparse.ArgumentParser(
        prog="leader-election",
        description="Leader election for any program in a Kubernetes pod: annotate the pod, ask localhost.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    # Each imports what it needs when it runs: help and a wrong flag should not wait for a web framework.
    for command in (_webhook_command, _controller_command, _inject_command, _check_command, _status_command, _cleanup_command):
        command.add_to(commands)
    options = parser.parse_args(argv)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has left, as `head` does. What is still buffered goes nowhere, without another complaint.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
