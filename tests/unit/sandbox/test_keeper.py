"""The keeper, with programs that need no building."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import SandboxError, _folders
from sandbox._keeper_client import KeeperClient, Program
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[3]
ENV = {"PATH": os.defpath}
linux = pytest.mark.skipif(sys.platform != "linux", reason="rests on Linux' signals on a parent's death")


@pytest.fixture(autouse=True)
def _own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from the sandboxes of whoever runs the tests."""
    monkeypatch.setattr(_folders, "root", lambda: tmp_path / "sandboxes")
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture
def keeper() -> Iterator[KeeperClient]:
    client = KeeperClient(*_folders.create("one"))
    yield client
    client.close()


def start(keeper: KeeperClient, script: str, *, essential: bool = False, name: str = "program") -> Program:
    folder = _folders.root() / "one"
    log = folder / f"{name}.log"
    return keeper.start(name, ["sh", "-c", script], ENV, cwd=folder, log=log, essential=essential)


def alive(pid: int) -> bool:
    """Whether it runs; a zombie that its new parent has not waited for yet does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    try:
        return not stat.parent.parent.is_dir() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pid_in(file: Path) -> int:
    until(lambda: file.exists() and file.read_text().endswith("\n"), "the file is whole")
    return int(file.read_text())


def test_a_program_runs_and_ends_with_its_code(keeper: KeeperClient) -> None:
    program = start(keeper, "echo hello; exit 3")
    assert program.wait(20) == 3
    assert not program.running
    assert program.log.read_text() == "hello\n"
    with pytest.raises(SandboxError, match="not running"):
        program.signal(signal.SIGTERM)


def test_a_running_program_is_waited_for_only_as_long_as_asked(keeper: KeeperClient) -> None:
    program = start(keeper, "exec sleep 1000")
    assert program.wait(0.05) is None
    assert program.running
    assert program.stop() == -signal.SIGTERM
    assert program.stop() == -signal.SIGTERM, "once more changes nothing"


def test_who_ignores_sigterm_is_killed_after_the_grace(keeper: KeeperClient) -> None:
    program = start(keeper, "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    until(lambda: program.log.read_text() == "ready\n", "it is ready")
    assert program.stop(grace=0.2) == -signal.SIGKILL


def test_what_cannot_be_started_is_an_error(keeper: KeeperClient) -> None:
    with pytest.raises(SandboxError, match="no-such-program"):
        keeper.start("x", ["no-such-program"], ENV, cwd=Path("/"), log=_folders.root() / "one" / "x.log")
    assert start(keeper, "exit 0").wait(20) == 0, "and the keeper goes on"


def test_reserved_ports_differ_and_can_be_listened_on_by_who_shares(keeper: KeeperClient) -> None:
    import socket

    ports = keeper.request("reserve", count=3)["ports"]
    assert len(set(ports)) == 3
    with socket.socket() as sharing:
        sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sharing.bind(("127.0.0.1", ports[0]))
        sharing.listen()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", ports[0]))


def test_the_end_of_an_essential_program_ends_everything_and_is_told(keeper: KeeperClient) -> None:
    def still_going() -> bool:
        keeper.check()
        return False

    other = start(keeper, "exec sleep 1000", name="other")
    start(keeper, "echo the reason; exit 7", essential=True, name="etcd")
    until(lambda: not alive(other.pid), "the other one ended")
    with pytest.raises(SandboxError, match=r"etcd ended by itself with exit code 7(?s:.*)the reason"):
        until(still_going, "it still goes on")
    keeper.close()
    assert not _folders.root().exists()


def test_an_essential_program_may_be_stopped_on_purpose(keeper: KeeperClient) -> None:
    assert start(keeper, "exec sleep 1000", essential=True).stop(signal.SIGKILL) == -signal.SIGKILL
    keeper.check()
    assert start(keeper, "exit 0").wait(20) == 0


@linux
def test_the_end_takes_along_what_programs_have_started(keeper: KeeperClient) -> None:
    """Also what has left its group and session, and its parent."""
    folder = _folders.root() / "one"
    escaped = _folders.root().parent / "escaped"
    program = start(keeper, f"(setsid sh -c 'echo $$ > {escaped}; exec sleep 1000' &) ; sleep 1000")
    pid = pid_in(escaped)
    keeper.close()
    assert not alive(program.pid)
    assert not alive(pid)
    assert not folder.exists()


def test_a_kept_one_goes_on_without_its_caller_until_told(keeper: KeeperClient) -> None:
    program = start(keeper, "exec sleep 1000")
    folder = _folders.root() / "one"
    keeper.detach()
    with pytest.raises(SandboxError, match="kept"):
        program.stop()
    keeper.close()
    assert _folders.running() == [folder]
    assert alive(program.pid)

    os.kill(keeper.pid, signal.SIGTERM)

    until(lambda: not _folders.is_held(folder), "the folder is let go")
    until(lambda: not alive(program.pid), "the program ended")
    assert _folders.running() == []


def test_a_kept_one_that_ends_by_itself_leaves_a_note(keeper: KeeperClient) -> None:
    start(keeper, f"while [ ! -e {_folders.root().parent}/end ]; do sleep 0.01; done; exit 9", essential=True, name="etcd")
    keeper.detach()
    (_folders.root().parent / "end").touch()
    until(lambda: not _folders.is_held(_folders.root() / "one"), "the folder is let go")
    assert "exit code 9" in _folders.take_notes()["one"]
    assert _folders.take_notes() == {}
    until(lambda: not _folders.root().exists(), "the folders are gone")


@linux
def test_killing_the_keeper_leaves_neither_process_nor_folder(keeper: KeeperClient) -> None:
    """Its own programs by the kernel's hand, what they started in their groups by ours."""
    grandchild = _folders.root().parent / "grandchild"
    program = start(keeper, f"sh -c 'echo $$ > {grandchild}; exec sleep 1000' & wait")
    pid = pid_in(grandchild)
    os.kill(keeper.pid, signal.SIGKILL)
    until(lambda: not alive(program.pid), "the program ended")
    until(lambda: not alive(pid), "its child ended")
    with pytest.raises(SandboxError, match="keeper ended with signal 9"):
        keeper.request("reserve", count=1)
    until(lambda: not _folders.root().exists(), "the folders are gone")


def test_killing_the_caller_leaves_neither_process_nor_folder(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import json, sys
        from pathlib import Path
        from sandbox import _folders
        from sandbox._keeper_client import KeeperClient
        folder, lock = _folders.create(None)
        keeper = KeeperClient(folder, lock)
        program = keeper.start("x", ["sleep", "1000"], {"PATH": "/usr/bin:/bin"}, cwd=folder, log=folder / "log")
        print(json.dumps({"folder": str(folder), "pids": [keeper.pid, program.pid]}), flush=True)
        sys.stdin.read()
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        told = json.loads(caller.stdout.readline())
        assert Path(told["folder"]).is_relative_to(tmp_path)
        assert all(alive(pid) for pid in told["pids"])
        caller.kill()
    for pid in told["pids"]:
        until(lambda pid=pid: not alive(pid), "it ended")  # type: ignore[misc]
    assert not Path(told["folder"]).exists()


def test_two_of_one_name_are_refused(keeper: KeeperClient) -> None:
    with pytest.raises(SandboxError, match="'one' is already running"):
        _folders.create("one")


def test_left_over_folders_are_swept() -> None:
    folder, lock = _folders.create("left")
    assert _folders.running() == [folder]
    os.close(lock)
    assert _folders.running() == []
    _folders.sweep()
    assert not _folders.root().exists()


def test_the_root_stays_while_somebody_looks_into_it() -> None:
    folder, lock = _folders.create("ending")
    ending = threading.Thread(target=_folders.remove, args=(folder,))
    with _folders._locked_root(make=False):
        ending.start()
        until(lambda: not folder.exists(), "the folder is gone")
        ending.join(0.3)  # were it not to wait, it would be done
        assert _folders.root().exists()
    ending.join()
    os.close(lock)
    assert not _folders.root().exists()


def test_a_root_that_others_can_write_to_is_refused() -> None:
    _folders.root().mkdir(mode=0o700)
    _folders.root().chmod(0o777)
    with pytest.raises(SandboxError, match="0700"):
        _folders.create("one")


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "../a", "a" * 41, "a\n"])
def test_names_that_are_no_folder_names_are_refused(name: str) -> None:
    with pytest.raises(SandboxError, match="allowed are"):
        _folders.check_name(name)
