"""What all tests share: programs that can be interrupted, and what a failed test shows besides itself."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import Sandbox

_LINES, _WIDTH = 30, 400
_BEGAN = pytest.StashKey[float]()


def pytest_configure() -> None:
    """A shell's background job ignores interrupts, and so would all programs that it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Note when a test began."""
    item.stash[_BEGAN] = time.time()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the logs to the report of a failure, while they are still there."""
    report = yield
    if report.failed and call.when != "teardown":
        report.sections += [(log.name, _end_of(log)) for log in _logs(item)]
    return report


def _logs(item: pytest.Item) -> Iterator[Path]:
    fixtures: dict[str, Any] = getattr(item, "funcargs", {})
    used = [value if isinstance(value, Sandbox) else getattr(value, "sandbox", None) for value in fixtures.values()]
    for folder in {one.directory for one in used if isinstance(one, Sandbox)}:
        for log in sorted((folder / "logs").glob("*.log")):
            if log.stat().st_mtime >= item.stash[_BEGAN]:
                yield log


def _end_of(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LINES:]
    return "\n".join(line[:_WIDTH] for line in lines)
