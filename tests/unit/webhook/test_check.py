"""What `check` says where a sandbox has no such thing: Services, selectors, Leases, certificates that ended."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.unit.webhook.conftest import make_certificate
from webhook._check_election import Candidates, candidates_of, check_leader, check_rights
from webhook._check_webhook import check_webhook
from webhook._cluster import Answer, Cluster
from webhook._findings import Finding
from webhook._metrics import CERTIFICATE_END

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Fake(Cluster):
    """An API server that knows these paths; a status alone is a refusal."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content
        self.asked: list[dict[str, Any]] = []

    def get(self, path: str) -> Answer:
        found = self._content.get(path, 404)
        return Answer(found, {"message": f"status {found}"}) if isinstance(found, int) else Answer(200, found)

    def get_text(self, path: str) -> str | Answer:
        found = self._content.get(path, 503)
        return found if isinstance(found, str) else Answer(found, {"message": "no endpoints available"})

    def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        self.asked.append(dict(body))
        found = self._content.get(path, 403)
        return Answer(found, {"message": "forbidden"}) if isinstance(found, int) else Answer(201, found)


def cluster(
    ca: bytes,
    paths: Mapping[str, Any] | None = None,
    *,
    selectors: dict[str, Any] | None = None,
    labels: dict[str, str] | None = None,
) -> Fake:
    service = {"name": "hook", "namespace": "system", "port": 443}
    webhook = {
        "name": "inject.leader-election.io",
        "rules": [{"resources": ["pods"]}],
        "clientConfig": {"service": service, "caBundle": base64.b64encode(ca).decode()},
        **(selectors or {}),
    }
    return Fake(
        {
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations": {
                "items": [
                    {"metadata": {"name": "other"}, "webhooks": [{"name": "other.example", "rules": [{"resources": ["pods"]}]}]},
                    {"metadata": {"name": "release-leader-election"}, "webhooks": [webhook]},
                ]
            },
            "/api/v1/namespaces/shop": {"metadata": {"labels": labels or {}}},
            **(paths or {}),
        }
    )


METRICS = "/api/v1/namespaces/system/services/https:hook:443/proxy/metrics"


@pytest.fixture
def ca(tmp_path: Path) -> bytes:
    return make_certificate(tmp_path, days=400).cert.read_bytes()


def texts(findings: Any) -> list[str]:
    return [f"{one.verdict} {one.text}" for one in findings if isinstance(one, Finding)]


def test_a_certificate_behind_a_service_is_told_by_the_webhooks_own_metrics(ca: bytes) -> None:
    served = "# HELP\n" + f"{CERTIFICATE_END} {datetime(2099, 1, 2, 3, 4, tzinfo=UTC).timestamp()}\n"
    found = texts(check_webhook(cluster(ca, {METRICS: served}), "shop", {}))
    assert "ok the webhook is registered, in the MutatingWebhookConfiguration release-leader-election" in found
    assert found[-1].startswith("ok the webhook's certificate is valid until 2099-01-02 03:04 UTC, its authority until 20")


@pytest.mark.parametrize(
    ("ends", "lines"),
    [
        (datetime(2020, 1, 1, tzinfo=UTC).timestamp(), ["WRONG the webhook's certificate ended at 2020-01-01 00:00 UTC"]),
        (datetime.now(UTC).timestamp() + 86_400, ["ok", "note that is soon: see that something renews it"]),
    ],
    ids=["ended", "soon"],  # the time is another at every collection, which parallel runs take for another test
)
def test_a_certificate_that_has_ended_or_soon_will(ca: bytes, ends: float, lines: list[str]) -> None:
    found = texts(check_webhook(cluster(ca, {METRICS: f"{CERTIFICATE_END} {ends}\n"}), "shop", {}))
    assert [line.startswith(wanted) for line, wanted in zip(found[-len(lines) :], lines, strict=True)] == [True] * len(lines)


def test_a_certificate_that_cannot_be_seen_but_works(ca: bytes) -> None:
    injected = {"spec": {"containers": [], "initContainers": [{"name": "leader-elector", "image": "e:1"}]}}
    found = texts(check_webhook(cluster(ca, {"/api/v1/namespaces/shop/pods?dryRun=All": injected}), "shop", {}))
    assert found[-2:] == [
        "ok the webhook works: a pod created on trial got the elector e:1",
        "? the API server accepts the webhook's certificate, but when it ends cannot be told: no endpoints available",
    ]


def test_a_pod_that_came_back_without_the_elector(ca: bytes) -> None:
    plain = {"spec": {"containers": [{"name": "check"}]}}
    found = texts(check_webhook(cluster(ca, {"/api/v1/namespaces/shop/pods?dryRun=All": plain}), "shop", {}))
    assert "WRONG the webhook does not work: a pod created on trial came back without the elector" in found


def test_an_authority_that_has_ended(tmp_path: Path) -> None:
    ended = make_certificate(tmp_path, days=-1).cert.read_bytes()
    assert texts(check_webhook(cluster(ended), "shop", {}))[-1].startswith(
        "WRONG the authority of the webhook's certificate ended"
    )


@pytest.mark.parametrize(
    ("broken", "says"),
    [(b"", "is empty: the release's controller fills it"), (b"nothing", "holds no certificates that can be read")],
)
def test_a_registration_without_an_authority(broken: bytes, says: str) -> None:
    found = texts(check_webhook(cluster(broken), "shop", {}))
    assert found[-1].startswith(f"WRONG the webhook's caBundle {says}")


def expression(operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": "a", "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("selector", "labels", "refused"),
    [
        ({"matchLabels": {"a": "b"}}, {"a": "b"}, None),
        ({"matchLabels": {"a": "b"}}, {"a": "c"}, "a=b"),
        (expression("In", "b"), {"a": "b"}, None),
        (expression("In", "b"), {}, "a In (b)"),
        (expression("NotIn", "b"), {}, None),
        (expression("NotIn", "b"), {"a": "b"}, "a NotIn (b)"),
        (expression("Exists"), {"a": ""}, None),
        (expression("Exists"), {}, "a Exists"),
        (expression("DoesNotExist"), {}, None),
        (expression("DoesNotExist"), {"a": ""}, "a DoesNotExist"),
    ],
)
def test_selectors(ca: bytes, selector: dict[str, Any], labels: dict[str, str], refused: str | None) -> None:
    of_namespace = texts(check_webhook(cluster(ca, selectors={"namespaceSelector": selector}, labels=labels), "shop", {}))
    of_pod = texts(check_webhook(cluster(ca, selectors={"objectSelector": selector}), "shop", labels))
    namespace_line = f"WRONG the namespace shop is left out: the webhook's namespaceSelector asks for {refused}"
    pod_line = f"WRONG the pod is left out by its labels: the webhook's objectSelector asks for {refused}"
    assert (namespace_line in of_namespace) == (pod_line in of_pod) == (refused is not None)
    if refused is None:
        assert "ok the namespace shop is not left out" in of_namespace


def test_the_election_is_the_running_electors() -> None:
    arguments = ["--election=orders", "--lock=endpointsleases", "--use-cluster-credentials"]
    pod = {
        "spec": {"serviceAccountName": "web", "containers": [], "initContainers": [{"name": "leader-elector", "args": arguments}]}
    }
    found = candidates_of(pod, "shop", "other", "leases")
    assert found == Candidates("shop", "orders", "endpointsleases", "web")
    assert found.resources == ["endpoints", "leases"]
    assert candidates_of({"spec": {"containers": []}}, "shop", "e", "leases") == Candidates("shop", "e", "leases", "default")


LEASE = "/apis/coordination.k8s.io/v1/namespaces/shop/leases/web"


def test_a_lease_tells_who_leads() -> None:
    spec = {"holderIdentity": "web-1", "leaseDurationSeconds": 10, "renewTime": "2026-11-23T11:59:57.000000Z"}
    of = Candidates("shop", "web", "leases", "default")
    assert texts(check_leader(Fake({LEASE: {"spec": spec}}), of, lambda: NOW)) == [
        "ok web-1 leads, by leases web, renewed 3 s ago"
    ]
    assert texts(check_leader(Fake({LEASE: 403}), of, lambda: NOW)) == ["? who leads: status 403"]


def test_rights_are_asked_for_the_account_by_name_and_group() -> None:
    reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    fake = Fake({LEASE: {}, reviews: {"status": {"allowed": True}}})
    assert texts(check_rights(fake, Candidates("shop", "web", "leases", "app"))) == [
        "ok the service account app may get, update leases web"
    ]
    assert [one["spec"]["resourceAttributes"]["verb"] for one in fake.asked] == ["get", "update", "list", "watch"]
    assert fake.asked[0]["spec"] == {
        "user": "system:serviceaccount:shop:app",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"],
        "resourceAttributes": {
            "namespace": "shop",
            "verb": "get",
            "group": "coordination.k8s.io",
            "resource": "leases",
            "name": "web",
        },
    }
