"""`leader-election status`: the elections of a cluster, and who leads them."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from typing import Any

from webhook._check_command import add_reach
from webhook._cluster import Cluster, ClusterError, connect

__all__ = ["add_to"]

_HEADINGS = ("NAMESPACE", "ELECTION", "LEADER", "RENEWED", "LOCK", "PODS", "RIGHTS")


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "status",
        help="list elections, and who leads them",
        description="List the elections that injected pods stand for, and who leads by the lock, judged by this machine's clock. "
        "RIGHTS: managed (given by the controller), or - (by somebody else, or none: see `check`).",
        epilog="Exit codes: 0 every election with pods has a leader; 1 one has none; 2 a wrong flag; 3 the cluster cannot be "
        "asked.",
        allow_abbrev=False,
    )
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", help="of this one (default: the kubeconfig's, else default)")
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="of all namespaces")
    add_reach(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    try:
        cluster, default = connect(options.kubeconfig, options.context)
        try:
            return _show(cluster, None if options.all_namespaces else options.namespace or default)
        finally:
            cluster.close()
    except ClusterError as error:
        print(f"leader-election: {error}", file=sys.stderr)
        return 3


def _show(cluster: Cluster, namespace: str | None) -> int:
    from webhook._check_election import RESOURCES
    from webhook._rights import find

    rows, leaderless = [_HEADINGS], False
    for election in find(cluster, namespace):
        kinds = sorted(election.kinds or {one.resource for one in election.objects if one.resource in RESOURCES})
        if not election.pods and not kinds:
            continue
        leader, renewed = _leader(cluster, election.namespace, election.election, kinds[-1])
        leaderless |= bool(election.pods) and leader == "-"
        pods, rights = str(len(election.pods)), "managed" if election.has_rights else "-"
        rows.append((election.namespace, election.election, leader, renewed, ",".join(kinds), pods, rights))
    if len(rows) == 1:
        print(f"no elections in {'any namespace' if namespace is None else f'the namespace {namespace}'}")
        return 0
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 1 if leaderless else 0


def _leader(cluster: Cluster, namespace: str, election: str, kind: str) -> tuple[str, str]:
    """Who leads by that lock, and when that was renewed; `-` for what there is not."""
    from webhook._check_election import Candidates, record_of

    answer = cluster.get(Candidates(namespace, election, kind, "").path(kind))
    record = record_of(kind, answer.content) if answer.ok else {}
    holder = record.get("holderIdentity")
    try:
        age = (datetime.now(UTC) - datetime.fromisoformat(str(record.get("renewTime")))).total_seconds()
        fresh = age <= float(record["leaseDurationSeconds"])
    except (ValueError, TypeError, KeyError):
        return "-", "-"
    # A holder with a slash is no pod: the lock was created a moment ago.
    named = isinstance(holder, str) and holder and "/" not in holder
    return (str(holder) if named and fresh else "-"), f"{max(0.0, age):.0f}s ago"
