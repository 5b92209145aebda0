"""`check`: why something is or is not injected, and who leads, asked of a cluster step by step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from webhook._annotations import ENABLED, NAME, parse, warn_of_unknown
from webhook._check_election import candidates_of, check_leader, check_pods, check_rights
from webhook._check_webhook import check_webhook
from webhook._cluster import Cluster
from webhook._containers import is_injected
from webhook._errors import Denied, MalformedReview
from webhook._findings import Finding, fine, note, part, unknown, wrong
from webhook._names import default_name, owner_of
from webhook._plan import plan
from webhook._settings import InjectionSettings
from webhook._templates import Workload, as_admitted, workloads

__all__ = ["KINDS", "check"]

_APPS = "/apis/apps/v1"
KINDS: dict[str, tuple[str, str]] = {
    "pod": ("/api/v1", "pods"),
    "deployment": (_APPS, "deployments"),
    "statefulset": (_APPS, "statefulsets"),
    "daemonset": (_APPS, "daemonsets"),
    "replicaset": (_APPS, "replicasets"),
    "replicationcontroller": ("/api/v1", "replicationcontrollers"),
    "job": ("/apis/batch/v1", "jobs"),
    "cronjob": ("/apis/batch/v1", "cronjobs"),
    "rollout": ("/apis/argoproj.io/v1alpha1", "rollouts"),
}
"""The kinds that can be asked about, with the path and the plural of each."""

_MOST_OWNERS = 3  # Pod, ReplicaSet, Deployment; Pod, Job, CronJob


@dataclass(frozen=True, slots=True)
class _Target:
    namespace: str
    kind: str
    name: str
    object: dict[str, Any]

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name}"


def check(cluster: Cluster, namespace: str, kind: str, name: str) -> Iterator[Finding]:
    """The findings about a pod or workload, in the order in which injection happens. `kind` is one of `KINDS`.

    Raises `ClusterError` when the API server does not answer.
    """
    prefix, plural = KINDS[kind]
    answer = cluster.get(f"{prefix}/namespaces/{namespace}/{plural}/{quote(name)}")
    if answer.status == 404:
        yield wrong(f"there is no {kind} {name} in the namespace {namespace}")
        return
    if not answer.ok:
        yield unknown(f"whether there is a {kind} {name} in the namespace {namespace}: {answer.message}")
        return
    # The API server leaves the kind out of what it lists, and here it is needed.
    target = _Target(namespace, kind, name, answer.content)
    found = list(workloads(target.object))
    if not found:
        yield wrong(f"the {target.title} has no pod template")
        return
    workload = found[0]
    labels = {str(key): str(value) for key, value in part(workload.pod, "metadata", "labels").items()}
    yield from _check_annotation(cluster, target, workload)
    yield from _check_values(workload)
    yield from check_webhook(cluster, namespace, labels)
    pods = _pods(cluster, target)
    if isinstance(pods, Finding):
        yield pods
        pods = []
    else:
        yield from check_pods(pods)
    asked, _ = parse(_annotations(workload.pod))
    election = asked.name or _default_name(workload)
    candidates = candidates_of(pods[0] if pods else workload.pod, namespace, election, asked.lock)
    if not candidates.election:
        yield note("which election it would be cannot be told: there is neither a name nor a pod with the elector")
        return
    yield from check_rights(cluster, candidates)
    yield from check_leader(cluster, candidates)


def _annotations(of: dict[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in part(of, "metadata", "annotations").items()}


def _check_annotation(cluster: Cluster, target: _Target, workload: Workload) -> Iterator[Finding]:
    value = _annotations(workload.pod).get(ENABLED)
    where = "pod" if target.kind == "pod" else f"{target.kind}'s pod template"
    if value == "false":
        yield wrong(f'the {where} has the annotation {ENABLED}: "false", so it is not injected')
    elif value is not None:
        yield fine(f"the {where} has the annotation {ENABLED}")
    else:
        yield wrong(f"the {where} has no annotation {ENABLED}")
        notes = []
        for title, owner in _above(cluster, target):
            for one in workloads(owner):
                if any(ENABLED in _annotations(beside) for beside in one.beside):
                    notes.append(
                        f"the {title} itself has it: it belongs into {'.'.join(map(str, one.path))}.metadata.annotations"
                    )
                elif one.pod is not owner and ENABLED in _annotations(one.pod):
                    notes.append(f"the pod template of the {title} has it: the pod is older than that")
        # The topmost is the one that people write; a ReplicaSet has copies of its Deployment's.
        if notes:
            yield note(notes[-1])


def _above(cluster: Cluster, target: _Target) -> Iterator[tuple[str, dict[str, Any]]]:
    """The workload itself, or the owners of a pod, nearest first."""
    title, found = target.title, target.object
    if target.kind != "pod":
        yield title, found
    for _ in range(_MOST_OWNERS):
        try:
            owner = owner_of(part(found, "metadata")) or {}
        except MalformedReview:
            return
        kind = str(owner.get("kind")).lower()
        if kind not in KINDS:
            return
        prefix, plural = KINDS[kind]
        answer = cluster.get(f"{prefix}/namespaces/{target.namespace}/{plural}/{quote(str(owner.get('name')))}")
        if not answer.ok:
            return
        title, found = f"{kind} {owner.get('name')}", answer.content
        yield title, found


def _check_values(workload: Workload) -> Iterator[Finding]:
    annotations = _annotations(workload.pod)
    if annotations.get(ENABLED, "false") == "false":
        return
    doubts = warn_of_unknown(annotations)
    if is_injected(workload.pod):
        problems = list(parse(annotations)[1].values())
    else:
        try:
            _, doubts = plan(as_admitted(workload), InjectionSettings("any"))
            problems = []
        except Denied as denied:
            problems = list(denied.problems)
        except MalformedReview as error:
            problems = [str(error)]
    for problem in problems:
        yield wrong(problem)
    if not problems:
        yield fine("its values are allowed")
    for doubt in doubts:
        yield note(doubt)


def _default_name(workload: Workload) -> str:
    if NAME in _annotations(workload.pod):
        return ""  # a wrong one, which was told
    try:
        return default_name(part(as_admitted(workload), "metadata"))
    except (Denied, MalformedReview):
        return ""


def _pods(cluster: Cluster, target: _Target) -> list[dict[str, Any]] | Finding:
    if target.kind == "pod":
        return [target.object]
    selector = part(target.object, "spec", "selector")
    labels = part(selector, "matchLabels") if target.kind != "replicationcontroller" else selector
    if not labels:
        return note(f"the {target.kind} does not say which pods are its own: check one of them")
    wanted = quote(",".join(f"{key}={value}" for key, value in labels.items()), safe="=,")
    answer = cluster.get(f"/api/v1/namespaces/{target.namespace}/pods?limit=20&labelSelector={wanted}")
    if not answer.ok:
        return unknown(f"whether its pods have the elector: {answer.message}")
    return [pod for pod in answer.content.get("items") or [] if "deletionTimestamp" not in part(pod, "metadata")]
