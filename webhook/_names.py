"""The election's name when the pod does not state one: it follows from the pod's controlling owner.

A name must outlive every single pod and every roll-out, else old and new pods would elect a leader each. So only owners
whose names do are taken; for all others the person has to choose.
"""

from __future__ import annotations

import re
from typing import Any

from webhook._errors import Denied, quoted
from webhook._shapes import items, mapping

__all__ = ["LONGEST_NAME", "SUFFIX", "default_name", "is_subdomain", "owner_of", "without_hash"]

SUFFIX = ".leader"
"""No Service can have a dot in its name, so the lock is never a Service's own Endpoints object."""

LONGEST_NAME = 253
"""Characters of a DNS-1123 subdomain, hence of an object's name."""

_LABEL = "[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_ADVICE = "set the annotation leader-election/name"
_HASH_LABELS = ("pod-template-hash", "rollouts-pod-template-hash")  # Deployments; Argo Rollouts


def is_subdomain(name: str) -> bool:
    """Whether `name` is a DNS-1123 subdomain of at most 253 characters.

    See https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names.
    """
    return len(name) <= LONGEST_NAME and _SUBDOMAIN.fullmatch(name) is not None


def owner_of(metadata: dict[str, Any]) -> dict[str, Any] | None:
    """The owner reference with `controller: true`; there is at most one."""
    for owner in items(metadata.get("ownerReferences"), "metadata.ownerReferences"):
        if owner.get("controller") is True:
            return owner
    return None


def default_name(metadata: dict[str, Any]) -> str:
    """The election of a pod without `leader-election/name`.

    Raises `Denied` with the advice to set that annotation when the owner gives no lasting name, or too long a one.
    """
    name = _lasting_name(metadata) + SUFFIX
    if len(name) > LONGEST_NAME:
        raise _denied(f"the election's default name would have {len(name)} characters, {LONGEST_NAME} are allowed: {_ADVICE}")
    if not is_subdomain(name):
        raise _denied(f"the election's default name would be {quoted(name)}, which is not a DNS subdomain: {_ADVICE}")
    return name


def _lasting_name(metadata: dict[str, Any]) -> str:
    owner = owner_of(metadata)
    if owner is None:
        raise _denied(f"the pod has no controlling owner to name the election after: {_ADVICE}")
    kind, name = owner.get("kind"), owner.get("name")
    # By group, not version: other groups have kinds of the same names and rules of their own.
    if isinstance(name, str) and str(owner.get("apiVersion")).startswith("apps/"):
        if kind in ("StatefulSet", "DaemonSet"):
            return name
        if kind == "ReplicaSet" and (stem := without_hash(name, mapping(metadata.get("labels"), "metadata.labels"))):
            return stem
    whose = f"the pod's owner, {kind} {quoted(name)},"
    raise _denied(f"{whose} does not give an election a name that outlives one roll-out or run: {_ADVICE}")


def without_hash(name: str, labels: dict[str, Any]) -> str | None:
    """The name of a ReplicaSet less the hash that a Deployment (or a Rollout) puts at its end; None when it has none."""
    for label in _HASH_LABELS:
        value = labels.get(label)
        if isinstance(value, str) and value and name.endswith(f"-{value}"):
            return name[: -len(value) - 1]
    return None


def _denied(problem: str) -> Denied:
    return Denied("name", [problem])
