"""AdmissionReview in, AdmissionReview out: a pure function from bytes to bytes and a decision to log.

See https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/ (only
`admission.k8s.io/v1`, which every supported API server speaks).
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import orjson

from webhook._annotations import ENABLED, warn_of_unknown
from webhook._containers import is_injected
from webhook._errors import Denied, MalformedReview, quoted
from webhook._names import owner_of
from webhook._patch import Operation, build_patch
from webhook._plan import plan
from webhook._settings import InjectionSettings
from webhook._shapes import mapping, strings

__all__ = ["API_VERSION", "Decision", "Result", "answer"]

API_VERSION = "admission.k8s.io/v1"
_POD = {"group": "", "version": "v1", "kind": "Pod"}
_LONGEST_WARNING = 120  # characters; the API server cuts longer ones off
_MIRROR = "kubernetes.io/config.mirror"


class Result(StrEnum):
    """What became of a review."""

    INJECTED = "injected"
    UNCHANGED = "unchanged"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about one object, and why, in words for the log and the person."""

    result: Result
    code: str
    """The reason as one of few words, for metrics and the audit log."""
    reason: str
    namespace: str = ""
    subject: str = ""
    """The pod by its owner or its own name: a generated pod has no name yet."""
    election: str = ""
    patch: Sequence[Operation] = ()
    warnings: Sequence[str] = ()
    dry_run: bool = False
    """Nothing will be stored. The answer is the same, since answering changes nothing anywhere."""


def answer(body: bytes, settings: InjectionSettings) -> tuple[bytes, Decision]:
    """Answer one AdmissionReview, as JSON; the reply is JSON too.

    Raises `MalformedReview` when `body` is none, or its object is not shaped like a pod.
    """
    request = _request(body)
    uid = request.get("uid")
    if not isinstance(uid, str) or not uid:
        raise MalformedReview("the request has no uid")
    decision = _decide(request, settings)
    response: dict[str, Any] = {"uid": uid, "allowed": decision.result is not Result.DENIED}
    if decision.result is Result.DENIED:
        # As the API server itself refuses a pod with a wrong field, so that kubectl and controllers treat it alike.
        response["status"] = {"code": 422, "reason": "Invalid", "message": decision.reason}
    elif decision.patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = b2a_base64(orjson.dumps(decision.patch), newline=False).decode("ascii")
    if decision.warnings:
        response["warnings"] = [w if len(w) <= _LONGEST_WARNING else f"{w[: _LONGEST_WARNING - 3]}..." for w in decision.warnings]
    response["auditAnnotations"] = _audit_annotations(decision)
    return orjson.dumps({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}), decision


def _request(body: bytes) -> dict[str, Any]:
    try:
        review = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedReview(f"the body is not JSON: {error}") from error
    if not isinstance(review, dict) or review.get("kind") != "AdmissionReview":
        raise MalformedReview("the body is not an AdmissionReview")
    if review.get("apiVersion") != API_VERSION:
        raise MalformedReview(
            f"the AdmissionReview has apiVersion {quoted(review.get('apiVersion'))}, only {API_VERSION} is served"
        )
    request = review.get("request")
    if not isinstance(request, dict):
        raise MalformedReview("the AdmissionReview has no request")
    return request


def _audit_annotations(decision: Decision) -> dict[str, str]:
    """For the API server's audit log, which puts the webhook's name before each key."""
    found = {"result": decision.result.value, "reason": decision.code}
    if decision.election:
        found["election"] = decision.election
    return found


def _decide(request: dict[str, Any], settings: InjectionSettings) -> Decision:
    namespace = str(request.get("namespace") or "")
    dry_run = request.get("dryRun") is True
    if request.get("operation") != "CREATE" or request.get("kind") != _POD or request.get("subResource"):
        return Decision(Result.UNCHANGED, "not-a-pod", "not the creation of a pod", namespace, dry_run=dry_run)
    pod = mapping(request.get("object"), "the request's object")
    metadata = mapping(pod.get("metadata"), "metadata")
    annotations = strings(metadata.get("annotations"), "metadata.annotations")
    decide = partial(Decision, namespace=namespace, subject=_subject(metadata, request), dry_run=dry_run)
    if annotations.get(ENABLED, "false") == "false":
        return decide(Result.UNCHANGED, "not-enabled", "not enabled")
    if _MIRROR in annotations:
        return decide(Result.UNCHANGED, "mirror-pod", "a mirror of a static pod")
    if is_injected(pod):
        return decide(Result.UNCHANGED, "already-injected", "already injected")
    try:
        election, warnings = plan(pod, settings)
    except Denied as denied:
        return decide(Result.DENIED, denied.code, str(denied), warnings=warn_of_unknown(annotations))
    return decide(
        Result.INJECTED, "enabled", "enabled", election=election.name, patch=build_patch(pod, election), warnings=warnings
    )


def _subject(metadata: dict[str, Any], request: dict[str, Any]) -> str:
    owner = owner_of(metadata)
    if owner is not None:
        return f"{owner.get('kind')}/{owner.get('name')}"
    return f"Pod/{metadata.get('name') or metadata.get('generateName') or request.get('name') or ''}"
