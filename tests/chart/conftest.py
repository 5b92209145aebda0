"""What the tests of the chart share."""

import pytest

from sandbox._build import binaries
from sandbox._recipes import CHART_TOOLS


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build helm before any test's time runs, and where the person who waits can see it."""
    wanted = any("tests/chart/" in item.nodeid and item.get_closest_marker("long") for item in session.items)
    if session.config.option.collectonly or not wanted:
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    if capture is None:
        binaries(CHART_TOOLS)
    else:
        with capture.global_and_fixture_disabled():
            binaries(CHART_TOOLS)
