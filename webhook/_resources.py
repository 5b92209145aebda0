"""CPU and memory of the elector: what the pod asks for, within what the pod allows.

See https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/, and for pod-level resources KEP-2837.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from webhook._annotations import PREFIX, Annotations
from webhook._containers import containers
from webhook._errors import quoted
from webhook._quantities import parse_quantity
from webhook._settings import InjectionSettings, Sidecar
from webhook._shapes import mapping

__all__ = ["Resources", "plan_resources"]

Resources = dict[str, dict[str, str]]
"""`requests` and `limits` as a container has them."""

_KINDS = ("cpu", "memory")

_LEAST_MEMORY = 32 * 1024**2
"""Bytes. An elector holds 24 to 30 MB after some work; see docs/benchmarks/elector.md."""


def plan_resources(
    pod: dict[str, Any], asked: Annotations, settings: InjectionSettings, sidecar: Sidecar
) -> tuple[Resources, list[str], list[str]]:
    """The elector's requests and limits, then what makes them impossible, then what is worth a warning."""
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    problems: list[str] = []
    warnings: list[str] = []
    guaranteed = _is_guaranteed(pod)
    for kind in _KINDS:
        own_request, own_limit = getattr(asked, f"{kind}_request"), getattr(asked, f"{kind}_limit")
        request = own_request or getattr(settings, f"{kind}_request")
        limit = own_limit or getattr(settings, f"{kind}_limit")
        if (own_request or own_limit) and parse_quantity(request) > parse_quantity(limit):
            # A default gives way to what the pod states; two statements of the pod's own have to agree.
            if own_request and own_limit:
                problems.append(
                    f"annotation {PREFIX}{kind}-request is {quoted(request)}, allowed is at most the limit of {limit}"
                )
            elif own_request:
                limit = request
            else:
                request = limit
        if guaranteed:
            if own_request and parse_quantity(request) != parse_quantity(limit):
                warnings.append(f"annotation {PREFIX}{kind}-request has no effect: the pod is Guaranteed, {limit} is taken")
            request = limit
        requests[kind], limits[kind] = request, limit
    if asked.memory_limit and parse_quantity(limits["memory"]) < _LEAST_MEMORY:
        # Most often a slip: `64m` is 0.064 bytes.
        warnings.append(f"annotation {PREFIX}memory-limit is {limits['memory']}: below 32Mi the elector may be killed")
    problems.extend(_beyond_the_pods_own(pod, requests, limits, sidecar))
    return {"requests": requests, "limits": limits}, problems, warnings


def _is_guaranteed(pod: dict[str, Any]) -> bool:
    """Whether the pod's class follows from its containers, and each of them has one CPU and memory, request and limit.

    See https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/#guaranteed.
    """
    if mapping(mapping(pod.get("spec"), "spec").get("resources"), "spec.resources"):
        return False  # the class follows from these alone, whatever we add
    found = [container for _, _, container in containers(pod)]
    return bool(found) and all(_requests_equal_limits(container) for container in found)


def _requests_equal_limits(container: dict[str, Any]) -> bool:
    requests, limits = _stated(container.get("resources"), "a container's resources")
    # A request that is not stated is the limit.
    return all(kind in limits and requests.get(kind, limits[kind]) == limits[kind] > 0 for kind in _KINDS)


def _beyond_the_pods_own(pod: dict[str, Any], requests: dict[str, str], limits: dict[str, str], sidecar: Sidecar) -> list[str]:
    """Where pod-level resources leave too little for the elector; the API server would refuse the pod."""
    spec = mapping(pod.get("spec"), "spec")
    if not spec.get("resources"):
        return []
    pod_requests, pod_limits = _stated(spec["resources"], "spec.resources")
    problems = []
    for kind in _KINDS:
        needed = _needed(pod, kind, parse_quantity(requests[kind]), sidecar)
        available = pod_requests.get(kind, pod_limits.get(kind))
        if available is not None and needed > available:
            problems.append(
                f"the pod's own resources request too little {kind}: {_shown(available)} for containers that request "
                f"{_shown(needed)} with the elector's {requests[kind]}"
            )
        if kind in pod_limits and parse_quantity(limits[kind]) > pod_limits[kind]:
            problems.append(
                f"the pod's own resources limit {kind} to {_shown(pod_limits[kind])}, below the elector's limit of {limits[kind]}"
                f": raise it, or set the annotation {PREFIX}{kind}-limit"
            )
    return problems


def _needed(pod: dict[str, Any], kind: str, own: Decimal, sidecar: Sidecar) -> Decimal:
    """What the containers request at the moment when they request most: each init container runs beside the native sidecars
    that were started before it (the elector first), the application beside all of them."""
    lasting = most = own if sidecar == "native" else Decimal(0)
    for field, _, container in containers(pod):
        requests, limits = _stated(container.get("resources"), "a container's resources")
        request = requests.get(kind, limits.get(kind, Decimal(0)))
        if field == "containers" or container.get("restartPolicy") == "Always":
            lasting += request
        else:
            most = max(most, lasting + request)
    return max(most, lasting if sidecar == "native" else lasting + own)


def _stated(resources: Any, where: str) -> tuple[dict[str, Decimal], dict[str, Decimal]]:
    """Requests and limits as numbers; what is no quantity is left out, since the API server refuses it better."""
    found = mapping(resources, where)
    both = (mapping(found.get(field), f"{where}.{field}") for field in ("requests", "limits"))
    requests, limits = ({k: n for k, v in one.items() if (n := _number(v)) is not None} for one in both)
    return requests, limits


def _shown(number: Decimal) -> str:
    return f"{number.normalize():f}"


def _number(value: Any) -> Decimal | None:
    try:
        return parse_quantity(value)
    except ValueError:
        return None
