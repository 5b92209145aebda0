"""The JSON patch (RFC 6902) that adds the elector to a pod.

The operations are built directly: comparing a pod with a changed copy of it costs more than all the rest. They only
add; what the pod's author wrote stays as it is, and the labels and annotations of the pod's own are not touched.
"""

from __future__ import annotations

from typing import Any

from webhook._annotations import INJECTED
from webhook._containers import containers
from webhook._shapes import items, mapping
from webhook._sidecar import Election, container, field_variable, volume

__all__ = ["Operation", "build_patch"]

Operation = dict[str, Any]
"""One operation of RFC 6902."""


def build_patch(pod: dict[str, Any], election: Election) -> list[Operation]:
    """The operations that add the elector to `pod`, for which `election` was planned."""
    metadata, spec = mapping(pod.get("metadata"), "metadata"), mapping(pod.get("spec"), "spec")
    operations = _variables(pod, election)
    operations.append(_append(spec, "/spec", "volumes", volume()))
    if election.sidecar == "native":
        # First, so that the elector runs before any other init container; the variables above were added by index.
        operations.append(_prepend(spec, "/spec", "initContainers", container(election)))
    else:
        operations.append(_append(spec, "/spec", "containers", container(election)))
    for field in ("labels", "annotations"):
        operations.append(_member(metadata, "/metadata", field, INJECTED, election.sidecar))
    return operations


def _variables(pod: dict[str, Any], election: Election) -> list[Operation]:
    """What tells the application where to ask, in every container that does not set it itself."""
    ours = (
        {"name": "LEADER_ELECTION_URL", "value": f"http://localhost:{election.port}"},
        {"name": "LEADER_ELECTION_NAME", "value": election.name},
        field_variable("LEADER_ELECTION_ID", "metadata.name"),
    )
    operations = []
    for field, i, other in containers(pod):
        env = items(other.get("env"), "a container's env")
        own = {variable.get("name") for variable in env}
        missing = [variable for variable in ours if variable["name"] not in own]
        if not missing:
            continue
        path = f"/spec/{field}/{i}/env"
        if not env:
            operations.append({"op": "add", "path": path, "value": missing})
        else:
            # In front: a variable can only refer to those before it, and the pod's own may hold $(LEADER_ELECTION_URL).
            operations.extend({"op": "add", "path": f"{path}/0", "value": variable} for variable in reversed(missing))
    return operations


def _append(parent: dict[str, Any], path: str, field: str, value: Any) -> Operation:
    if not parent.get(field):
        return {"op": "add", "path": f"{path}/{field}", "value": [value]}
    return {"op": "add", "path": f"{path}/{field}/-", "value": value}


def _prepend(parent: dict[str, Any], path: str, field: str, value: Any) -> Operation:
    if not parent.get(field):
        return {"op": "add", "path": f"{path}/{field}", "value": [value]}
    return {"op": "add", "path": f"{path}/{field}/0", "value": value}


def _member(parent: dict[str, Any], path: str, field: str, key: str, value: str) -> Operation:
    if not mapping(parent.get(field), f"{path[1:]}.{field}"):
        return {"op": "add", "path": f"{path}/{field}", "value": {key: value}}
    # RFC 6901: ~ and / are escaped in this order.
    return {"op": "add", "path": f"{path}/{field}/{key.replace('~', '~0').replace('/', '~1')}", "value": value}
