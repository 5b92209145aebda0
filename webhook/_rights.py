"""What is there of elections and of managed rights in a cluster, for `status` and `cleanup`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from webhook._annotations import INJECTED
from webhook._check_election import RESOURCES, candidates_of
from webhook._cluster import Answer, Cluster, ClusterError
from webhook._containers import is_injected
from webhook._errors import MalformedReview
from webhook._findings import part
from webhook._marks import ELECTION, GRANT, LOCK, election_of

__all__ = ["Found", "Object", "find"]

_RBAC = "/apis/rbac.authorization.k8s.io/v1"


@dataclass(frozen=True, slots=True)
class Object:
    """A lock, a Role or a RoleBinding."""

    resource: str
    path: str
    content: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        return str(part(self.content, "metadata").get("name"))

    @property
    def created(self) -> bool:
        """Whether the controller created it; else a person gave a lock the label."""
        metadata = part(self.content, "metadata")
        own = part(metadata, "annotations").get(ELECTION)
        return self.resource not in RESOURCES or own == metadata.get("name")


@dataclass(slots=True)
class Found:
    """What there is of one election."""

    namespace: str
    election: str
    pods: list[str] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    """The kinds of locks that its pods use."""
    objects: list[Object] = field(default_factory=list)
    """In the order in which they are to be removed: rights first."""

    @property
    def has_rights(self) -> bool:
        """Whether the controller has given its pods their rights."""
        return any(one.resource == "rolebindings" for one in self.objects)


def find(cluster: Cluster, namespace: str | None) -> list[Found]:
    """All elections of a namespace (None: of all), by name. Raises `ClusterError`."""
    found: dict[tuple[str, str], Found] = {}

    def at(where: str, election: str) -> Found:
        return found.setdefault((where, election), Found(where, election))

    scope = f"/namespaces/{quote(namespace)}" if namespace else ""
    for pod in _items(cluster, f"/api/v1{scope}/pods", INJECTED):
        metadata = part(pod, "metadata")
        try:
            stands = is_injected(pod) and part(pod, "status").get("phase") not in ("Succeeded", "Failed")
        except MalformedReview:
            continue
        if stands:
            of = candidates_of(pod, str(metadata.get("namespace")), "", "endpoints")
            election = at(of.namespace, of.election)
            election.pods.append(str(metadata.get("name")))
            election.kinds |= set(of.resources)
    for resource in ("rolebindings", "roles"):
        for one in _items(cluster, f"{_RBAC}{scope}/{resource}", f"{GRANT}=true"):
            metadata = part(one, "metadata")
            election_name = election_of(str(metadata.get("name")))
            if election_name:
                _add(at(str(metadata.get("namespace")), election_name), _RBAC, resource, one)
    for resource, (_, prefix) in RESOURCES.items():
        for one in _items(cluster, f"{prefix}{scope}/{resource}", f"{LOCK}=true"):
            metadata = part(one, "metadata")
            # The controller's own lock goes with its Deployment.
            if not metadata.get("ownerReferences"):
                _add(at(str(metadata.get("namespace")), str(metadata.get("name"))), prefix, resource, one)
    return [found[key] for key in sorted(found)]


def _add(to: Found, prefix: str, resource: str, content: dict[str, Any]) -> None:
    name = quote(str(part(content, "metadata").get("name")))
    to.objects.append(Object(resource, f"{prefix}/namespaces/{quote(to.namespace)}/{resource}/{name}", content))


def _items(cluster: Cluster, path: str, selector: str) -> list[dict[str, Any]]:
    found = cluster.items(path, selector)
    if isinstance(found, Answer):
        raise ClusterError(f"cannot list {path.rpartition('/')[2]}: {found.message}")
    return found
