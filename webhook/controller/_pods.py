"""What the controller keeps of an injected pod: a few words. Judged by its containers, never by what annotations say."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

from webhook._annotations import INJECTED
from webhook._containers import containers, is_injected
from webhook._durations import SECOND, parse_duration
from webhook._errors import MalformedReview
from webhook._findings import part
from webhook._marks import LEADER
from webhook._names import is_subdomain, owner_of, without_hash
from webhook._sidecar import CONTAINER
from webhook.controller._objects import Json

__all__ = ["SELECTOR", "Candidate", "Owner", "candidate_of"]

SELECTOR = INJECTED
"""The label by which injected pods are found; the containers decide whether they are."""

_LONGEST_TTL = 600
_KINDS = {"endpoints": ("endpoints",), "leases": ("leases",), "endpointsleases": ("endpoints", "leases")}


class Owner(NamedTuple):
    """Who controls a pod; the pod itself, where nobody does."""

    api: str
    kind: str
    name: str
    uid: str
    lasting: str
    """What it stands for, in one word: the same for all ReplicaSets of one Deployment, for all Jobs, and for all bare pods."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An injected pod that has not ended."""

    revision: int
    uid: str
    election: str
    kinds: tuple[str, ...]
    """The kinds of objects that are its lock."""
    ttl: int
    """Seconds."""
    account: str
    owner: Owner
    labelled: bool
    """Whether it has the label of the leading pod."""
    may_lead: bool
    """Whether its elector may have run: until then nobody can believe to lead by it."""


def candidate_of(pod: Json) -> Candidate | None:
    """What is kept of a pod; None when it has no elector, or has ended."""
    try:
        if not is_injected(pod):
            return None
        arguments = _arguments(pod)
        owner = _owner(pod)
    except MalformedReview:
        return None
    election, kinds = arguments.get("--election", ""), _KINDS.get(arguments.get("--lock", "endpoints"), ())
    phase = part(pod, "status").get("phase")
    if not kinds or not is_subdomain(election) or phase in ("Succeeded", "Failed"):
        return None
    metadata = pod["metadata"]
    return Candidate(
        revision=int(metadata["resourceVersion"]),
        uid=metadata["uid"],
        election=sys.intern(election),
        kinds=kinds,
        ttl=_ttl(arguments.get("--ttl", "10s")),
        account=sys.intern(str(part(pod, "spec").get("serviceAccountName") or "default")),
        owner=owner,
        labelled=LEADER in part(metadata, "labels"),
        may_lead=phase == "Running" or _has_started(pod),
    )


def _arguments(pod: Json) -> dict[str, str]:
    # Of several of that name the API server stores none: names of containers are unique.
    found = next(container for _, _, container in containers(pod) if container.get("name") == CONTAINER)
    return dict(str(one).partition("=")[::2] for one in found["args"])


def _ttl(text: str) -> int:
    try:
        seconds = -(-parse_duration(text) // SECOND)
    except ValueError:
        return _LONGEST_TTL
    return seconds if 1 <= seconds <= _LONGEST_TTL else _LONGEST_TTL


def _owner(pod: Json) -> Owner:
    metadata = pod["metadata"]
    owner = owner_of(metadata)
    if owner is None:
        return Owner("v1", "Pod", metadata["name"], metadata["uid"], "no owner")
    kind, name = str(owner.get("kind")), str(owner.get("name"))
    lasting = f"{kind} {name}"
    if kind == "ReplicaSet" and (stem := without_hash(name, part(metadata, "labels"))):
        lasting = f"Deployment {stem}"
    if kind == "Job":
        lasting = kind  # a CronJob's follow each other under names of their own
    words = (str(owner.get("apiVersion")), kind, name, str(owner.get("uid")), lasting)
    return Owner(*[sys.intern(word) for word in words])


def _has_started(pod: Json) -> bool:
    status: dict[str, Any] = part(pod, "status")
    for one in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        if one.get("name") == CONTAINER:
            return not part(one, "state", "waiting") or bool(part(one, "lastState")) or bool(one.get("restartCount"))
    return False
