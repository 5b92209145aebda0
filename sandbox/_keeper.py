"""The keeper: the process that starts a sandbox's programs, and that makes sure that none of them outlives it.

`python -m sandbox._keeper FOLDER LOCK_FD`, in a session of its own, so that a Ctrl-C meant for its caller does not reach it.
It obeys JSON lines on its standard input and answers on its standard output; every request has an `id`, which its reply carries:

    {"do": "reserve", "count": N}                                -> {"ports": [...]}  ports of 127.0.0.1, kept until the end
    {"do": "isolate"}                                            -> {"pid": N}         make namespaces (Linux, root)
    {"do": "start", "name", "argv", "env", "cwd", "log", "essential", "inside"} -> {"pid": N}
    {"do": "signal", "pid", "signal"}                            -> {}
    {"do": "stop", "pid", "signal", "grace"}                     -> {"code": N}       once it has ended
    {"do": "keep"}                                               -> {}                go on without a caller

A request that cannot be met is answered with `{"error": "..."}`. Unasked come `{"exit": {"name", "pid", "code"}}` and, last,
`{"ended": "why"}`. When its input ends (its caller left, crashed or was killed), on SIGTERM, and when an essential program
dies by itself, it stops everything and removes the folder. Programs started `inside` run in the namespaces made before, see
`_namespaces`; all pids are this machine's.

One thread only: the kernel ties the children's death to the thread that started them.
"""

import contextlib
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbox import _cgroups, _folders
from sandbox._namespaces import Namespaces, first_child_founds_processes
from sandbox._process import adopt_orphans, children, dies_with_parent

__all__ = ["main"]

_ISOLATED_WITHIN = 20.0
"""Seconds for new namespaces to be ready; it takes a fraction of one."""

_GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL for the programs that are not essential, when everything ends."""


@dataclass
class _Program:
    name: str
    process: subprocess.Popen[bytes]
    log: Path
    essential: bool
    stop_requests: list[int] = field(default_factory=list)
    kill_at: float | None = None


class _End(Exception):
    """Everything is to be stopped; the message says why."""


class _Keeper:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs: dict[int, _Program] = {}
        self._ports: list[socket.socket] = []
        self._namespaces: Namespaces | None = None
        self._kept = False
        self._output: int | None = sys.stdout.fileno()
        self._buffer = b""
        self._terminated = False
        self._dies_with_parent = dies_with_parent()

    def run(self) -> None:
        """Serve until something ends it, then stop everything and remove the folder."""
        try:
            self._serve()
        except _End as end:
            reason = str(end)
            if self._kept and not self._terminated:
                _folders.leave_note(self._folder, reason)
        else:
            reason = "its caller is gone"
        self._stop_everything()
        _cgroups.remove(_cgroups.name_of(self._folder))
        _folders.remove(self._folder)
        self._say({"ended": reason})

    def _serve(self) -> None:
        woken, wake = socket.socketpair()
        woken.setblocking(False)
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_terminate)
        with selectors.DefaultSelector() as selector:
            selector.register(woken, selectors.EVENT_READ)
            selector.register(sys.stdin, selectors.EVENT_READ)
            self._say({"keeper": os.getpid()})
            while True:
                for key, _ in selector.select(self._seconds_to_deadline()):
                    if key.fileobj is woken:
                        with contextlib.suppress(BlockingIOError):
                            while woken.recv(4096):
                                pass
                    elif not self._read():
                        return
                if self._terminated:
                    raise _End("it was told to stop")
                self._reap()
                self._kill_the_late()
                if self._kept and sys.stdin in selector.get_map():
                    self._let_go_of_caller(selector)

    def _on_terminate(self, *_: object) -> None:
        self._terminated = True

    # Requests

    def _read(self) -> bool:
        """Carry out what the caller has written; False when it is gone."""
        data = os.read(sys.stdin.fileno(), 65536)
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            request = json.loads(line)
            try:
                reply = self._carry_out(request)
            except (OSError, ValueError) as error:
                reply = {"error": str(error)}
            if reply is not None:
                self._say({"id": request["id"], **reply})
        return bool(data) or self._kept

    def _carry_out(self, request: dict[str, Any]) -> dict[str, Any] | None:
        match request["do"]:
            case "reserve":
                return {"ports": [self._reserve() for _ in range(request["count"])]}
            case "isolate":
                return {"pid": self._isolate()}
            case "start":
                return {"pid": self._start(request)}
            case "signal":
                self._program(request["pid"]).process.send_signal(request["signal"])
                return {}
            case "stop":
                program = self._program(request["pid"])
                program.stop_requests.append(request["id"])
                program.kill_at = time.monotonic() + request["grace"]
                _signal_group(program, request["signal"])
                return None  # answered when it has ended
            case "keep":
                self._kept = True
                return {}
            case unknown:
                raise ValueError(f"no such request: {unknown!r}")

    def _program(self, pid: int) -> _Program:
        if pid not in self._programs:
            raise ValueError(f"pid {pid} is not running")
        return self._programs[pid]

    def _reserve(self) -> int:
        # Bound for as long as the sandbox lives, never listening: nobody else is given the port, while the sandbox's own
        # servers, told to share ports, may listen on it, again after a restart too.
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._ports.append(holder)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        return port

    def _isolate(self) -> int:
        if self._namespaces is not None:
            raise ValueError("there are namespaces already")
        log = self._folder / "logs" / "namespaces.log"
        with log.open("ab") as errors, first_child_founds_processes():
            process = subprocess.Popen(
                [sys.executable, "-m", "sandbox._namespaces", str(self._folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                process_group=0,
                preexec_fn=self._dies_with_parent,
            )
        self._programs[process.pid] = _Program("namespaces", process, log, essential=True)
        assert process.stdout is not None
        with process.stdout as said:
            ready, _, _ = select.select([said], [], [], _ISOLATED_WITHIN)
            if not ready or said.readline() != b"ready\n":
                raise ValueError(f"no namespaces could be made:\n{_tail(log)}")
        self._namespaces = Namespaces(process.pid)
        return process.pid

    def _start(self, request: dict[str, Any]) -> int:
        log = Path(request["log"])
        cwd, prepare = request["cwd"], self._dies_with_parent
        around: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if request["inside"]:
            if self._namespaces is None:
                raise ValueError("there are no namespaces to start it in")
            prepare = self._namespaces.entering(cwd, prepare)
            around, cwd = self._namespaces.children_inside(), None
        with log.open("ab") as output, around:
            process = subprocess.Popen(
                request["argv"],
                env=request["env"],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
                preexec_fn=prepare,
            )
        self._programs[process.pid] = _Program(request["name"], process, log, request["essential"])
        return process.pid

    def _say(self, message: dict[str, Any]) -> None:
        if self._output is not None:
            try:
                os.write(self._output, json.dumps(message).encode() + b"\n")
            except BrokenPipeError:
                self._output = None

    def _let_go_of_caller(self, selector: selectors.BaseSelector) -> None:
        selector.unregister(sys.stdin)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, sys.stdin.fileno())
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
        self._output = None

    # Ends

    def _reap(self) -> None:
        for program, code in self._ended_children():
            _signal_group(program, signal.SIGKILL)  # what it started goes with it
            self._say({"exit": {"name": program.name, "pid": program.process.pid, "code": code}})
            for request in program.stop_requests:
                self._say({"id": request, "code": code})
            if program.essential and not program.stop_requests:
                raise _End(f"{program.name} ended by itself with {_in_words(code)}; the end of its log:\n{_tail(program.log)}")

    def _ended_children(self) -> list[tuple[_Program, int]]:
        ended = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)  # adopted orphans too
            except ChildProcessError:
                break
            if pid == 0:
                break
            if program := self._programs.pop(pid, None):
                program.process.returncode = os.waitstatus_to_exitcode(status)
                ended.append((program, program.process.returncode))
        return ended

    def _seconds_to_deadline(self) -> float | None:
        deadlines = [program.kill_at for program in self._programs.values() if program.kill_at is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _kill_the_late(self) -> None:
        now = time.monotonic()
        for program in self._programs.values():
            if program.kill_at is not None and program.kill_at <= now:
                program.kill_at = None
                _signal_group(program, signal.SIGKILL)

    def _stop_everything(self) -> None:
        """Programs are asked first, while there still is an API server to say goodbye to; the control plane is killed: its
        data go away anyway."""
        for program in self._programs.values():
            if not program.essential:
                _signal_group(program, signal.SIGTERM)
                _signal_group(program, signal.SIGCONT)
        self._wait_while(lambda: any(not program.essential for program in self._programs.values()), _GRACE)
        for program in self._programs.values():
            _signal_group(program, signal.SIGKILL)
        self._wait_while(lambda: bool(self._programs), 5.0)

        def kill_orphans() -> bool:
            for pid in children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return bool(children())

        self._wait_while(kill_orphans, 5.0)

    def _wait_while(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while condition() and time.monotonic() < deadline:
            for program, _ in self._ended_children():
                _signal_group(program, signal.SIGKILL)
            time.sleep(0.01)


def _signal_group(program: _Program, number: int) -> None:
    # Each program leads a group of its own, whose number stays taken while the group has members.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(program.process.pid, number)


def _in_words(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def _tail(log: Path, lines: int = 15) -> str:
    try:
        text = log.read_text(errors="replace")
    except OSError as error:
        return f"(unreadable: {error.strerror})"
    return "\n".join(text.splitlines()[-lines:])


def main() -> None:
    """Run as a program."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    folder, lock = Path(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(lock, False)
    adopt_orphans()
    (folder / "keeper.pid").write_text(str(os.getpid()))
    _Keeper(folder).run()


if __name__ == "__main__":
    main()
