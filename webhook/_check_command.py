"""`leader-election check`: in words, why something is or is not injected, and who leads."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from webhook._cluster import ClusterError, connect
from webhook._findings import Verdict

__all__ = ["add_reach", "add_to"]

_SHORT = {
    "po": "pod",
    "deploy": "deployment",
    "sts": "statefulset",
    "ds": "daemonset",
    "rs": "replicaset",
    "rc": "replicationcontroller",
    "cj": "cronjob",
    "ro": "rollout",
}


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "check",
        help="say why a pod or workload is or is not injected, and who leads",
        description="Ask a cluster, step by step, why a pod or workload is or is not injected, and who leads. Changes "
        "nothing: the one creation is a dry run.",
        epilog="Exit codes: 0 everything is as it has to be; 1 something is wrong; 2 a wrong flag; 3 nothing wrong was found, "
        "but something remains unknown.",
        allow_abbrev=False,
    )
    parser.add_argument("target", metavar="POD|KIND/NAME", help="a pod, or for example deployment/web, sts/db, cronjob/report")
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", help="its namespace (default: the kubeconfig's, else default)")
    add_reach(parser)
    parser.set_defaults(run=lambda options: _run(parser, options))


def add_reach(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which cluster is meant."""
    reach = "how to reach the cluster (default: KUBECONFIG, ~/.kube/config, or the service account of the pod that this runs in)"
    parser.add_argument("--kubeconfig", metavar="FILE", help=reach)
    parser.add_argument("--context", metavar="NAME", help="the kubeconfig's context (default: its current one)")


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from webhook._check import KINDS, check

    kind, slash, name = str(options.target).rpartition("/")
    kind = kind.lower() if slash else "pod"
    kind = _SHORT.get(kind, kind.removesuffix("s"))
    if kind not in KINDS or not name:
        parser.error(f"{options.target} is no pod and no KIND/NAME; kinds are {', '.join(KINDS)}")
    seen = set()
    try:
        cluster, default = connect(options.kubeconfig, options.context)
        try:
            for finding in check(cluster, options.namespace or default, kind, name):
                print(f"{finding.verdict:5}  {finding.text}", flush=True)
                seen.add(finding.verdict)
        finally:
            cluster.close()
    except ClusterError as error:
        print(f"leader-election: {error}", file=sys.stderr)
        return 3
    if Verdict.WRONG in seen:
        return 1
    return 3 if Verdict.UNKNOWN in seen else 0
