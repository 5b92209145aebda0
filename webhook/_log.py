"""One line per event on standard error, cheaply: a line is written for every review."""

from __future__ import annotations

import logging
import time

__all__ = ["start_logging"]


class _Formatter(logging.Formatter):
    """Time in UTC, level, message. The time's text is made once a second, which is most of what a line costs."""

    def __init__(self) -> None:
        super().__init__()
        self._second = -1
        self._text = ""

    def format(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        line = f"{self._text}.{int(record.msecs):03d}Z {record.levelname} {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def start_logging() -> None:
    """Log everything from level INFO to standard error."""
    # What no line of ours shows need not be found out for it: see https://docs.python.org/3/howto/logging.html#optimization.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
