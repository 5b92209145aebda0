"""The control groups of a node: one of its own at the top of each hierarchy, below which its kubelet puts the pods.

They are the one thing of a node that does not end with its processes, so they are named after its folder: whoever removes the
folder knows them.
"""

import contextlib
import hashlib
import os
import signal
import time
from pathlib import Path

__all__ = ["make", "name_of", "remove"]

_ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("cpuset", "cpu", "memory", "pids")
"""What a kubelet asks of a unified hierarchy (version 2)."""
_GONE = 10.0
"""Seconds for the last processes to leave, after they were killed."""


def name_of(folder: Path) -> str:
    """The name of the group of the sandbox in that folder."""
    return f"leader-election-{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


def make(name: str) -> None:
    """Make the group in every hierarchy; `OSError` when it cannot be made."""
    for hierarchy in _hierarchies():
        group = hierarchy / name
        group.mkdir()
        if (hierarchy / "cgroup.controllers").exists():
            there = (hierarchy / "cgroup.controllers").read_text().split()
            wanted = " ".join(f"+{controller}" for controller in _CONTROLLERS if controller in there)
            if wanted:
                for one in (hierarchy, group):
                    (one / "cgroup.subtree_control").write_text(wanted)
        elif (hierarchy / "cpuset.cpus").exists():
            # Version 1: a new group has none, and takes no process before it has.
            for file in ("cpuset.cpus", "cpuset.mems"):
                (group / file).write_text((hierarchy / file).read_text())


def remove(name: str) -> None:
    """Remove the groups of that name and all below, killing whoever is still in them; nothing when there are none."""
    deadline = time.monotonic() + _GONE
    for hierarchy in _hierarchies():
        while (hierarchy / name).is_dir():
            _remove_tree(hierarchy / name)
            if not (hierarchy / name).is_dir() or time.monotonic() > deadline:
                break
            time.sleep(0.02)


def _hierarchies() -> list[Path]:
    if (_ROOT / "cgroup.procs").exists():
        return [_ROOT]
    try:
        return [found for found in _ROOT.iterdir() if not found.is_symlink() and (found / "cgroup.procs").exists()]
    except FileNotFoundError:
        return []


def _remove_tree(top: Path) -> None:
    for path, _, _ in os.walk(top, topdown=False):
        group = Path(path)
        with contextlib.suppress(OSError):  # somebody is in it still, or it is gone already
            for pid in (group / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            group.rmdir()
