"""AdmissionReview in, AdmissionReview out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.webhook.pods import SETTINGS, admit, operations, pod, respond, review
from webhook._errors import MalformedReview
from webhook._review import Result, answer


def test_an_annotated_pod_is_injected() -> None:
    response, decision = respond(review(pod()))
    assert response["allowed"] is True
    assert operations(response)
    assert (decision.result, decision.namespace, decision.subject) == (
        Result.INJECTED,
        "shop",
        "ReplicaSet/web-5c689d88bb",
    )


@pytest.mark.parametrize("annotations", [None, {}, {"leader-election/enabled": "false", "leader-election/ttl": "x"}])
def test_any_other_pod_is_left_alone(annotations: dict[str, str] | None) -> None:
    plain = pod()
    plain["metadata"]["annotations"] = annotations
    response, decision = respond(review(plain))
    audit = {"result": "unchanged", "reason": "not-enabled"}
    assert response == {"uid": response["uid"], "allowed": True, "auditAnnotations": audit}
    assert (decision.result, decision.reason) == (Result.UNCHANGED, "not enabled")


@pytest.mark.parametrize(
    "request_fields",
    [
        {"operation": "UPDATE"},
        {"operation": "DELETE", "object": None, "oldObject": pod()},
        {"operation": "CONNECT"},
        {"subResource": "ephemeralcontainers"},
        {"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}},
    ],
)
def test_what_is_not_the_creation_of_a_pod_is_left_alone(request_fields: dict[str, Any]) -> None:
    response, decision = respond(review(pod(), **request_fields))
    audit = {"result": "unchanged", "reason": "not-a-pod"}
    assert response == {"uid": response["uid"], "allowed": True, "auditAnnotations": audit}
    assert decision.result is Result.UNCHANGED


def test_a_mirror_pod_is_left_alone() -> None:
    mirror = pod()
    mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"] = "0b7c"
    response, _ = respond(review(mirror))
    assert "patch" not in response


def test_an_injected_pod_is_left_alone() -> None:
    response, decision = respond(review(admit(pod())))
    assert response["allowed"] is True
    assert "patch" not in response
    assert decision.reason == "already injected"


def test_a_denial_is_an_invalid_pod_to_whoever_created_it() -> None:
    response, decision = respond(review(pod(annotations={"ttl": "5"})))
    assert response["allowed"] is False
    assert response["status"]["code"] == 422
    assert response["status"]["reason"] == "Invalid"
    assert response["status"]["message"] == decision.reason
    assert decision.result is Result.DENIED


@pytest.mark.parametrize(
    ("metadata", "subject"),
    [
        ({"name": "one"}, "Pod/one"),
        ({"generateName": "many-"}, "Pod/many-"),
        ({}, "Pod/"),
    ],
)
def test_a_pod_without_an_owner_is_logged_by_its_own_name(metadata: dict[str, str], subject: str) -> None:
    _, decision = respond(review({"metadata": metadata, "spec": {"containers": []}}))
    assert decision.subject == subject


def test_the_audit_log_learns_what_was_decided() -> None:
    response, _ = respond(review(pod()))
    assert response["auditAnnotations"] == {"result": "injected", "reason": "enabled", "election": "web.leader"}


@pytest.mark.parametrize(
    ("of", "code"),
    [
        (pod(annotations={"ttl": "5", "port": "80"}), "annotations"),
        ({"metadata": {"annotations": {"leader-election/enabled": "true"}}}, "name"),
        (pod(volumes=[{"name": "leader-elector"}]), "conflict"),
        (pod(annotations={"cpu-request": "2", "cpu-limit": "1"}), "resources"),
        (pod(annotations={"ttl": "5"}, volumes=[{"name": "leader-elector"}]), "several"),
    ],
)
def test_a_denial_has_a_short_code(of: dict[str, Any], code: str) -> None:
    response, decision = respond(review(of))
    assert decision.code == code
    assert response["auditAnnotations"] == {"result": "denied", "reason": code}


def test_a_dry_run_gets_the_same_answer() -> None:
    really, first = respond(review(pod()))
    dry, second = respond(review(pod(), dryRun=True))
    assert dry == really
    assert (first.dry_run, second.dry_run) == (False, True)


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    """A good review with one thing in it replaced."""
    document: Any = review(pod())
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = to
    assert isinstance(document, dict)
    return document


POD = ("request", "object")
CONTAINER = (*POD, "spec", "containers", 0)

MALFORMED: list[tuple[Any, str]] = [
    ([], "not an AdmissionReview"),
    (1, "not an AdmissionReview"),
    (None, "not an AdmissionReview"),
    ({}, "not an AdmissionReview"),
    (pod(), "not an AdmissionReview"),
    (changed("apiVersion", to="admission.k8s.io/v1beta1"), '"admission.k8s.io/v1beta1", only admission.k8s.io/v1 is'),
    (changed("apiVersion", to=None), "only admission.k8s.io/v1 is served"),
    (changed("request", to=None), "no request"),
    (changed("request", to=[]), "no request"),
    (changed("request", "uid", to=None), "no uid"),
    (changed("request", "uid", to=""), "no uid"),
    (changed("request", "uid", to=7), "no uid"),
    (changed(*POD, to=[]), "object is not an object"),
    (changed(*POD, "metadata", to="x"), "metadata is not an object"),
    (changed(*POD, "metadata", "annotations", to=[]), "metadata.annotations is not an object"),
    (changed(*POD, "metadata", "annotations", "leader-election/enabled", to=True), "not a string"),
    (changed(*POD, "metadata", "labels", to=[]), "metadata.labels is not an object"),
    (changed(*POD, "metadata", "ownerReferences", to={}), "metadata.ownerReferences is not a list"),
    (changed(*POD, "spec", to=[]), "spec is not an object"),
    (changed(*POD, "spec", "volumes", to={}), "spec.volumes is not a list"),
    (changed(*POD, "spec", "containers", to="web"), "spec.containers is not a list"),
    (changed(*POD, "spec", "containers", to=["web"]), "spec.containers holds something that is not an object"),
    (changed(*POD, "spec", "initContainers", to=[None]), "spec.initContainers holds something"),
    (changed(*CONTAINER, "env", to={}), "env is not a list"),
    (changed(*CONTAINER, "ports", to=[8080]), "ports holds something"),
    (changed(*CONTAINER, "resources", to=[]), "resources is not an object"),
]


@pytest.mark.parametrize(("document", "reason"), MALFORMED)
def test_what_is_malformed_is_said_in_one_line(document: Any, reason: str) -> None:
    with pytest.raises(MalformedReview) as caught:
        answer(json.dumps(document).encode(), SETTINGS)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b'{"a":NaN}', b"[" * 100_000, b'{"a":' * 100_000, b'"\\ud800"'],
    ids=["empty", "cut off", "not UTF-8", "NaN", "deep list", "deep object", "lone surrogate"],
)
def test_what_is_not_json_is_said_in_one_line(body: bytes) -> None:
    with pytest.raises(MalformedReview, match="the body is not JSON") as caught:
        answer(body, SETTINGS)
    assert len(str(caught.value)) < 200
