"""What the demo shows: sentences, and a table of who leads according to whom."""

import os
import shutil
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, TextIO

__all__ = ["Leaders", "say"]

_WIDEST = 100
"""Characters, on a terminal that has room for more: longer lines are hard to read."""
_CLOCK_EVERY = 0.1
"""Seconds between two changes of the table's running clock."""

_BOLD_GREEN, _DIM, _PLAIN = "\x1b[1;32m", "\x1b[2m", "\x1b[0m"


def say(text: str = "", *, indent: str = "") -> None:
    """A paragraph for the person who watches: broken between words on a terminal, one line elsewhere."""
    if sys.stdout.isatty():
        width = min(_WIDEST, shutil.get_terminal_size().columns)
        text = textwrap.fill(
            text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    else:
        text = indent + text if text else ""
    print(text, flush=True)


class Leaders:
    """Who leads according to each pod: on a terminal a table whose last row is live, a line per change elsewhere.

    `*` marks a pod whose own elector says that it leads. `with Leaders(pods) as leaders:` and call `show` often.
    """

    def __init__(self, pods: Sequence[str], stream: TextIO | None = None) -> None:
        self._pods = pods
        self._stream = sys.stdout if stream is None else stream
        self._live = self._stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._colours = self._live and not os.environ.get("NO_COLOR")
        self._width = max(len("no answer"), *(len(pod) + 2 for pod in pods)) + 3
        self._shown: Mapping[str, str | None] | None = None
        self._row = ""

    def __enter__(self) -> Self:
        self._began = self._changed = self._drawn = time.monotonic()
        if self._live:
            self._stream.write(f"{' ' * 12}{''.join(f'{pod:{self._width}}' for pod in self._pods).rstrip()}\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._finish_row()

    def show(self, names: Mapping[str, str | None]) -> None:
        """What each pod answers now: a name, `""` for nobody, None for no answer. A pod that is missing has ended."""
        now = time.monotonic()
        if names != self._shown:
            self._finish_row()
            self._shown, self._changed = dict(names), now
            self._row = f"{now - self._began:8.2f} s  {self._cells(names)}"
            self._stream.write(self._row if self._live else f"{self._row}\n")
        elif self._live and now - self._drawn >= _CLOCK_EVERY:
            self._drawn = now
            self._stream.write(f"\r\x1b[K{self._row}  {self._styled(_DIM, f'for {now - self._changed:.1f} s')}")
        self._stream.flush()

    def _finish_row(self) -> None:
        if self._live and self._row:
            self._stream.write(f"\r\x1b[K{self._row}\n")
            self._stream.flush()
        self._row = ""

    def _cells(self, names: Mapping[str, str | None]) -> str:
        if not self._live:
            return "  ".join(f"{pod}: {_cell(pod, names)}" for pod in self._pods)
        cells = []
        for pod in self._pods:
            style = _BOLD_GREEN if names.get(pod) == pod else "" if names.get(pod) else _DIM
            text = _cell(pod, names)
            cells.append(self._styled(style, text) + " " * (self._width - len(text)))
        return "".join(cells).rstrip()

    def _styled(self, style: str, text: str) -> str:
        return f"{style}{text}{_PLAIN}" if self._colours and style else text


def _cell(pod: str, names: Mapping[str, str | None]) -> str:
    if pod not in names:
        return "ended"
    name = names[pod]
    if name is None:
        return "no answer"
    return f"{name} *" if name == pod else name or "nobody"
