"""What all tests against a real API server share."""

from collections.abc import Iterator

import pytest

from sandbox import Sandbox, binaries


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is missing before any test's time runs, and where the person who waits can see it."""
    if session.config.option.collectonly or not any(item.get_closest_marker("api") for item in session.items):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    if capture is None:
        binaries()
    else:
        with capture.global_and_fixture_disabled():
            binaries()


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """A control plane that all tests of the session share: use names of your own, and leave its parts running."""
    with Sandbox.start(audit=True) as started:
        yield started
