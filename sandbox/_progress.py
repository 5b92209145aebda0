"""Saying what takes so long."""

import sys
import time
from types import TracebackType
from typing import Self, TextIO

__all__ = ["Step", "say"]

_PLAIN_EVERY = 20.0
"""Seconds between two lines of one step where there is no terminal."""


def say(text: str) -> None:
    """A line of its own."""
    print(text, file=sys.stderr, flush=True)


class Step:
    """One step, shown while it lasts: a line that counts its seconds on a terminal, a line now and then elsewhere.

    `with Step("building etcd") as step:` and call `step.tick()` often.
    """

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        self._label = label
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()

    def __enter__(self) -> Self:
        self._began = self._said = time.monotonic()
        self._show("..." if not self._live else "")
        return self

    def tick(self) -> None:
        """Show that it is still going on."""
        now = time.monotonic()
        if self._live or now - self._said >= _PLAIN_EVERY:
            self._said = now
            self._show(f"... {now - self._began:.0f} s")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        outcome = "done" if kind is None else "cut off" if kind is KeyboardInterrupt else "failed"
        self._show(f"{outcome} after {time.monotonic() - self._began:.0f} s")
        if self._live:
            self._stream.write("\n")
            self._stream.flush()

    def _show(self, state: str) -> None:
        if self._live:
            self._stream.write(f"\r\x1b[K{self._label} {state}")
        else:
            self._stream.write(f"{self._label} {state}\n")
        self._stream.flush()
