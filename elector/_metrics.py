"""`/metrics` in Prometheus' text format: https://prometheus.io/docs/instrumenting/exposition_formats/.

Written by hand: the client library takes 3.7 MB of memory, in every pod, for a page of eight metrics (see
`docs/decisions/2026-11-23-the-electors-libraries.md`).
"""

from __future__ import annotations

from collections.abc import Iterator

from elector._election import Election
from elector._stats import BUCKETS

__all__ = ["render_metrics"]


def render_metrics(election: Election, lock: str, version: str) -> str:
    """All metrics as they are now. Asking gives out no claim."""
    return "".join(f"{line}\n" for line in _lines(election, lock, version))


def _lines(election: Election, lock: str, version: str) -> Iterator[str]:
    view, stats = election.view(), election.stats
    yield from _metric("elector_info", "gauge", "What this elector is.", f'{{version="{version}",lock="{lock}"}} 1')
    yield from _metric("elector_leading", "gauge", "Whether this pod leads just now.", f" {int(view.leading)}")
    yield from _metric(
        "elector_claim_remaining_seconds", "gauge", "How long our own claim still holds; 0 when there is none.",
        f" {view.expires_in:.3f}",
    )  # fmt: skip
    yield from _metric(
        "elector_record_age_seconds", "gauge", "Since this process saw the lock's record change for the last time.",
        f" {election.record_age:.3f}",
    )  # fmt: skip
    yield from _metric("elector_fencing_token", "gauge", "The fencing token that the lock carries.", f" {view.token}")
    yield from _metric(
        "elector_leader_changes_total", "counter", "Changes of leader that this process has seen.", f" {stats.leader_changes}"
    )
    yield from _metric(
        "elector_lock_writes_total", "counter", "Writes to the lock (renewals, acquisitions, releases), by result.",
        *(f'{{result="{result}"}} {count}' for result, count in stats.writes.items()),
    )  # fmt: skip
    name, total = "elector_lock_write_duration_seconds", sum(stats.writes.values())
    yield from _metric(
        name, "histogram", "How long the API server took to answer a write.",
        *(f'_bucket{{le="{bound:g}"}} {count}' for bound, count in zip(BUCKETS, stats.write_buckets, strict=True)),
        f'_bucket{{le="+Inf"}} {total}', f"_sum {stats.write_seconds:.6f}", f"_count {total}",
    )  # fmt: skip


def _metric(name: str, kind: str, text: str, *values: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    yield from (f"{name}{value}" for value in values)
