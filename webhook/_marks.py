"""The labels, annotations and names by which the controller's objects are known."""

from __future__ import annotations

__all__ = ["ELECTION", "GRANT", "LEADER", "LOCK", "election_of", "role_name"]

LOCK = "leader-election/lock"
"""The label, with the value `true`, of every lock on which rights are given. A person adopts an object by giving it the label."""

GRANT = "leader-election/grant"
"""The label, with the value `true`, of the Roles and RoleBindings that the controller keeps."""

LEADER = "leader-election/leader"
"""The label, with the value `true`, of the pod that leads."""

ELECTION = "leader-election/name"
"""The annotation with the election's name that whatever the controller created has: values of labels end at 63 characters."""

_PREFIX = "leader-election:"


def role_name(election: str) -> str:
    """The name of an election's Role and RoleBinding."""
    return _PREFIX + election


def election_of(name: str) -> str:
    """The election of a Role or RoleBinding with that name; empty when it is none of ours."""
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else ""
