"""`leader-election webhook`: the admission process."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from webhook._errors import ServeError, SettingsError
from webhook._settings import CONFIG, OPTIONS, read_settings

__all__ = ["add_to"]


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "webhook",
        help="answer the API server's admission reviews: adds the elector to annotated pods",
        description="Answer the API server's admission reviews over TLS: adds the elector to annotated pods. "
        "Needs no rights on the API server and never calls it.",
        epilog="Every setting can also be given as the environment variable named beside it, or in the file of --config: "
        "the flag wins over the variable, the variable over the file. "
        "Exit codes: 0 ended by a signal, 1 cannot serve (address taken, certificate unusable), 2 a wrong flag or value.",
        allow_abbrev=False,
    )
    for option in (CONFIG, *OPTIONS):
        # Values are read by read_settings, so that flags, variables and the file have one set of messages.
        parser.add_argument(option.flag, metavar=option.metavar, help=option.help())
    parser.set_defaults(run=lambda options: _run(parser, options))


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    try:
        injection, serving = read_settings(vars(options), os.environ)
    except SettingsError as error:
        parser.error(str(error))

    from webhook._app import create_app
    from webhook._certificate import Certificate
    from webhook._log import start_logging
    from webhook._metrics import Metrics
    from webhook._server import serve

    start_logging()
    metrics = Metrics()
    try:
        certificate = Certificate(serving.tls_cert_file, serving.tls_key_file)
        certificate.on_reload(metrics.reloaded)
        metrics.show_certificate_end(lambda: certificate.ends)
        serve(create_app(injection, metrics), serving, certificate)
    except ServeError as error:
        print(f"leader-election: {error}", file=sys.stderr)
        return 1
    return 0
