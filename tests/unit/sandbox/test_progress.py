import io
import time

import pytest

from sandbox._progress import Step


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that steps see, in seconds, as a list of one."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_terminal_sees_one_line_that_counts(clock: list[float]) -> None:
    screen = Terminal()
    with Step("building etcd", screen) as step:
        for _ in range(3):
            clock[0] += 1
            step.tick()
    shown = screen.getvalue()
    assert shown.count("\n") == 1
    assert shown.split("\r\x1b[K")[-2:] == ["building etcd ... 3 s", "building etcd done after 3 s\n"]


def test_a_log_gets_a_line_now_and_then(clock: list[float]) -> None:
    log = io.StringIO()
    with Step("building etcd", log) as step:
        for _ in range(90):
            clock[0] += 0.5
            step.tick()
    assert log.getvalue().splitlines() == [
        "building etcd ...",
        "building etcd ... 20 s",
        "building etcd ... 40 s",
        "building etcd done after 45 s",
    ]


@pytest.mark.parametrize(("error", "outcome"), [(KeyboardInterrupt, "cut off"), (ValueError, "failed")])
def test_how_a_step_ended_is_said(clock: list[float], error: type[BaseException], outcome: str) -> None:
    log = io.StringIO()

    def fail() -> None:
        with Step("building etcd", log):
            raise error

    with pytest.raises(error):
        fail()
    assert log.getvalue().splitlines()[-1] == f"building etcd {outcome} after 0 s"
