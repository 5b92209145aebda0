"""Finding the pods in manifests, and showing them to the webhook's rules as they will be at admission."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from webhook._errors import MalformedReview
from webhook._shapes import items, mapping

__all__ = ["Workload", "as_admitted", "workloads"]

_TEMPLATES = (("spec", "jobTemplate", "spec", "template"), ("spec", "template"), ("template",))
"""Where kinds keep their pod template: CronJob; Deployment and most others, also of other groups; PodTemplate."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A pod, or something that makes pods, with the way from its document to the pod or template."""

    object: dict[str, Any]
    path: tuple[str | int, ...]
    pod: dict[str, Any]

    @property
    def title(self) -> str:
        """Kind and name, for messages."""
        metadata = mapping(self.object.get("metadata"), "metadata")
        return f"{self.object.get('kind')}/{metadata.get('name') or metadata.get('generateName') or ''}"

    @property
    def beside(self) -> list[dict[str, Any]]:
        """Where annotations have no effect on the pods: the workload itself, and a CronJob's template of its Jobs."""
        spec = mapping(self.object.get("spec"), "spec") if self.pod is not self.object else {}
        return [] if self.pod is self.object else [self.object, mapping(spec.get("jobTemplate"), "spec.jobTemplate")]


def workloads(document: Any, path: tuple[str | int, ...] = ()) -> Iterator[Workload]:
    """Every pod and every pod template in a document, those in a List included; nothing when it is something else.

    A template is known by its shape, so that kinds from anywhere are found. Raises `MalformedReview` for a List without items.
    """
    if not isinstance(document, dict):
        return
    kind = document.get("kind")
    if isinstance(kind, str) and kind.endswith("List") and "items" in document:
        for i, item in enumerate(items(document["items"], "items")):
            yield from workloads(item, (*path, "items", i))
        return
    for way in ((), *_TEMPLATES):
        pod = _follow(document, way)
        if pod is not None and (way or kind == "Pod"):
            yield Workload(document, (*path, *way), pod)
            return


def as_admitted(workload: Workload) -> dict[str, Any]:
    """The pod of a workload as the webhook would see it: with the owner that the workload's controller gives it."""
    metadata = dict(mapping(workload.pod.get("metadata"), "metadata"))
    if workload.pod is workload.object:
        return workload.pod
    kind, version = str(workload.object.get("kind")), str(workload.object.get("apiVersion"))
    name = mapping(workload.object.get("metadata"), "metadata").get("name")
    group = version.partition("/")[0]
    hashed = {("Deployment", "apps"): "pod-template-hash", ("Rollout", "argoproj.io"): "rollouts-pod-template-hash"}
    label = hashed.get((kind, group))
    if label is not None and isinstance(name, str):
        kind, version, name = "ReplicaSet", "apps/v1", f"{name}-0"
        metadata["labels"] = {**mapping(metadata.get("labels"), "metadata.labels"), label: "0"}
    elif kind == "CronJob":
        kind = "Job"
    if kind != "PodTemplate":
        metadata["ownerReferences"] = [{"apiVersion": version, "kind": kind, "name": name, "controller": True}]
    return {**workload.pod, "metadata": metadata}


def _follow(document: dict[str, Any], way: tuple[str, ...]) -> dict[str, Any] | None:
    """What lies at the end of a way, when it is shaped like a pod."""
    found: Any = document
    for step in way:
        found = found.get(step) if isinstance(found, dict) else None
    try:
        spec = mapping(mapping(found, "template").get("spec"), "spec")
    except MalformedReview:
        return None
    return found if isinstance(spec.get("containers"), list) else None
