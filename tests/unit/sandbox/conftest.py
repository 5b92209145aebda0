import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def _heed_ctrl_c() -> Iterator[None]:
    """A background job ignores Ctrl-C, and so would all that these tests start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
