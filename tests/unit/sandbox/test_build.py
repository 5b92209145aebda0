"""Building, with a stand-in for `go` that does in milliseconds what the real one does in minutes."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sandbox import SandboxError, binaries
from sandbox._build import ASSETS_VARIABLE, cache_folder
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = ["etcd", "kube-apiserver", "kube-controller-manager"]
BUILD = [sys.executable, "-c", "from sandbox import binaries; print(binaries())"]

FAKE_GO = """\
#!{python}
import json, os, pathlib, sys, time
control = pathlib.Path({control!r})
command = sys.argv[1:]
if command[:2] == ["env", "GOVERSION"]:
    print("go1.26.3")
elif command[:2] == ["mod", "download"]:
    (control / "their.mod").write_text("module theirs\\n\\ngo 1.26.0\\n")
    print(json.dumps({{"GoMod": str(control / "their.mod")}}))
elif command[0] == "build":
    output = pathlib.Path(command[command.index("-o") + 1])
    with (control / "built").open("a") as log:
        log.write(output.name + "\\n")
    output.write_text("#!half")
    while (control / "hang").exists():
        time.sleep(0.01)
    if (control / "fail").exists():
        print("package x: it does not compile", file=sys.stderr)
        sys.exit(1)
    output.write_text("#!/bin/sh\\n")
    output.chmod(0o755)
else:
    sys.exit(f"unexpected: {{command}}")
"""


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files `hang` and `fail` tell the stand-in what to do, and whose `built` says what it did."""
    folder = tmp_path / "control"
    folder.mkdir()
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "go").write_text(FAKE_GO.format(python=sys.executable, control=str(folder)))
    (tools / "go").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(ASSETS_VARIABLE, raising=False)
    return folder


def partial_files() -> list[Path]:
    return list(cache_folder().rglob("partial-*"))


def built(control: Path) -> list[str]:
    log = control / "built"
    return log.read_text().split() if log.exists() else []


def test_what_is_missing_is_built_once(control: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = binaries()

    assert sorted(path.name for path in folder.iterdir()) == PROGRAMS
    assert all(os.access(folder / name, os.X_OK) for name in PROGRAMS)
    said = capsys.readouterr().err
    assert "minutes" in said
    assert "building etcd" in said
    assert binaries() == folder
    assert len(built(control)) == len(PROGRAMS)
    assert partial_files() == []


def test_a_failed_build_says_what_go_said(control: Path) -> None:
    (control / "fail").touch()
    with pytest.raises(SandboxError, match="it does not compile"):
        binaries()
    assert partial_files() == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, -signal.SIGINT)])
def test_a_build_that_is_cut_off_leaves_no_half_binary(control: Path, number: signal.Signals, code: int) -> None:
    (control / "hang").touch()
    with subprocess.Popen(BUILD, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until(lambda: bool(built(control)), "a build has begun")
        process.send_signal(number)
        assert process.wait(30) == code
    assert [path for path in cache_folder().rglob("*") if path.name in PROGRAMS] == []

    (control / "hang").unlink()
    folder = binaries()

    assert all((folder / name).read_text() == "#!/bin/sh\n" for name in PROGRAMS)
    assert partial_files() == []


def test_ctrl_c_while_building_is_no_traceback(control: Path) -> None:
    (control / "hang").touch()
    command = [sys.executable, "-m", "sandbox", "build"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: bool(built(control)), "a build has begun")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    assert partial_files() == []


def test_of_two_builds_at_once_the_second_waits_for_the_first(control: Path) -> None:
    (control / "hang").touch()

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(BUILD, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with start() as first:
        until(lambda: bool(built(control)), "a build has begun")
        with start() as second:
            assert second.stderr is not None
            assert "waiting" in second.stderr.readline()
            (control / "hang").unlink()
            outputs = [process.communicate(timeout=30)[0] for process in (first, second)]

    assert [first.returncode, second.returncode] == [0, 0]
    assert outputs[0] == outputs[1]
    assert len(built(control)) == len(PROGRAMS), "each was built once"


def test_a_given_folder_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ASSETS_VARIABLE, str(tmp_path))
    for name in PROGRAMS:
        (tmp_path / name).touch(mode=0o755)
    assert binaries() == tmp_path.resolve()


def test_of_a_given_folder_all_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ASSETS_VARIABLE, str(tmp_path))
    (tmp_path / "etcd").touch(mode=0o755)
    (tmp_path / "kube-apiserver").touch(mode=0o644)
    with pytest.raises(SandboxError, match=f"{tmp_path}.*missing: kube-apiserver, kube-controller-manager"):
        binaries()


def test_an_old_go_is_not_used(control: Path, tmp_path: Path) -> None:
    """And where neither pip nor uv can fetch another one, the error says what would help."""
    go = tmp_path / "tools" / "go"
    go.write_text(go.read_text().replace("go1.26.3", "go1.25.9"))
    script = textwrap.dedent(
        """
        import importlib.util, sys
        from sandbox import SandboxError, _go, binaries
        _go.importlib.util.find_spec = lambda name: None
        _go.shutil.which = lambda name, path=None: sys.argv[1] if name == "go" else None
        try:
            binaries()
        except SandboxError as error:
            print(error)
        """
    )
    done = subprocess.run([sys.executable, "-c", script, str(go)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Go 1.26 or newer" in done.stdout
    assert built(control) == []
