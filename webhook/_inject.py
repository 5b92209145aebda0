"""Injecting into manifests, without a cluster: by the webhook's rules, with its patch and its messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from webhook._annotations import ENABLED, PREFIX
from webhook._containers import is_injected
from webhook._errors import Denied, MalformedReview, ManifestError
from webhook._manifests import add, change_documents
from webhook._patch import build_patch
from webhook._plan import plan
from webhook._settings import InjectionSettings
from webhook._shapes import mapping, strings
from webhook._templates import Workload, as_admitted, workloads

__all__ = ["Injected", "inject"]


@dataclass(slots=True)
class Injected:
    """What became of a text: the new one, and a line for each thing to tell about it."""

    text: str
    notes: list[str] = field(default_factory=list)
    """What was injected where."""
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Why the text must not be used; each as the webhook would deny the pod."""


def inject(text: str, settings: InjectionSettings) -> Injected:
    """Add the elector to every annotated pod and pod template in manifests (YAML or JSON, any number of documents)."""
    result = Injected(text)

    def change(document: Any) -> bool:
        try:
            found = list(workloads(document))
        except MalformedReview as error:
            result.problems.append(str(error))
            return False
        # Each of them, not only up to the first that changes.
        return sum(_inject_into(document, workload, settings, result) for workload in found) > 0

    try:
        result.text = change_documents(text, change)
    except ManifestError as error:
        result.problems.append(str(error))
    return result


def _inject_into(document: Any, workload: Workload, settings: InjectionSettings, result: Injected) -> bool:
    title = workload.title
    try:
        annotations = _annotations(workload.pod)
        result.warnings += [f"{title}: {text}" for text in _misplaced(workload, annotations)]
        if annotations.get(ENABLED, "false") == "false" or is_injected(workload.pod):
            return False
        election, doubts = plan(as_admitted(workload), settings)
        operations = build_patch(workload.pod, election)
    except (Denied, MalformedReview) as error:
        result.problems.append(f"{title}: {error}")
        return False
    add(document, workload.path, operations)
    result.warnings += [f"{title}: {doubt}" for doubt in doubts]
    result.notes.append(f"{title}: injected, election {election.name}")
    return True


def _annotations(of: dict[str, Any]) -> dict[str, str]:
    return strings(mapping(of.get("metadata"), "metadata").get("annotations"), "metadata.annotations")


def _misplaced(workload: Workload, of_template: dict[str, str]) -> Sequence[str]:
    """Our annotations where they have no effect."""
    keys = {key for one in workload.beside for key in _annotations(one) if key.startswith(PREFIX) and key not in of_template}
    return [f"annotation {key} is on the workload, but belongs into its pod template" for key in sorted(keys)]
