"""The program's outside: exit codes, standard error, and the line on standard output."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from elector import __version__, _run
from elector.__main__ import main
from elector._election import View
from elector._errors import ServeError
from elector._run import _LeaderLine
from elector._settings import Settings
from tests.unit.elector.pki import Authority


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["elector", *arguments])
    return main()


@pytest.mark.parametrize("arguments", [["--nonsense"], [], ["--election", "BIG"], ["--election", "x", "--renew-deadline", "11s"]])
def test_a_wrong_setting_is_2_with_the_reason_and_the_usage(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ELECTOR_ELECTION", raising=False)
    assert start(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.match(r"elector: .+\nusage: elector --election NAME", err)


def test_what_cannot_run_is_1_with_the_reason(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def run(settings: Settings, version: str) -> None:
        raise ServeError("cannot listen on 127.0.0.1:4040: the port is taken")

    monkeypatch.setattr(_run, "run", run)
    assert start(monkeypatch, "--election", "example") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "elector: cannot listen on 127.0.0.1:4040: the port is taken\n"


def test_an_end_in_good_order_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []

    async def run(settings: Settings, version: str) -> None:
        seen.append((settings.election, version))

    monkeypatch.setattr(_run, "run", run)
    assert start(monkeypatch, "--election", "example") == 0
    assert seen == [("example", __version__)]


def program(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ELECTOR_", "KUBE"))}
    return subprocess.run(
        [sys.executable, "-m", "elector", *arguments],
        env={**env, **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_taken_port_ends_the_program_before_it_stands(tmp_path: Path) -> None:
    Path(tmp_path, "token").write_text("secret-token-value")
    Path(tmp_path, "ca.crt").write_bytes(Authority().certificate)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = program(
            "--election=example",
            f"--http={address}",
            ELECTOR_SERVICE_ACCOUNT_DIR=str(tmp_path),
            KUBERNETES_SERVICE_HOST="127.0.0.1",
            KUBERNETES_SERVICE_PORT="1",
        )
    assert ended.returncode == 1
    assert ended.stderr == f"elector: cannot listen on {address}: the port is taken\n"
    assert ended.stdout == ""


def test_without_credentials_it_says_what_it_looked_for(tmp_path: Path) -> None:
    ended = program("--election=example", ELECTOR_SERVICE_ACCOUNT_DIR=str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr.startswith("elector: ")
    assert "Traceback" not in ended.stderr
    ended = program("--election=example", KUBECONFIG=str(tmp_path / "missing"))
    assert ended.returncode == 1
    assert str(tmp_path / "missing") in ended.stderr
    assert "Traceback" not in ended.stderr


def view(name: str, *, leading: bool = False) -> View:
    return View(name, "pod-a", leading, 7, 0, "", "", 1.0 if leading else 0.0)


def test_the_leader_is_said_once_at_each_change(capsys: pytest.CaptureFixture[str]) -> None:
    line = _LeaderLine("text")
    for one in (view(""), view("pod-b"), view("pod-b"), view("pod-a", leading=True), view(""), view("pod-a", leading=True)):
        line(one)
    # Said again after a time without a leader: the second line is another election.
    assert capsys.readouterr().out == "leader is pod-b\nleader is pod-a\nleader is pod-a\n"


def test_leading_and_losing_it_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    line = _LeaderLine("text")
    with caplog.at_level(logging.INFO, "elector"):
        for one in (view("pod-b"), view(""), view("pod-a", leading=True), view("pod-a")):
            line(one)
    assert caplog.messages == ["no leader known", "leading with token 7", "not leading any more"]


def test_as_json_each_line_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    _LeaderLine("json")(view('pod "b"'))
    fields = json.loads(capsys.readouterr().out)
    assert fields["message"] == 'leader is pod "b"'
    assert fields["leader"] == 'pod "b"'
    assert fields["level"] == "info"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", fields["time"])
