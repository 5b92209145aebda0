"""The page that `--write` writes."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime

from bench._elector_cost import REQUESTS
from bench._elector_group import SETTLE, TTL
from sandbox._versions import KUBERNETES
from tests.interop.candidates import LOCKS, SOURCE

__all__ = ["document", "machine", "rival_of"]

_PAGE = """# What the elector costs

{machine}, {date}. `make bench-elector` takes these figures anew.

{table}

Median / maximum of {rounds} rounds where there are two figures of a time; the worst candidate counts, the leader included.

## How they are taken

One sandbox (a real API server, its audit log written out), elections of three candidates unless another number stands there,
ttl {ttl:g} s on both sides, claims for half of it and tries a quarter of it apart. Ours run as in a pod, with a mounted token and
`--sidecar native`; the others are our own small program around client-go's `leaderelection` with `ReleaseOnCancel`, in
`tests/interop/candidate/`. Start, SIGTERM, events, memory and CPU are taken with nothing else running, the rest at the same time
in elections of their own. A round begins {settle:g} s after all candidates agree, in most rounds that is after one of them was
started: as in a roll-out.

- **SIGTERM**: from right before the signal until the answer at `/` by which the last of the others names the same new leader;
  each is asked every 2 ms.
- **SIGKILL**: the same, 20 ms apart; the signal is sent as soon as a watch of the lock tells a renewal.
- **Frozen**: SIGSTOP with three connections asking without a pause and five new ones opened while it stands still, then SIGCONT,
  and asked for half a ttl more. Every candidate of an election writes as a user of its own, so that the API server's audit log
  says who held the lock when. An answer was computed between *begin*, the later of when it was asked for and SIGCONT, and
  *received*. One by which the candidate names itself is wrong when another's write of the lock was done before *begin*
  and no own write after that had reached the API server before *received* ("beside another leader"); or when none of its own
  writes that had reached the API server before *received* did so less than half a ttl before *begin* ("past its claim").
- **API requests**: those that name the election, counted in the audit log by when they were received, over {minutes:g} minutes.
- **Memory**: `Rss` and `Private_*` of `smaps_rollup`, before and after {requests:,} requests to each candidate, half on
  kept connections, half on one each. MB are 1,000,000 bytes.
- **CPU**: of all threads over a minute in which nobody asks.
- **Start**: of one more candidate in an election with a leader, from before the process is made until `/` answers, and until it
  names the leader; asked every 5 ms. CPU until then. The limit is a control group's quota of 20 ms in 100 ms.
- **Events**: from when the API server received the write that made the new leader (audit log) until a stream of
  `/v1/leader/events` on a candidate that does not lead delivered it, in the rounds of SIGTERM.
"""


def document(machine: str, table: str, rounds: int, minutes: float) -> str:
    """The whole page."""
    date = datetime.now(UTC).date().isoformat()
    return _PAGE.format(
        machine=machine, date=date, table=table, rounds=rounds, ttl=TTL, settle=SETTLE, minutes=minutes, requests=REQUESTS
    )


def machine(python: str) -> str:
    """What it runs on, in one line."""
    ask = "import json, platform, sys; print(json.dumps([platform.python_version(), sys.implementation.name]))"
    version, name = json.loads(subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout)
    cores = len(os.sched_getaffinity(0))
    kind = {"cpython": "Python"}.get(name, name)
    return f"{platform.system()} {platform.machine()}, {cores} cores, {kind} {version}, Kubernetes {KUBERNETES}"


def rival_of(lock: str) -> str:
    """client-go's name, version and lock."""
    found = re.search(r"k8s\.io/client-go (v\S+)", (SOURCE / LOCKS[lock]).read_text())
    assert found is not None
    return f"client-go {found[1]}, {lock}"
