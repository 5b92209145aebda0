"""Linux' ways of not leaving processes behind; elsewhere these do nothing and report so."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["adopt_orphans", "children", "dies_with_parent"]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

# Looked up once, at import: between fork and exec there must be no search for libraries.
_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


def dies_with_parent() -> Callable[[], None] | None:
    """A `preexec_fn` after which the kernel kills the child as soon as the calling *thread* is gone; None elsewhere.

    The thread, not the process: whoever uses this has to outlive the child in that thread.
    """
    prctl = _prctl
    if prctl is None:
        return None
    parent = os.getpid()

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        # 0: the parent lives outside of the child's process namespace, whose first process dies with it as well.
        if os.getppid() not in (parent, 0):  # it died before the kernel knew
            os._exit(1)

    return prepare


def adopt_orphans() -> bool:
    """Make this process the parent of its descendants' orphans, so that it can find and end them; False elsewhere."""
    return _prctl is not None and _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def children() -> list[int]:
    """The pids of this process' children, adopted ones included, those not yet waited for too; empty where unknown."""
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []
