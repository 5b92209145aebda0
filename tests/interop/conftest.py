"""What the tests of interoperation share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox import Sandbox, binaries
from tests.interop.candidates import LOCKS, candidate


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is missing before any test's time runs, and where the person who waits can see it."""
    here = [item for item in session.items if item.path.is_relative_to(__file__.rpartition("/")[0])]
    if session.config.option.collectonly or not here:
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    if capture is None:
        _build()
    else:
        with capture.global_and_fixture_disabled():
            _build()


def _build() -> None:
    binaries()
    for lock in LOCKS:
        candidate(lock)


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """A control plane for these tests alone: what others do to theirs must not cost anybody here a lease."""
    with Sandbox.start() as started:
        yield started
