"""`leader-election controller`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from typing import Any

from webhook._errors import SettingsError
from webhook.controller._settings import add_flags, read_settings

__all__ = ["add_to"]


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "controller",
        help="keep the webhook's certificate in order, give injected pods their rights, label the leading ones",
        description="Keep the webhook's certificate and its registration in order (--hosts); give injected pods the rights on "
        "their locks, and label the leading ones (--grants). Of several replicas one acts, chosen by this project's own "
        "election. Reaches the API server with the service account of its pod.",
        epilog="Exit codes: 0 ended by a signal, 1 cannot run (no service account, address taken), 2 a wrong flag or value.",
        allow_abbrev=False,
    )
    add_flags(parser)
    parser.set_defaults(run=lambda options: _run(parser, options))


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from webhook._log import start_logging
    from webhook.controller._errors import CannotRun
    from webhook.controller._run import run

    try:
        settings = read_settings(options)
    except SettingsError as error:
        parser.error(str(error))
    start_logging()
    try:
        asyncio.run(run(settings, os.environ))
    except CannotRun as error:
        print(f"leader-election: {error}", file=sys.stderr)
        return 1
    return 0
