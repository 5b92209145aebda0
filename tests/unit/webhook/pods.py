"""Pods and AdmissionReviews for the tests, as the API server sends them."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import jsonpatch

from webhook._patch import Operation
from webhook._review import Decision, answer
from webhook._settings import InjectionSettings

SETTINGS = InjectionSettings(image="registry.example/leader-elector:1")

Pod = dict[str, Any]


def owner(kind: str = "ReplicaSet", name: str = "web-5c689d88bb", api_version: str = "apps/v1") -> dict[str, Any]:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": name,
        "uid": "0f8ac9e2-3a5c-4f52-8a1d-1f8c7d5c0b1e",
        "controller": True,
        "blockOwnerDeletion": True,
    }


def pod(*, annotations: dict[str, str] | None = None, **spec: Any) -> Pod:
    """A Deployment's pod as its ReplicaSet creates it; `annotations` are ours, without prefix, beside `enabled`."""
    ours = {f"leader-election/{key}": value for key, value in {"enabled": "true", **(annotations or {})}.items()}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "web-5c689d88bb-",
            "labels": {"app": "web", "pod-template-hash": "5c689d88bb"},
            "annotations": ours,
            "ownerReferences": [owner()],
        },
        "spec": {
            "volumes": [{"name": "kube-api-access-x2v4p", "projected": {"sources": [], "defaultMode": 420}}],
            "containers": [
                {
                    "name": "web",
                    "image": "nginx",
                    "ports": [{"containerPort": 8080, "protocol": "TCP"}],
                    "env": [{"name": "COLOUR", "value": "blue"}],
                    "resources": {},
                    "volumeMounts": [
                        {
                            "name": "kube-api-access-x2v4p",
                            "readOnly": True,
                            "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                        }
                    ],
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                    "imagePullPolicy": "Always",
                }
            ],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default",
            "serviceAccount": "default",
            "securityContext": {},
            "schedulerName": "default-scheduler",
            "enableServiceLinks": True,
            **spec,
        },
        "status": {},
    }


def review(of: Any, **request: Any) -> dict[str, Any]:
    """The AdmissionReview of the creation of a pod; `request` replaces fields of its request."""
    return {
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "shop",
            "operation": "CREATE",
            "userInfo": {
                "username": "system:serviceaccount:kube-system:replicaset-controller",
                "uid": "a8b2a2b4-2d3f-4b8e-9a52-6b0d0a3b1c11",
                "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
            },
            "object": of,
            "oldObject": None,
            "dryRun": False,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
            **request,
        },
    }


def respond(to: dict[str, Any], settings: InjectionSettings = SETTINGS) -> tuple[dict[str, Any], Decision]:
    """The `response` of the answer, and the decision."""
    reply, decision = answer(json.dumps(to).encode(), settings)
    document = json.loads(reply)
    assert document["apiVersion"] == "admission.k8s.io/v1"
    assert document["kind"] == "AdmissionReview"
    assert document["response"]["uid"] == to["request"]["uid"]
    return document["response"], decision


def operations(response: dict[str, Any]) -> list[Operation]:
    """The patch of a response, empty when it has none."""
    assert ("patch" in response) == ("patchType" in response)
    if "patch" not in response:
        return []
    assert response["patchType"] == "JSONPatch"
    decoded: list[Operation] = json.loads(base64.b64decode(response["patch"], validate=True))
    return decoded


def admit(of: Pod, settings: InjectionSettings = SETTINGS) -> Pod:
    """The pod as the API server stores it: `of` with the patch of the answer applied."""
    response, _ = respond(review(of), settings)
    assert response["allowed"], response
    patched: Pod = jsonpatch.apply_patch(copy.deepcopy(of), operations(response))
    return patched


def refuse(of: Pod, settings: InjectionSettings = SETTINGS) -> str:
    """The message with which a pod is denied."""
    response, _ = respond(review(of), settings)
    assert not response["allowed"]
    assert "patch" not in response
    assert response["status"]["code"] == 422
    message: str = response["status"]["message"]
    return message


def elector(of: Pod) -> dict[str, Any]:
    """The elector's container in a pod."""
    (found,) = [
        c for field in ("initContainers", "containers") for c in of["spec"].get(field) or [] if c["name"] == "leader-elector"
    ]
    assert isinstance(found, dict)
    return found
