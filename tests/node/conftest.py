"""One node for all tests of the session: the images are built, loaded, and the chart is installed, before the first one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from sandbox import Sandbox, binaries
from sandbox._images import RUNTIMES, project_images, runtime_image
from sandbox._recipes import CHART_TOOLS, NODE
from tests.node.cluster import NAMESPACES, Cluster

_TIMEOUT = 300
"""Seconds for a test; whoever comes first waits for the node, too."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without root there is no node. `make test-node` says so before; whoever is root gets no excuse."""
    possible = sys.platform == "linux" and os.geteuid() == 0
    for item in items:
        if "tests/node/" in item.nodeid:
            item.add_marker(pytest.mark.timeout(_TIMEOUT))
            if not possible:
                item.add_marker(pytest.mark.skip(reason="a node needs Linux and root"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is missing before any test's time runs, and where the person who waits can see it."""
    wanted = any("tests/node/" in item.nodeid and not item.get_closest_marker("skip") for item in session.items)
    if session.config.option.collectonly or not wanted:
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        binaries(NODE)
        binaries(CHART_TOOLS)
        project_images()
        for runtime in RUNTIMES:
            runtime_image(runtime)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The node, shared: use the namespace that you are given, and leave its parts running."""
    with Sandbox.start(node=True, audit=True) as sandbox:
        found = Cluster(sandbox, tmp_path_factory.mktemp("cluster"))
        found.load("scripts")
        found.install()
        yield found


@pytest.fixture(scope="session")
def _namespaces() -> Iterator[str]:
    return iter(NAMESPACES)


@pytest.fixture
def namespace(cluster: Cluster, _namespaces: Iterator[str]) -> Iterator[str]:
    """A namespace of the test's own, whose `default` service account may stand for election; emptied afterwards."""
    name = next(_namespaces)
    yield name
    # The namespace itself stays: the release has Roles in it.
    cluster.kubectl("--namespace", name, "delete", "all,poddisruptionbudgets,resourcequotas", "--all", "--wait=false")
