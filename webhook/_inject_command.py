"""`leader-election inject`: the webhook's patch on manifests."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webhook._errors import ManifestError, SettingsError
from webhook._settings import CONFIG, INJECTION_OPTIONS, InjectionSettings, read_injection_settings

__all__ = ["add_to"]

_ENDINGS = (".yaml", ".yml", ".json")
_STDIN = "-"


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "inject",
        help="add the elector to annotated manifests, without a cluster",
        description="Add the elector to every annotated pod and pod template in manifests, as the webhook would. What is not "
        "annotated, or has the elector already, stays as it is.",
        epilog="Every setting can also be given as the environment variable named beside it, or in the file of --config. "
        "Exit codes: 0 done; 1 a pod that the webhook would deny, or a file that cannot be read or written, and nothing was "
        "written; 2 a wrong flag or value.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-f",
        "--filename",
        metavar="FILE",
        action="append",
        required=True,
        help=f"a file, - for standard input, or a directory, for all files in it and below that end in {', '.join(_ENDINGS)}; "
        "may be repeated",
    )
    parser.add_argument(
        "-i", "--in-place", action="store_true", help="write the files that change, instead of everything to standard output"
    )
    for option in (CONFIG, *INJECTION_OPTIONS):
        parser.add_argument(option.flag, metavar=option.metavar, help=option.help())
    parser.set_defaults(run=lambda options: _run(parser, options))


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    names: list[str] = options.filename
    if options.in_place and _STDIN in names:
        parser.error("--in-place writes files, and - is none")
    try:
        settings = read_injection_settings(vars(options), os.environ)
    except SettingsError as error:
        parser.error(str(error))
    try:
        results = [_inject(source, settings) for source in _sources(names)]
        if not all(results):
            return 1
        changed = [one for one in results if one is not None and (not options.in_place or one.text != one.source.text)]
        if options.in_place:
            for one in changed:
                _replace(Path(one.source.name), one.text)
        else:
            sys.stdout.write(_joined([one.text for one in changed]))
            sys.stdout.flush()
    except ManifestError as error:
        _say(str(error))
        return 1
    return 0


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class _Result:
    source: _Source
    text: str


def _inject(source: _Source, settings: InjectionSettings) -> _Result | None:
    """The result for one file, None when there is one that must not be used; told on standard error."""
    from webhook._inject import inject

    injected = inject(source.text, settings)
    name = "stdin" if source.name == _STDIN else source.name
    for warning in injected.warnings:
        _say(f"{name}: warning: {warning}")
    for line in injected.problems or injected.notes:
        _say(f"{name}: {line}")
    return None if injected.problems else _Result(source, injected.text)


def _say(line: str) -> None:
    print(f"leader-election: {line}", file=sys.stderr)


def _sources(names: list[str]) -> list[_Source]:
    sources = []
    for name in names:
        if name == _STDIN:
            sources.append(_Source(name, _decoded(sys.stdin.buffer.read(), "stdin")))
            continue
        paths = _files_below(Path(name)) if Path(name).is_dir() else [Path(name)]
        if not paths:
            raise ManifestError(f"{name} holds no files that end in {', '.join(_ENDINGS)}")
        for path in paths:
            try:
                sources.append(_Source(str(path), _decoded(path.read_bytes(), str(path))))
            except OSError as error:
                raise ManifestError(f"cannot read {path}: {error.strerror}") from error
    return sources


def _files_below(folder: Path) -> list[Path]:
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in files if name.endswith(_ENDINGS) and not name.startswith(".")]
    return sorted(found)


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ManifestError(f"{name} is not UTF-8: {error.reason} at byte {error.start}") from error


def _joined(texts: list[str]) -> str:
    """One stream of documents."""
    stream = ""
    for text in texts:
        if stream and not text.startswith("---"):
            stream += "---\n"
        stream += text if text.endswith("\n") or not text else f"{text}\n"
    return stream


def _replace(path: Path, text: str) -> None:
    """Write a file so that nobody ever sees half of it, and a failure leaves the old one."""
    path = path.resolve()  # a symbolic link stays one
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, temporary)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise ManifestError(f"cannot write {path}: {error.strerror}") from error
