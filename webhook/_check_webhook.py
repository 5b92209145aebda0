"""The webhook's part of `check`: the namespace, the registration, a creation on trial, the certificate."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509

from webhook._annotations import ENABLED, NAME
from webhook._cluster import Answer, Cluster
from webhook._containers import containers
from webhook._findings import Finding, Verdict, fine, note, part, unknown, wrong
from webhook._metrics import CERTIFICATE_END
from webhook._sidecar import CONTAINER

__all__ = ["Registration", "check_webhook", "find_registrations"]

_CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
_NAME = "leader-election"
_SOON = 7 * 86_400
_CONNECT = 5.0


@dataclass(frozen=True, slots=True)
class Registration:
    """Our webhook in a MutatingWebhookConfiguration."""

    configuration: str
    webhook: dict[str, Any]


def find_registrations(cluster: Cluster) -> list[Registration] | Answer:
    """Every registration of ours, or the API server's refusal to list them."""
    answer = cluster.get(_CONFIGURATIONS)
    if not answer.ok:
        return answer
    found = []
    for one in answer.content.get("items") or []:
        metadata = part(one, "metadata")
        ours = _NAME in (metadata.get("name"), part(metadata, "labels").get("app.kubernetes.io/name"))
        for webhook in one.get("webhooks") or []:
            rules = [resource for rule in webhook.get("rules") or [] for resource in rule.get("resources") or []]
            if "pods" in rules and (ours or str(webhook.get("name")).endswith(f".{_NAME}.io")):
                found.append(Registration(str(metadata.get("name")), webhook))
    return found


def check_webhook(cluster: Cluster, namespace: str, labels: dict[str, str]) -> Iterator[Finding]:
    """Whether a pod with these labels in this namespace reaches a webhook that works, in order."""
    found = find_registrations(cluster)
    registrations = found if isinstance(found, list) else []
    left_out = namespace == "kube-system"
    if left_out:
        yield wrong("the namespace kube-system is always left out: nothing there may wait for a webhook")
    elif registrations:
        for finding in _selected(cluster, registrations[0], namespace, labels):
            left_out = left_out or finding.verdict is Verdict.WRONG
            yield finding
    if not isinstance(found, list):
        yield unknown(f"whether the webhook is registered: {found.message}")
    elif not found:
        yield wrong("the webhook is not registered: no MutatingWebhookConfiguration of leader-election; install the chart")
        return
    else:
        yield fine(f"the webhook is registered, in the MutatingWebhookConfiguration {registrations[0].configuration}")
        for other in registrations[1:]:
            yield note(f"it is registered again, in {other.configuration}: left over from another installation?")
    trusted = False
    if not left_out:
        trial = _create_on_trial(cluster, namespace)
        trusted = trial.ok
        yield _judge_trial(trial)
    if registrations:
        yield from _check_certificate(cluster, registrations[0].webhook, trusted=trusted)


def _selected(cluster: Cluster, registration: Registration, namespace: str, labels: dict[str, str]) -> Iterator[Finding]:
    answer = cluster.get(f"/api/v1/namespaces/{namespace}")
    if not answer.ok:
        yield unknown(f"whether the namespace {namespace} is left out: {answer.message}")
    else:
        refused = _refused_by(part(registration.webhook, "namespaceSelector"), part(answer.content, "metadata", "labels"))
        if refused:
            yield wrong(f"the namespace {namespace} is left out: the webhook's namespaceSelector asks for {refused}")
            return
        yield fine(f"the namespace {namespace} is not left out")
    refused = _refused_by(part(registration.webhook, "objectSelector"), labels)
    if refused:
        yield wrong(f"the pod is left out by its labels: the webhook's objectSelector asks for {refused}")


def _refused_by(selector: dict[str, Any], labels: dict[str, Any]) -> str:
    """The first requirement of a label selector that these labels do not meet, in words; empty when they meet all."""
    for key, value in part(selector, "matchLabels").items():
        if labels.get(key) != value:
            return f"{key}={value}"
    for one in selector.get("matchExpressions") or []:
        key, operator, values = str(one.get("key")), one.get("operator"), one.get("values") or []
        meets = {
            "In": labels.get(key) in values,
            "NotIn": key not in labels or labels[key] not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not meets.get(str(operator), True):
            return " ".join([key, str(operator), *([f"({', '.join(values)})"] if values else [])])
    return ""


def _create_on_trial(cluster: Cluster, namespace: str) -> Answer:
    """Create an annotated pod as a dry run: the only way to see what the API server sees of the webhook."""
    security = {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    resources = {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "10m", "memory": "10Mi"}}
    metadata = {"generateName": "leader-election-check-", "annotations": {ENABLED: "true", NAME: "check"}}
    container = {"name": "check", "image": "check", "securityContext": security, "resources": resources}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
    return cluster.post(f"/api/v1/namespaces/{namespace}/pods?dryRun=All", pod)


def _judge_trial(trial: Answer) -> Finding:
    if trial.ok:
        image = next((c.get("image") for _, _, c in containers(trial.content) if c.get("name") == CONTAINER), None)
        if image is None:
            return wrong("the webhook does not work: a pod created on trial came back without the elector")
        return fine(f"the webhook works: a pod created on trial got the elector {image}")
    if "failed calling webhook" in trial.message or "failed to call webhook" in trial.message:
        return wrong(f"the API server cannot call the webhook: {trial.message}")
    return unknown(f"whether the webhook works: a pod created on trial was refused: {trial.message}")


def _check_certificate(cluster: Cluster, webhook: dict[str, Any], *, trusted: bool) -> Iterator[Finding]:
    config = part(webhook, "clientConfig")
    if not config.get("caBundle"):
        yield wrong("the webhook's caBundle is empty: the release's controller fills it, or cert-manager; see what they log")
        return
    try:
        authority = base64.b64decode(config["caBundle"], validate=True)
        ends = [one.not_valid_after_utc.timestamp() for one in x509.load_pem_x509_certificates(authority)]
    except ValueError:
        yield wrong("the webhook's caBundle holds no certificates that can be read")
        return
    if max(ends) <= time.time():
        yield wrong(f"the authority of the webhook's certificate ended at {_date(max(ends))}")
        return
    if isinstance(config.get("url"), str):
        served = _served(config["url"], authority.decode("latin-1"))
    else:
        served = _told(cluster, part(config, "service"))
    if isinstance(served, str):
        accepted = "the API server accepts the webhook's certificate, but when it ends cannot be told"
        yield unknown(f"{accepted if trusted else 'whether the webhook has a valid certificate cannot be told'}: {served}")
    elif served <= time.time():
        yield wrong(f"the webhook's certificate ended at {_date(served)}")
    else:
        yield fine(f"the webhook's certificate is valid until {_date(served)}, its authority until {_date(max(ends))}")
        if served - time.time() < _SOON:
            yield note("that is soon: see that something renews it")


def _served(url: str, authority: str) -> float | str:
    """When the certificate served at `url` ends, or why that cannot be told from here."""
    parts = urlsplit(url)
    try:
        context = ssl.create_default_context(cadata=authority)
        with (
            socket.create_connection((parts.hostname or "", parts.port or 443), timeout=_CONNECT) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname) as connection,
        ):
            shown = connection.getpeercert() or {}
            return ssl.cert_time_to_seconds(str(shown["notAfter"]))
    except (OSError, ValueError, KeyError) as error:
        return f"{url}: {error}"


def _told(cluster: Cluster, service: dict[str, Any]) -> float | str:
    """When the certificate in use ends by the webhook's own metrics, reached through the API server's proxy."""
    name, namespace, port = service.get("name"), service.get("namespace"), service.get("port", 443)
    answer = cluster.get_text(f"/api/v1/namespaces/{namespace}/services/https:{name}:{port}/proxy/metrics")
    if not isinstance(answer, str):
        return answer.message
    found = re.search(rf"^{CERTIFICATE_END} (\S+)$", answer, re.MULTILINE)
    return float(found[1]) if found else f"the Service {namespace}/{name} has no such metric"


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
