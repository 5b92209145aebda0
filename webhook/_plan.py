"""From the pod, its annotations and the operator's settings to the election that the elector is added for.

Everything that can be wrong is found here and told at once; building the patch cannot fail any more.
"""

from __future__ import annotations

from typing import Any

from webhook._annotations import DRAIN, NAME, PORT, SIDECAR, Annotations, parse, warn_of_unknown
from webhook._containers import containers
from webhook._errors import Denied, quoted
from webhook._names import default_name, owner_of
from webhook._resources import plan_resources
from webhook._settings import InjectionSettings, Sidecar
from webhook._shapes import items, mapping, strings
from webhook._sidecar import CONTAINER, VOLUME, Election

__all__ = ["plan"]

_GRACE = 30
"""Seconds of `terminationGracePeriodSeconds` where the pod does not say."""

_OS = "kubernetes.io/os"
"""The label by which nodes tell their operating system."""

_RESERVE = 2
"""Seconds of the grace period that draining leaves for the release."""


def plan(pod: dict[str, Any], settings: InjectionSettings) -> tuple[Election, list[str]]:
    """What to add to `pod`, which does not have it yet, and what is doubtful but legal about it.

    Raises `Denied` with every reason why it cannot be added, and `MalformedReview` when this is not a pod.
    """
    metadata, spec = mapping(pod.get("metadata"), "metadata"), mapping(pod.get("spec"), "spec")
    annotations = strings(metadata.get("annotations"), "metadata.annotations")
    asked, wrong = parse(annotations)
    problems = {"annotations": list(wrong.values())}
    name = asked.name or ""
    if NAME not in annotations:
        try:
            name = default_name(metadata)
        except Denied as denied:
            problems[denied.code] = list(denied.problems)
    problems["conflict"] = _conflicts(pod, None if PORT in wrong else asked.port)
    sidecar = asked.sidecar or settings.sidecar
    resources, problems["resources"], warnings = plan_resources(pod, asked, settings, sidecar)
    codes = [code for code, found in problems.items() if found]
    if codes:
        raise Denied(codes[0] if len(codes) == 1 else "several", [text for code in codes for text in problems[code]])
    election = Election(
        name=name,
        ttl=asked.ttl,
        port=asked.port,
        everywhere=asked.listen == "all",
        lock=asked.lock,
        health_url=asked.health,
        drain=_drain(spec, asked) if sidecar == "classic" else None,
        log_level=asked.log_level,
        image=asked.image or settings.image,
        image_pull_policy=settings.image_pull_policy,
        sidecar=sidecar,
        run_as_user=settings.run_as_user,
        resources=resources,
        host_network=spec.get("hostNetwork") is True,
    )
    return election, [*warn_of_unknown(annotations), *warnings, *_doubts(metadata, spec, asked, sidecar)]


def _drain(spec: dict[str, Any], asked: Annotations) -> int:
    return asked.drain if asked.drain is not None else max(0, _grace(spec) - _RESERVE)


def _grace(spec: dict[str, Any]) -> int:
    seconds = spec.get("terminationGracePeriodSeconds")
    return seconds if isinstance(seconds, int) else _GRACE


def _doubts(metadata: dict[str, Any], spec: dict[str, Any], asked: Annotations, sidecar: Sidecar) -> list[str]:
    """What is legal, but hardly meant."""
    doubts = []
    if sidecar == "native":
        if asked.drain is not None:
            doubts.append(f"annotation {DRAIN} has no effect on a native sidecar")
        return doubts
    owner = owner_of(metadata)
    if owner is not None and owner.get("kind") == "Job":
        doubts.append(f"a Job with a classic sidecar never completes: set the annotation {SIDECAR} to native")
    if asked.drain is not None and asked.drain + _RESERVE > _grace(spec):
        doubts.append(f"annotation {DRAIN} leaves less than {_RESERVE} s of the grace period of {_grace(spec)} s")
    return doubts


def _conflicts(pod: dict[str, Any], port: int | None) -> list[str]:
    """What in the pod is in the elector's way; without a port, as far as that can be said without it."""
    problems = []
    spec = mapping(pod.get("spec"), "spec")
    if _is_windows(spec):
        problems.append("the pod is for Windows nodes, for which there is no elector")
    if any(v.get("name") == VOLUME for v in items(spec.get("volumes"), "spec.volumes")):
        problems.append(f"the pod has a volume named {quoted(VOLUME)}, which is the elector's name")
    for _, _, other in containers(pod):
        name = other.get("name")
        if name == CONTAINER:
            problems.append(f"the pod has a container named {quoted(CONTAINER)} that is not the elector")
        for declared in items(other.get("ports"), "a container's ports"):
            if port is None or declared.get("protocol", "TCP") != "TCP":
                continue
            number = declared.get("containerPort")
            ours = f"the elector's port would be {port} (annotation {PORT}), but container {quoted(name)} has"
            if number == port:
                problems.append(f"{ours} that port")
            elif number == port + 1:
                problems.append(f"{ours} port {port + 1}, which would be the elector's status port")
    return problems


def _is_windows(spec: dict[str, Any]) -> bool:
    selector = mapping(spec.get("nodeSelector"), "spec.nodeSelector")
    if mapping(spec.get("os"), "spec.os").get("name") == "windows" or selector.get(_OS) == "windows":
        return True
    affinity = mapping(mapping(spec.get("affinity"), "spec.affinity").get("nodeAffinity"), "spec.affinity.nodeAffinity")
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    terms = items(mapping(affinity.get(required), required).get("nodeSelectorTerms"), "nodeSelectorTerms")
    # A node has to meet one of the terms, and all of its expressions.
    return bool(terms) and all(
        any(
            one.get("key") == _OS and one.get("operator") == "In" and one.get("values") == ["windows"]
            for one in items(term.get("matchExpressions"), "matchExpressions")
        )
        for term in terms
    )
