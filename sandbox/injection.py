"""The webhook on a sandbox: its process, its certificate, and its registration with the API server.

The API server reaches it by URL, since nobody serves Services without a node.
"""

import base64
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sandbox._certificates import Authority
from sandbox._errors import SandboxError
from sandbox._keeper_client import Program
from sandbox._sandbox import Sandbox

__all__ = ["IMAGE", "registration", "start_webhook", "stop_webhook", "url_of"]

IMAGE = "leader-election/elector:sandbox"
"""The image that pods are given here. Nothing pulls it: whoever plays the kubelet runs this checkout's elector."""

_NAME = "leader-election"
_FOLDER = "webhook"
_STARTS_WITHIN = 20.0
_POLL = 0.02


def registration(url: str, ca: bytes) -> dict[str, Any]:
    """The MutatingWebhookConfiguration for a webhook at `url` (`https://.../mutate`), whose certificate `ca` (PEM) signed.

    Pods without the annotation never reach the webhook, so its outage touches none of them; neither do kube-system's pods and
    mirror pods. See https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/.
    """
    annotations = "object.metadata.?annotations"
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": _NAME},
        "webhooks": [
            {
                "name": "inject.leader-election.io",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": url, "caBundle": base64.b64encode(ca).decode()},
                "rules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["pods"],
                        "scope": "Namespaced",
                    }
                ],
                "namespaceSelector": {
                    "matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system"]}]
                },
                "matchConditions": [
                    {
                        "name": "annotated-and-no-mirror-pod",
                        "expression": f"{annotations}[?'leader-election/enabled'].orValue('false') != 'false'"
                        f" && !{annotations}[?'kubernetes.io/config.mirror'].hasValue()",
                    },
                ],
                "failurePolicy": "Fail",
                "matchPolicy": "Equivalent",
                "reinvocationPolicy": "IfNeeded",
                "sideEffects": "None",
                "timeoutSeconds": 5,
            }
        ],
    }


def start_webhook(sandbox: Sandbox, options: Sequence[str] = ()) -> Program:
    """Start this checkout's webhook with a certificate of its own and register it; returns once it takes part.

    `options` are further flags of `leader-election webhook`. Raises `SandboxError` with the tail of its log when it does not
    serve within 20 s.
    """
    folder = sandbox.directory / _FOLDER
    folder.mkdir()
    authority = Authority(folder)
    pair = authority.server("webhook", dns=["localhost"], addresses=["127.0.0.1"])
    command = [sys.executable, "-m", "webhook", "webhook", "--listen=127.0.0.1:0", f"--image={IMAGE}"]
    command += [f"--tls-cert-file={pair.certificate}", f"--tls-key-file={pair.key}", *options]
    program = sandbox.run("webhook", command, cwd=Path(__file__).parent.parent)
    url = url_of(program)

    import kubernetes.client

    api: Any = kubernetes.client.AdmissionregistrationV1Api(sandbox.api)
    api.create_mutating_webhook_configuration(registration(url, authority.pair.certificate.read_bytes()))
    _wait_until_registered(sandbox)
    return program


def stop_webhook(sandbox: Sandbox) -> None:
    """Undo `start_webhook`: unregister it, and end it."""
    import kubernetes.client

    api: Any = kubernetes.client.AdmissionregistrationV1Api(sandbox.api)
    api.delete_mutating_webhook_configuration(_NAME)
    sandbox.stop("webhook")
    shutil.rmtree(sandbox.directory / _FOLDER)


def url_of(webhook: Program) -> str:
    """Where it serves, as it says, once it does. Raises `SandboxError` with the tail of its log when it does not within 20 s."""
    deadline = time.monotonic() + _STARTS_WITHIN
    while time.monotonic() < deadline:
        log = webhook.log.read_text() if webhook.log.exists() else ""
        found = re.search(r"^serving on (https://\S+/mutate)$", log, re.MULTILINE)
        if found:
            return found[1]
        if not webhook.running:
            raise SandboxError(f"the webhook ended with exit code {webhook.exit_code}: {log[-500:]}")
        time.sleep(_POLL)
    raise SandboxError(f"the webhook does not serve after {_STARTS_WITHIN:g} s: {webhook.log.read_text()[-500:]}")


def _wait_until_registered(sandbox: Sandbox) -> None:
    """The API server takes a registration up a moment after it has stored it: ask with pods that are not kept."""
    import kubernetes.client

    core: Any = kubernetes.client.CoreV1Api(sandbox.api)
    annotations = {"leader-election/enabled": "true", "leader-election/name": "probe"}
    probe = {
        "metadata": {"name": "webhook-probe", "annotations": annotations},
        "spec": {"containers": [{"name": "probe", "image": "probe"}]},
    }
    deadline = time.monotonic() + _STARTS_WITHIN
    while time.monotonic() < deadline:
        stored = core.create_namespaced_pod("default", probe, dry_run="All")
        if stored.spec.init_containers:
            return
        time.sleep(_POLL)
    raise SandboxError(f"the API server does not call the webhook {_STARTS_WITHIN:g} s after it was registered")
