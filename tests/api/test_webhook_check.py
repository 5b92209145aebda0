"""`leader-election check` on a real cluster."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kubernetes.client
import pytest

from sandbox import Sandbox
from sandbox._keeper_client import Program
from sandbox.injection import IMAGE, start_webhook
from tests.waiting import eventually, until
from webhook.__main__ import main

pytestmark = pytest.mark.api

ON = {"leader-election/enabled": "true"}
RECORD = "control-plane.alpha.kubernetes.io/leader"
CONFIGURATION = "leader-election"

Json = dict[str, Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Sandbox, Program]]:
    """A sandbox of this module's own, since the webhook is the whole cluster's."""
    with Sandbox.start() as sandbox:
        yield sandbox, start_webhook(sandbox)


@dataclass
class Asked:
    """A namespace, and a person who asks about it."""

    sandbox: Sandbox
    namespace: str
    capsys: pytest.CaptureFixture[str]

    @property
    def core(self) -> Any:
        return kubernetes.client.CoreV1Api(self.sandbox.api)

    def check(self, target: str, *, kubeconfig: Path | None = None, namespace: str | None = None) -> tuple[int, list[str]]:
        """The exit code, and the lines without the padding of their marks."""
        flags = ["--kubeconfig", str(kubeconfig or self.sandbox.kubeconfig), "-n", namespace or self.namespace]
        code = main(["check", *flags, target])
        out, err = self.capsys.readouterr()
        assert err == ""
        return code, [" ".join(line.split()) for line in out.splitlines()]

    def deploy(self, of_template: dict[str, str] | None, of_deployment: dict[str, str] | None = None) -> None:
        """A Deployment `web`; returns when its pod is there, if there will be one."""
        labels = {"app": "web"}
        spec = {"containers": [{"name": "app", "image": "app"}]}
        template = {"metadata": {"labels": labels, "annotations": of_template}, "spec": spec}
        metadata = {"name": "web", "annotations": of_deployment}
        api: Any = kubernetes.client.AppsV1Api(self.sandbox.api)
        api.create_namespaced_deployment(
            self.namespace, {"metadata": metadata, "spec": {"selector": {"matchLabels": labels}, "template": template}}
        )

    def pod(self) -> Any:
        return eventually(lambda: self.core.list_namespaced_pod(self.namespace).items, "the pod is there")[0]

    def allow(self, *verbs: str) -> None:
        """Give the namespace's default account these verbs on Endpoints."""
        rbac: Any = kubernetes.client.RbacAuthorizationV1Api(self.sandbox.api)
        rules = [{"apiGroups": [""], "resources": ["endpoints"], "verbs": list(verbs)}]
        rbac.create_namespaced_role(self.namespace, {"metadata": {"name": "candidate"}, "rules": rules})
        subject = {"kind": "ServiceAccount", "name": "default", "namespace": self.namespace}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "candidate"}
        rbac.create_namespaced_role_binding(
            self.namespace, {"metadata": {"name": "candidate"}, "roleRef": role, "subjects": [subject]}
        )

    def lock(self, record: Json | None) -> None:
        annotations = {} if record is None else {RECORD: json.dumps(record)}
        self.core.create_namespaced_endpoints(self.namespace, {"metadata": {"name": "web.leader", "annotations": annotations}})


@pytest.fixture
def asked(cluster: tuple[Sandbox, Program], capsys: pytest.CaptureFixture[str]) -> Asked:
    sandbox, _ = cluster
    made = Asked(sandbox, f"test-{uuid.uuid4().hex[:8]}", capsys)
    made.core.create_namespace({"metadata": {"name": made.namespace}})
    until(
        lambda: [a for a in made.core.list_namespaced_service_account(made.namespace).items if a.metadata.name == "default"],
        "the account is there",
    )
    return made


def record(holder: str, seconds_ago: float = 2) -> Json:
    renewed = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"holderIdentity": holder, "leaseDurationSeconds": 10, "renewTime": renewed, "acquireTime": renewed}


def test_all_is_well_step_by_step(asked: Asked) -> None:
    asked.deploy(ON)
    asked.allow("get", "update", "list", "watch")
    name = asked.pod().metadata.name
    asked.lock(record(name))
    code, lines = asked.check("deployment/web")
    patterns = [
        "ok the deployment's pod template has the annotation leader-election/enabled",
        "ok its values are allowed",
        f"ok the namespace {asked.namespace} is not left out",
        "ok the webhook is registered, in the MutatingWebhookConfiguration leader-election",
        f"ok the webhook works: a pod created on trial got the elector {IMAGE}",
        "ok the webhook's certificate is valid until 20",
        f"note the pod {name} has the elector {IMAGE}, not started yet",
        "ok the service account default may get, update endpoints web.leader",
        f"ok {name} leads, by endpoints web.leader, renewed ",
    ]
    assert len(lines) == len(patterns), lines
    for line, pattern in zip(lines, patterns, strict=True):
        assert line.startswith(pattern)
    assert code == 0
    # Asked about the pod itself, all but the first line is the same.
    code, of_pod = asked.check(name)
    assert (code, of_pod[0]) == (0, "ok the pod has the annotation leader-election/enabled")
    assert of_pod[1:-1] == lines[1:-1]
    assert asked.core.list_namespaced_pod(asked.namespace).items[1:] == []


def test_the_state_of_a_running_elector_is_told(asked: Asked) -> None:
    asked.deploy(ON)
    name = asked.pod().metadata.name
    state = {"name": "leader-elector", "image": IMAGE, "imageID": "elector@sha256:0a", "ready": True, "restartCount": 2}
    status = {"initContainerStatuses": [{**state, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}
    asked.core.patch_namespaced_pod_status(name, asked.namespace, {"status": status})
    lines = asked.check(name)[1]
    assert f"ok the pod {name} has the elector elector@sha256:0a, running after 2 restarts" in lines, "\n".join(lines)


def test_an_annotation_on_the_deployment_itself(asked: Asked) -> None:
    asked.deploy(None, ON)
    name = asked.pod().metadata.name
    wrong = "WRONG the {} has no annotation leader-election/enabled"
    advice = "note the deployment web itself has it: it belongs into spec.template.metadata.annotations"
    code, lines = asked.check("deploy/web")
    assert (code, lines[:2]) == (1, [wrong.format("deployment's pod template"), advice])
    assert f"WRONG the pod {name} has no elector: it was created without one, and has to be created anew" in lines
    code, lines = asked.check(f"pod/{name}")
    assert (code, lines[:2]) == (1, [wrong.format("pod"), advice])


def test_an_annotation_on_the_template_of_a_cronjobs_jobs(asked: Asked) -> None:
    template = {"spec": {"containers": [{"name": "app", "image": "app"}], "restartPolicy": "Never"}}
    job = {"metadata": {"annotations": ON}, "spec": {"template": template}}
    batch: Any = kubernetes.client.BatchV1Api(asked.sandbox.api)
    batch.create_namespaced_cron_job(
        asked.namespace, {"metadata": {"name": "report"}, "spec": {"schedule": "@yearly", "jobTemplate": job}}
    )
    code, lines = asked.check("cj/report")
    advice = "note the cronjob report itself has it: it belongs into spec.jobTemplate.spec.template.metadata.annotations"
    assert (code, lines[1]) == (1, advice)


def test_values_that_are_denied_and_keys_that_are_unknown(asked: Asked) -> None:
    asked.deploy({**ON, "leader-election/ttl": "5", "leader-election/tll": "5s"})
    code, lines = asked.check("deployments/web")
    assert code == 1
    assert lines[1] == ('WRONG annotation leader-election/ttl is "5", allowed is a Go duration in whole seconds from 1s to 10m')
    assert "note there is no pod yet" in lines


def test_rights_that_are_missing(asked: Asked) -> None:
    asked.deploy(ON)
    asked.allow("get")
    code, lines = asked.check("deployment/web")
    assert code == 1
    missing = f"endpoints web.leader in {asked.namespace}"
    assert f"WRONG the service account default may not update, create {missing}" in lines
    assert lines[-1] == "note nobody leads yet: there is no endpoints web.leader"


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (None, "WRONG nobody leads: endpoints web.leader has no record of an election, so it may belong to something else"),
        ({**record(""), "holderIdentity": ""}, "note nobody leads at the moment: endpoints web.leader is free"),
        (record("web-0", 1000), "WRONG nobody leads: web-0 did, but last renewed endpoints web.leader 1"),
        ({**record("web-0"), "renewTime": "x"}, "WRONG endpoints web.leader has a record that cannot be read, with the holder"),
    ],
)
def test_a_lock_that_nobody_holds(asked: Asked, found: Json | None, line: str) -> None:
    asked.deploy(ON)
    asked.lock(found)
    assert asked.check("deployment/web")[1][-1].startswith(line)


def test_kube_system_is_left_out(asked: Asked) -> None:
    core = asked.core
    pod = {"metadata": {"name": asked.namespace, "annotations": ON}, "spec": {"containers": [{"name": "app", "image": "app"}]}}
    core.create_namespaced_pod("kube-system", pod)
    code, lines = asked.check(asked.namespace, namespace="kube-system")
    assert code == 1
    assert "WRONG the namespace kube-system is always left out: nothing there may wait for a webhook" in lines


def test_what_one_may_not_see_is_unknown(asked: Asked, tmp_path: Path) -> None:
    asked.deploy(ON)
    asked.pod()
    token = asked.sandbox.service_account_token(asked.namespace, "default")
    kubeconfig = asked.sandbox.kubeconfig_for(token, tmp_path / "kubeconfig")
    code, lines = asked.check("deployment/web", kubeconfig=kubeconfig)
    (line,) = lines
    assert code == 3
    assert line.startswith(f"? whether there is a deployment web in the namespace {asked.namespace}: deployments.apps")
    # Who may read deployments and pods only gets further, and no verdict that could be wrong.
    rbac: Any = kubernetes.client.RbacAuthorizationV1Api(asked.sandbox.api)
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": asked.namespace}
    rbac.create_namespaced_role_binding(asked.namespace, {"metadata": {"name": "view"}, "roleRef": role, "subjects": [subject]})
    code, lines = eventually(
        lambda: found if len((found := asked.check("deployment/web", kubeconfig=kubeconfig))[1]) > 1 else None,
        "the check finds the pod",
    )
    assert code == 3
    assert [line for line in lines if line.startswith("WRONG")] == []
    unknown = [line for line in lines if line.startswith("? ")]
    assert [line.split(":")[0] for line in unknown] == [
        "? whether the webhook is registered",
        "? whether the webhook works",
        "? whether the service account default may get endpoints",
    ]


def test_what_is_not_there(asked: Asked) -> None:
    assert asked.check("sts/web") == (1, [f"WRONG there is no statefulset web in the namespace {asked.namespace}"])


def test_no_api_server_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], cluster: tuple[Sandbox, Program]) -> None:
    text = cluster[0].kubeconfig.read_text().replace(cluster[0].url, "https://127.0.0.1:1")
    (tmp_path / "kubeconfig").write_text(text)
    assert main(["check", "--kubeconfig", str(tmp_path / "kubeconfig"), "web"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("leader-election: cannot reach the API server https://127.0.0.1:1: ")
    assert err.count("\n") == 1
    assert main(["check", "--kubeconfig", str(tmp_path / "none"), "web"]) == 3
    assert capsys.readouterr().err.startswith("leader-election: no cluster to ask: ")


@pytest.mark.parametrize("target", ["services/web", "pod/", "", "a/b/c"])
def test_a_target_that_is_none_is_usage(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["check", target])
    assert caught.value.code == 2
    assert "is no pod and no KIND/NAME; kinds are pod, deployment" in capsys.readouterr().err


# -- the registration and the webhook itself: the last tests of this module, which they break ------------------------------------


def change_registration(sandbox: Sandbox, change: Callable[[Json], None]) -> None:
    api: Any = kubernetes.client.AdmissionregistrationV1Api(sandbox.api)
    found: Json = sandbox.api.sanitize_for_serialization(api.read_mutating_webhook_configuration(CONFIGURATION))
    change(found["webhooks"][0])
    api.replace_mutating_webhook_configuration(CONFIGURATION, found)


def test_a_namespace_that_the_selector_leaves_out(asked: Asked) -> None:
    asked.deploy({"a": "b"})
    term = {"key": "elections", "operator": "In", "values": ["on", "yes"]}
    change_registration(asked.sandbox, lambda webhook: webhook["namespaceSelector"]["matchExpressions"].append(term))
    code, lines = asked.check("deployment/web")
    change_registration(asked.sandbox, lambda webhook: webhook["namespaceSelector"]["matchExpressions"].pop())
    assert code == 1
    left_out = f"WRONG the namespace {asked.namespace} is left out: the webhook's namespaceSelector asks for "
    assert f"{left_out}elections In (on, yes)" in lines


def test_a_webhook_that_is_away_and_one_that_is_not_registered(asked: Asked, cluster: tuple[Sandbox, Program]) -> None:
    asked.deploy(ON)
    asked.pod()
    cluster[1].stop()
    code, lines = asked.check("deployment/web")
    assert code == 1
    assert any(line.startswith("WRONG the API server cannot call the webhook: ") and "refused" in line for line in lines)
    assert any(line.startswith("? whether the webhook has a valid certificate cannot be told: https://") for line in lines)
    api: Any = kubernetes.client.AdmissionregistrationV1Api(asked.sandbox.api)
    api.delete_mutating_webhook_configuration(CONFIGURATION)
    code, lines = asked.check("deployment/web")
    assert code == 1
    gone = "WRONG the webhook is not registered: no MutatingWebhookConfiguration of leader-election; install the chart"
    assert gone in lines
