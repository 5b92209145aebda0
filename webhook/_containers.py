"""Looking at the containers that a pod has already."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from webhook._shapes import items, mapping
from webhook._sidecar import CONTAINER

__all__ = ["containers", "is_injected"]


def containers(pod: dict[str, Any]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Every container with the name of its list and its place in it; ephemeral ones are none of ours.

    Raises `MalformedReview` when this is not a pod.
    """
    spec = mapping(pod.get("spec"), "spec")
    for field in ("initContainers", "containers"):
        for i, container in enumerate(items(spec.get(field), f"spec.{field}")):
            yield field, i, container


def is_injected(pod: dict[str, Any]) -> bool:
    """Whether the pod has the elector, judged by its containers and nothing else (annotations are copied about)."""
    return any(_is_elector(container) for _, _, container in containers(pod))


def _is_elector(container: dict[str, Any]) -> bool:
    args = container.get("args")
    return (
        container.get("name") == CONTAINER
        and isinstance(args, list)
        and any(isinstance(arg, str) and arg.startswith("--election") for arg in args)
    )
