"""Namespaces of a node's own: processes, network and mounts, which end with their first process whatever that dies of.

`python -m sandbox._namespaces FOLDER` is that first process (pid 1 inside). It makes the others, sets up the node's network,
says so in one line, and from then on only waits for orphans. When it is gone, the kernel kills all that is left inside, and
with the last process go the mounts and the interfaces: so nothing has to be undone, after a crash neither.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = [
    "NODE_ADDRESS",
    "POD_ADDRESSES",
    "Namespaces",
    "enter_network_of",
    "first_child_founds_processes",
    "main",
    "network_of",
]

NODE_ADDRESS = "10.201.0.1"
"""The node's own address; like those of pods, nobody outside of the namespace knows it."""
POD_ADDRESSES = "10.202.0.0/16"

MEMORY = "memory"
"""The folder, in a sandbox's, that is a file system in memory: seen inside only, where layers can be kept on it whatever the
machine's disk is like, and gone in an instant, however many files the images on it had."""

_CLONE_NEWNS = 0x00020000
_CLONE_NEWPID = 0x20000000
_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000

_libc = ctypes.CDLL(None, use_errno=True)

_KERNEL_SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
"""What a kubelet sets for the whole machine. Inside it finds them set, in files of the sandbox; the machine's stay as is."""

_PRIVATE_FOLDERS = ("/run", "/var/lib", "/var/log", "/opt", "/etc/cni")
"""Where a node's programs leave things whatever they are told: inside, these are layers over the machine's."""


class Namespaces:
    """The way in, for the keeper: holds the namespaces of a running first process."""

    def __init__(self, pid: int) -> None:
        """`pid` is the first process', as its parent sees it."""
        self.pid = pid
        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY)
        self._processes = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY)
        self._mounts = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
        self._network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)

    @contextlib.contextmanager
    def children_inside(self) -> Iterator[None]:
        """Processes that this thread starts meanwhile belong inside; they still have to `enter` the rest."""
        _set_namespace(self._processes, _CLONE_NEWPID)
        try:
            yield
        finally:
            _set_namespace(self._own, _CLONE_NEWPID)

    def entering(self, cwd: str, before: Callable[[], None] | None) -> Callable[[], None]:
        """A `preexec_fn` that does `before`, enters network and mounts, and goes to `cwd` there."""

        def prepare() -> None:
            if before is not None:
                before()
            _set_namespace(self._network, _CLONE_NEWNET)
            _set_namespace(self._mounts, _CLONE_NEWNS)
            os.chdir(cwd)

        return prepare


@contextlib.contextmanager
def first_child_founds_processes() -> Iterator[None]:
    """The next process that this thread starts is the first of a new process namespace."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    try:
        _check(_libc.unshare(_CLONE_NEWPID), "unshare")
        try:
            yield
        finally:
            _set_namespace(own, _CLONE_NEWPID)
    finally:
        os.close(own)


@contextlib.contextmanager
def network_of(pid: int) -> Iterator[None]:
    """Sockets that this thread makes meanwhile belong to that process' network, for as long as they live."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        enter_network_of(pid)
        try:
            yield
        finally:
            _set_namespace(own, _CLONE_NEWNET)
    finally:
        os.close(own)


def enter_network_of(pid: int) -> None:
    """Sockets that this thread makes from now on belong to that process' network; those that it has stay where they are."""
    network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        _set_namespace(network, _CLONE_NEWNET)
    finally:
        os.close(network)


def _set_namespace(descriptor: int, kind: int) -> None:
    _check(_libc.setns(descriptor, kind), "setns")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    result = _libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, options.encode() or None)
    _check(result, f"mount {target}")


def _set_up_mounts(folder: Path) -> None:
    _mount("none", "/", flags=_MS_REC | _MS_PRIVATE)
    _mount("proc", "/proc", "proc")
    settings = folder / "kernel-settings"
    for name, value in _KERNEL_SETTINGS.items():
        file = settings / name.replace("/", ".")
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{value}\n")
        _mount(str(file), f"/proc/sys/{name}", flags=_MS_BIND)
    memory = folder / MEMORY
    memory.mkdir()
    _mount("tmpfs", str(memory), "tmpfs", options="mode=700")
    layers = memory / "layers"
    layers.mkdir()
    for number, place in enumerate(_PRIVATE_FOLDERS):
        if not Path(place).is_dir() or folder.is_relative_to(place):
            continue
        upper, work = layers / f"{number}-upper", layers / f"{number}-work"
        upper.mkdir()
        work.mkdir()
        _mount("overlay", place, "overlay", options=f"lowerdir={place},upperdir={upper},workdir={work}")


def _set_up_network() -> None:
    commands = [
        "link set lo up",
        "link add node0 type bridge",
        f"address add {NODE_ADDRESS}/24 dev node0",
        "link set node0 up",
        # To nowhere: but Services are addresses that need a route before they are translated.
        "route add default dev node0",
    ]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def main() -> None:
    """Run as a program."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    folder = Path(sys.argv[1])
    _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET), "unshare")
    _set_up_mounts(folder)
    _set_up_network()
    print("ready", flush=True)
    while True:
        signal.sigwait([signal.SIGCHLD])
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


if __name__ == "__main__":
    main()
