"""The Role and the RoleBinding of an election: what they have to be, and what is kept of those that there are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from webhook._marks import ELECTION, GRANT, election_of, role_name
from webhook.controller._objects import LOCKS, ROLES, Json

__all__ = ["VERBS", "Binding", "Role", "binding_of", "binding_to_write", "role_of", "role_to_write"]

VERBS = ["get", "list", "watch", "update"]
"""What candidates do with their lock. They never create or delete one."""


@dataclass(frozen=True, slots=True)
class Role:
    """A Role of ours. `kinds` are those of the locks that it gives rights on; None: it says something else."""

    revision: int
    uid: str
    kinds: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Binding:
    """A RoleBinding of ours. `accounts` are bound by it; None: it says something else.

    `binds` is false when it is for another role, which cannot be changed.
    """

    revision: int
    uid: str
    accounts: frozenset[str] | None
    binds: bool = field(default=True)


def role_to_write(election: str, kinds: Iterable[str]) -> Json:
    """The Role that gives candidates their rights, on these kinds of locks."""
    rules = [
        {"apiGroups": [LOCKS[kind].group], "resources": [kind], "resourceNames": [election], "verbs": VERBS}
        for kind in sorted(kinds)
    ]
    return {"metadata": _metadata(election), "rules": rules}


def binding_to_write(namespace: str, election: str, accounts: Iterable[str]) -> Json:
    """The RoleBinding that gives these service accounts the Role."""
    return {
        "metadata": _metadata(election),
        "roleRef": {"apiGroup": ROLES.group, "kind": ROLES.name, "name": role_name(election)},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace} for account in sorted(accounts)],
    }


def _metadata(election: str) -> Json:
    return {"name": role_name(election), "labels": {GRANT: "true"}, "annotations": {ELECTION: election}}


def role_of(found: Json) -> Role:
    """What is kept of a Role with our label."""
    metadata = found["metadata"]
    election = election_of(metadata["name"])
    rules = found.get("rules") or []
    kinds = [one for rule in rules for one in rule.get("resources") or [] if one in LOCKS]
    right = rules == role_to_write(election, kinds)["rules"]
    return Role(int(metadata["resourceVersion"]), metadata["uid"], frozenset(kinds) if right else None)


def binding_of(found: Json) -> Binding:
    """What is kept of a RoleBinding with our label."""
    metadata = found["metadata"]
    election, namespace = election_of(metadata["name"]), metadata["namespace"]
    subjects: list[dict[str, Any]] = found.get("subjects") or []
    accounts = [str(one.get("name")) for one in subjects]
    wanted = binding_to_write(namespace, election, accounts)
    binds = found.get("roleRef") == wanted["roleRef"]
    right = binds and sorted(subjects, key=lambda one: str(one.get("name"))) == wanted["subjects"]
    return Binding(int(metadata["resourceVersion"]), metadata["uid"], frozenset(accounts) if right else None, binds)
