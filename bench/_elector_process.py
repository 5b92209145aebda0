"""What a process costs, by Linux' accounts of it, and a limit on what it may take."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["cpu_limit", "cpu_seconds", "memory"]

_GROUPS = Path("/sys/fs/cgroup")
_NAME = "leader-election-bench"
_PERIOD = 100_000
"""Microseconds: the kernel's own, which the kubelet uses too."""


def cpu_seconds(pid: int) -> float:
    """User and system time of all its threads that live, to the nanosecond (`utime` and `stime` count in 10 ms)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def memory(pid: int) -> tuple[float, float]:
    """Resident and private, in MB of 1,000,000 bytes."""
    amounts: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, amount = line.split()[:2]
        amounts[name.rstrip(":")] = int(amount)
    private = amounts["Private_Clean"] + amounts["Private_Dirty"]
    return amounts["Rss"] * 1.024 / 1000, private * 1.024 / 1000


@contextmanager
def cpu_limit(millicores: int) -> Iterator[list[str] | None]:
    """A command line that runs the one after it under that limit; None where this user may not make control groups."""
    group = _make(millicores * _PERIOD // 1000)
    try:
        yield None if group is None else ["sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$@"', "sh"]
    finally:
        if group is not None:
            _remove(group)


def _make(quota: int) -> Path | None:
    one_tree = (_GROUPS / "cgroup.controllers").exists()
    group = _GROUPS / _NAME if one_tree else _GROUPS / "cpu" / _NAME
    try:
        group.mkdir(exist_ok=True)
        if one_tree:
            (group / "cpu.max").write_text(f"{quota} {_PERIOD}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
    except OSError:
        return None
    return group


def _remove(group: Path) -> None:
    for _ in range(100):
        try:
            os.rmdir(group)  # noqa: PTH106
        except OSError:
            time.sleep(0.05)  # the last process in it has just ended
        else:
            return
