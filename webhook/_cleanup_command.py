"""`leader-election cleanup`: remove what the controller has made for elections, once nobody needs it."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from webhook._check_command import add_reach
from webhook._cluster import Cluster, ClusterError, connect

__all__ = ["add_to"]


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "cleanup",
        help="remove locks, Roles and RoleBindings that the controller has left behind",
        description="Remove the locks, Roles and RoleBindings that the controller has made, of elections without pods: "
        "after `helm uninstall` it does so no longer itself. Locks that a person labelled are left.",
        epilog="Exit codes: 0 all is removed that was to be; 1 something could not be; 2 a wrong flag; 3 the cluster cannot be "
        "asked.",
        allow_abbrev=False,
    )
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", help="only there (default: all namespaces)")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    means = "of elections with pods, too: these can elect nobody any more, unless somebody else gives them rights"
    parser.add_argument("--running", action="store_true", help=means)
    add_reach(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    try:
        cluster, _ = connect(options.kubeconfig, options.context)
        try:
            return _clean(cluster, options)
        finally:
            cluster.close()
    except ClusterError as error:
        print(f"leader-election: {error}", file=sys.stderr)
        return 3


def _clean(cluster: Cluster, options: argparse.Namespace) -> int:
    from webhook._findings import part
    from webhook._rights import find

    failed = False
    for election in find(cluster, options.namespace):
        what = f"{election.namespace}/{election.election}"
        if election.pods and not options.running:
            if election.objects:
                print(f"{what}: kept, {len(election.pods)} pods stand for it ({', '.join(election.pods[:3])})", flush=True)
            continue
        for one in election.objects:
            if not one.created:
                print(f"{what}: {one.resource} {one.name} is left: a person gave it its label", flush=True)
                continue
            if options.dry_run:
                print(f"{what}: {one.resource} {one.name} would be removed", flush=True)
                continue
            metadata = part(one.content, "metadata")
            answer = cluster.delete(one.path, str(metadata.get("uid")), str(metadata.get("resourceVersion")))
            if answer.ok or answer.status == 404:
                print(f"{what}: {one.resource} {one.name} removed", flush=True)
                continue
            failed = True
            print(f"{what}: {one.resource} {one.name} is left: {answer.message}", flush=True)
            break  # a lock does not go before the rights on it
    return 1 if failed else 0
