import io
import os
import time

import pytest

from sandbox import _screen
from sandbox._screen import Leaders, say

PODS = ["pod-a", "pod-b"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the table sees, in seconds, as a list of one."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def run(stream: io.StringIO, clock: list[float]) -> str:
    """Nobody leads for 2 s, then pod-a, who ends."""
    with Leaders(PODS, stream) as leaders:
        leaders.show({"pod-a": None, "pod-b": ""})
        for _ in range(16):
            clock[0] += 0.125
            leaders.show({"pod-a": None, "pod-b": ""})
        leaders.show({"pod-a": "pod-a", "pod-b": "pod-a"})
        leaders.show({"pod-b": "pod-a"})
    return stream.getvalue()


def rows_left(shown: str) -> list[str]:
    """What stays on a terminal: of each line, what was written after the last erasure."""
    return [line.rpartition("\r\x1b[K")[2] for line in shown.split("\n")]


def test_elsewhere_than_on_a_terminal_each_change_is_a_line(clock: list[float]) -> None:
    assert run(io.StringIO(), clock).splitlines() == [
        "    0.00 s  pod-a: no answer  pod-b: nobody",
        "    2.00 s  pod-a: pod-a *  pod-b: pod-a",
        "    2.00 s  pod-a: ended  pod-b: pod-a",
    ]


def test_a_dumb_terminal_gets_plain_lines(clock: list[float], terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in run(terminal, clock)


def test_a_terminal_sees_a_table(clock: list[float], terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert rows_left(run(terminal, clock)) == [
        "            pod-a       pod-b",
        "    0.00 s  no answer   nobody",
        "    2.00 s  pod-a *     pod-a",
        "    2.00 s  ended       pod-a",
        "",
    ]


def test_the_last_row_counts(clock: list[float], terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    shown = run(terminal, clock)
    assert "\r\x1b[K    0.00 s  no answer   nobody  for 1.5 s" in shown


def test_the_leader_stands_out_and_the_columns_stay(clock: list[float], terminal: Terminal) -> None:
    row = rows_left(run(terminal, clock))[2]
    assert row == "    2.00 s  \x1b[1;32mpod-a *\x1b[0m     pod-a"


def test_an_interruption_ends_the_row(terminal: Terminal) -> None:
    def interrupted() -> None:
        with Leaders(PODS, terminal) as leaders:
            leaders.show({"pod-a": "", "pod-b": ""})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert terminal.getvalue().endswith("\n")


def test_a_paragraph_is_one_line_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    text = "word " * 40
    say(text.strip(), indent="  ")
    assert capsys.readouterr().out == f"  {text.strip()}\n"


def test_a_paragraph_fits_the_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_screen.sys, "stdout", terminal)  # type: ignore[attr-defined]
    monkeypatch.setattr(_screen.shutil, "get_terminal_size", lambda: os.terminal_size((20, 5)))  # type: ignore[attr-defined]
    say("word " * 10)
    say("--a-very-long-argument=which/cannot/be-broken", indent="  ")
    lines = terminal.getvalue().splitlines()
    assert lines == ["word word word word"] * 2 + ["word word", "  --a-very-long-argument=which/cannot/be-broken"]
