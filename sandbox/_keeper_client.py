"""The caller's end of the keeper: requests and what became of the programs."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

from sandbox import _folders
from sandbox._errors import SandboxError

__all__ = ["KeeperClient", "Program"]

_REPLY = 30.0
"""Seconds in which the keeper has to answer; it answers in milliseconds unless the machine is overwhelmed."""


class Program:
    """A program running under the keeper. A restart makes another `Program` of the same name."""

    def __init__(self, keeper: "KeeperClient", name: str, pid: int, log: Path) -> None:
        self._keeper = keeper
        self.name = name
        self.pid = pid
        self.log = log
        """What it writes to standard output and standard error; appended to by its namesakes' later starts."""

    def __repr__(self) -> str:
        return f"<Program {self.name} pid {self.pid}>"

    @property
    def running(self) -> bool:
        """Whether it has not ended yet. A stopped (SIGSTOP) program is running."""
        return self._keeper.exit_code(self.pid) is None

    @property
    def exit_code(self) -> int | None:
        """Its exit code, minus the number of the signal that killed it, or None while it runs."""
        return self._keeper.exit_code(self.pid)

    def signal(self, number: int) -> None:
        """Send it (not what it started) a signal. `SandboxError` when it has ended already."""
        self._keeper.request("signal", pid=self.pid, signal=int(number))

    def wait(self, timeout: float) -> int | None:
        """Wait at most `timeout` seconds for its end: its exit code, or None when it still runs."""
        return self._keeper.wait_for_exit(self.pid, timeout)

    def stop(self, number: int = SIGTERM, *, grace: float = 10.0) -> int:
        """Signal it and what it started, kill them `grace` seconds later if need be, and return its exit code once it has ended.

        Told to stop this way, a part of the control plane may end without everything ending. Fine when it has ended already.
        """
        code = self.exit_code
        if code is not None:
            return code
        try:
            reply = self._keeper.request("stop", pid=self.pid, signal=int(number), grace=grace, timeout=grace + _REPLY)
        except SandboxError:
            code = self.exit_code  # it ended while we asked
            if code is None:
                raise
            return code
        return int(reply["code"])


class KeeperClient:
    """Starts a keeper on a folder and talks to it. Safe to use from several threads."""

    def __init__(self, folder: Path, lock: int) -> None:
        """`lock` is the descriptor that holds the folder's lock; it is the keeper's from here on, and closed here."""
        self._folder = folder
        self._changed = threading.Condition()
        self._replies: dict[int, dict[str, Any]] = {}
        self._exit_codes: dict[int, int] = {}
        self._pids: set[int] = set()
        self._next_id = 0
        self._ended: str | None = None
        self._detaching = False  # the keeper's silence is not its death
        self._detached = False
        try:
            with (folder / "keeper.log").open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "sandbox._keeper", str(folder), str(lock)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env={**os.environ, "PYTHONPATH": _with_this_package(os.environ.get("PYTHONPATH"))},
                    cwd=folder.parent.parent,  # so that no folder of the caller's is kept busy
                    pass_fds=[lock],
                    start_new_session=True,
                )
        finally:
            os.close(lock)
        self._reader = threading.Thread(target=self._listen, name=f"keeper of {folder.name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The keeper's process id."""
        return self._process.pid

    def request(self, do: str, *, timeout: float = _REPLY, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its reply. `SandboxError` when it is refused, late, or everything has ended."""
        with self._changed:
            self._check()
            self._next_id += 1
            number = self._next_id
            line = json.dumps({"id": number, "do": do, **fields}).encode() + b"\n"
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # the wait below tells why
                self._process.stdin.write(line)
                self._process.stdin.flush()
            answered = self._changed.wait_for(lambda: number in self._replies or self._ended is not None, timeout)
            reply = self._replies.pop(number, None)
            if reply is None:
                self._check()
                assert not answered
                raise SandboxError(f"the sandbox's keeper (pid {self.pid}) did not answer {do!r} within {timeout:g} s")
        if "error" in reply:
            raise SandboxError(f"{do}: {reply['error']}")
        return reply

    def start(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        cwd: Path,
        log: Path,
        essential: bool = False,
        inside: bool = False,
    ) -> Program:
        """Start a program; `SandboxError` when there is no such program or it cannot be started.

        `inside`: in the namespaces that `isolate` has made.
        """
        _folders.check_name(name)
        request: dict[str, Any] = {"name": name, "argv": list(argv), "env": dict(env), "cwd": str(cwd), "log": str(log)}
        reply = self.request("start", **request, essential=essential, inside=inside)
        with self._changed:
            self._pids.add(reply["pid"])
        return Program(self, name, reply["pid"], log)

    def isolate(self) -> int:
        """Make namespaces for programs to be started in, and return the pid of their first process.

        `SandboxError` when there is no making them: it takes root and Linux.
        """
        return int(self.request("isolate")["pid"])

    def exit_code(self, pid: int) -> int | None:
        """How the program ended, as in `subprocess`; None while it runs. `SandboxError` when everything has ended before."""
        with self._changed:
            if pid not in self._exit_codes:
                self._check()
            return self._exit_codes.get(pid)

    def wait_for_exit(self, pid: int, timeout: float) -> int | None:
        """Like `exit_code`, after waiting for up to `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: pid in self._exit_codes or self._ended is not None, timeout)
        return self.exit_code(pid)

    def check(self) -> None:
        """`SandboxError` that says why, when everything has ended."""
        with self._changed:
            self._check()

    def detach(self) -> None:
        """Let the keeper go on without us; afterwards only its pid can be used to end it."""
        self._detaching = True
        self.request("keep")
        self._detached = True
        self._close_pipes()
        self._process.returncode = 0  # not ours to wait for any more: keeps `subprocess` from warning about it

    def close(self, timeout: float = 20.0) -> None:
        """End everything and wait for it, `timeout` seconds at most; nothing when detached. May be called again."""
        if self._detached:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()  # the kernel ends its programs
            self._process.wait()
        self._reader.join()
        self._close_pipes()

    def _close_pipes(self) -> None:
        self._reader.join(timeout=_REPLY)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _check(self) -> None:
        if self._ended is not None:
            raise SandboxError(f"the sandbox {self._folder.name!r} has ended: {self._ended}")
        if self._detached:
            raise SandboxError(f"the sandbox {self._folder.name!r} is kept: it takes no more orders from here")

    def _listen(self) -> None:
        why = None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            with self._changed:
                if "id" in message:
                    self._replies[message["id"]] = message
                elif "exit" in message:
                    self._exit_codes[message["exit"]["pid"]] = message["exit"]["code"]
                elif "ended" in message:
                    why = message["ended"]
                self._changed.notify_all()
        if why is not None or not self._detaching:
            if why is None:
                why = self._clean_up_after_keeper()
            with self._changed:
                self._ended = why
                self._changed.notify_all()

    def _clean_up_after_keeper(self) -> str:
        """The keeper was killed: the kernel kills its programs, what they started and the folder are left to us."""
        self._process.wait()
        code = self._process.returncode
        why = f"its keeper ended with {f'exit code {code}' if code >= 0 else f'signal {-code}'}"
        with contextlib.suppress(OSError):
            if said := (self._folder / "keeper.log").read_text().strip():
                why += f":\n{said[-2000:]}"
        with self._changed:
            pids = self._pids - self._exit_codes.keys()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, SIGKILL)
        _poll(lambda: not any(_group_exists(pid) for pid in pids), seconds=5.0)
        _folders.sweep()
        return why


def _with_this_package(path: str | None) -> str:
    here = str(Path(__file__).resolve().parent.parent)
    return here if not path else os.pathsep.join([here, path])


def _group_exists(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _poll(condition: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
