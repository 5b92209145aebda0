"""The chart as helm renders it: golden renders, the registration, and every refusal with its message.

A change of the chart shows as a change of the golden files: `python -m tests.chart.test_render` writes them anew.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox.injection import registration
from tests.chart.helm import CHART, VALUE_SETS, HelmFailed, helm, kube_version_of, objects, render
from webhook._quantities import parse_quantity
from webhook.controller._settings import add_flags, read_settings

pytestmark = pytest.mark.long

GOLDEN = Path(__file__).parent / "golden"
DEFAULT = next(file for file in VALUE_SETS if file.stem == "default")


def golden_of(values: Path) -> Path:
    return GOLDEN / values.name


def of_kind(found: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    matching = [one for one in found if one["kind"] == kind and name in one["metadata"]["name"]]
    assert len(matching) == 1, [one["metadata"]["name"] for one in matching]
    return matching[0]


@pytest.mark.parametrize("values", VALUE_SETS, ids=lambda file: file.stem)
def test_golden(values: Path) -> None:
    rendered = render(values=[values], kube_version=kube_version_of(values))
    golden = golden_of(values)
    assert rendered == golden.read_text()


@pytest.mark.parametrize("values", VALUE_SETS, ids=lambda file: file.stem)
def test_lint(values: Path) -> None:
    said = helm("lint", "--strict", str(CHART), f"--values={values}")
    assert "0 chart(s) failed" in said


def test_the_registration_is_the_sandboxes() -> None:
    ca = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    url = "https://127.0.0.1:8443/mutate"
    url_set = next(file for file in VALUE_SETS if file.stem == "url")
    rendered = of_kind(objects(render(values=[url_set])), "MutatingWebhookConfiguration")
    rendered["metadata"] = {"name": rendered["metadata"]["name"]}
    assert rendered == registration(url, ca.encode())


def test_by_service_only_the_address_differs() -> None:
    rendered = of_kind(objects(render(values=[DEFAULT])), "MutatingWebhookConfiguration")
    own = registration("", b"")
    assert rendered["webhooks"][0].pop("clientConfig") == {
        "service": {"name": "leader-election-webhook", "namespace": "leader-election", "path": "/mutate", "port": 443}
    }
    del own["webhooks"][0]["clientConfig"]
    assert rendered["webhooks"] == own["webhooks"]


def test_everything_is_confined() -> None:
    """Pod Security `restricted`, no token for the webhook, a read-only root, limits."""
    found = objects(render(values=[DEFAULT]))
    for name in ("webhook", "controller"):
        pod = of_kind(found, "Deployment", name)["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is (name == "controller")
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        container = pod["containers"][0]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert container["readinessProbe"]
        assert container["livenessProbe"]
    bound = [subject["name"] for one in found if "Binding" in one["kind"] for subject in one.get("subjects", [])]
    assert bound == ["leader-election-controller"] * 2


@pytest.mark.parametrize("mode", ["none", "managed"])
def test_rights_name_what_they_are_for(mode: str) -> None:
    """What they cannot name, a policy names."""
    found = objects(render(f"--set=rbac.mode={mode}", values=[DEFAULT]))
    confined = {
        resource
        for one in found
        if one["kind"] == "ValidatingAdmissionPolicy" and "-controller-" in one["metadata"]["name"]
        for rule in one["spec"]["matchConstraints"]["resourceRules"]
        for resource in rule["resources"]
    }
    for kind in ("Role", "ClusterRole"):
        for rule in of_kind(found, kind)["rules"]:
            writes = set(rule["verbs"]) - {"get", "list", "watch"}
            assert rule.get("resourceNames") or not writes or confined >= set(rule["resources"]), rule
            assert mode == "managed" or rule.get("resourceNames") or rule["verbs"] == ["create"], rule
            assert not writes & {"*", "escalate", "bind", "impersonate", "deletecollection"}, rule
            assert "secrets" not in rule["resources"] or rule.get("resourceNames") or rule["verbs"] == ["create"], rule


def test_the_controller_is_there_for_certificates_or_rights() -> None:
    """And its flags are only those that it needs."""
    modes = [("self", "managed"), ("cert-manager", "managed"), ("self", "none"), ("cert-manager", "none")]
    for certificates, rights in modes:
        found = objects(render(f"--set=certificates.mode={certificates}", f"--set=rbac.mode={rights}", values=[DEFAULT]))
        controllers = [one for one in found if one["kind"] == "Deployment" and "controller" in one["metadata"]["name"]]
        assert bool(controllers) == ((certificates, rights) != ("cert-manager", "none"))
        for one in controllers:
            args = one["spec"]["template"]["spec"]["containers"][0]["args"]
            flags = {arg.partition("=")[0] for arg in args}
            assert ("--hosts" in flags) == ("--settle" in flags) == (certificates == "self")
            assert ("--grants" in flags) == ("--grants-grace" in flags) == (rights == "managed")
            # The program takes them.
            parser = argparse.ArgumentParser(exit_on_error=False)
            add_flags(parser)
            read_settings(parser.parse_args([arg.replace("$(POD_NAMESPACE)", "n") for arg in args[1:]]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "image.repository is not set. There is no public image yet: build and push the two images"),
        (["rbac.grace=soon"], r"'/rbac/grace'.*does not match pattern"),
        (["rbac.mode=static"], "rbac.static is empty. List who may stand for election"),
        (["rbac.static[0].namespace=a", "rbac.static[0].serviceAccounts[0]=b"], "rbac.static is set, but rbac.mode is managed"),
        (["certificates.mode=secret"], "certificates.secret.name and certificates.secret.caBundle .* are needed"),
        (["certificates.secret.name=a"], "certificates.secret is set, but certificates.mode is self"),
        (["certificates.certManager.issuerRef.name=a"], "issuerRef is set, but certificates.mode is self"),
        (["certificates.self.caLifetime=721h"], "at least three times certificates.self.certificateLifetime, which is 720h"),
        (["certificates.self.settle=181h"], "at most a quarter of certificates.self.certificateLifetime"),
        (["webhook.hostNetwork=true"], "10250, which is the kubelet's on every node"),
        (["podAnnotations.leader-election/enabled=yes"], "the webhook cannot wait for itself"),
        (["elector.resources.requests.memory=1Gi"], "resources.requests.memory is 1Gi, allowed is at most .*, which is 64Mi"),
        (["elector.resources.requests.cpu=0.3"], "resources.requests.cpu is 0.3, allowed is at most .*, which is 200m"),
        (["elector.resources.limits.memory=33554432"], "resources.requests.memory is 40Mi, .* which is 33554432"),
        (["elector.resources.limits.cpu=0"], "resources.limits.cpu is 0, allowed is a quantity above 0"),
        (["elector.resources.limits.cpu=1.2.3"], r"'/elector/resources/limits/cpu'.*does not match pattern"),
        (["elector.resources.limits.memory=64K"], r"'/elector/resources/limits/memory'.*does not match pattern"),
        (
            [
                "rbac.mode=static",
                *(f"rbac.static[{n}].{of}" for n in (0, 1) for of in ("namespace=shop", "serviceAccounts[0]=b")),
            ],
            "rbac.static lists the namespace shop twice",
        ),
        (["webhook.port=443"], r"'/webhook/port'.*minimum: got 443, want 1,?024"),
        (["commonLabels.team=a b"], r"'/commonLabels/team'.*does not match pattern"),
        (["env[0].name=POD_NAME"], r"'/env/0/name'"),
        (["webhok.replicas=3"], "additional properties 'webhok' not allowed"),
        (["webhook.url=http://10.0.0.1/mutate"], r"'/webhook/url'.*does not match pattern"),
        (["certificates.mode=none"], r"'/certificates/mode'.*must be one of 'self', 'cert-manager', 'secret'"),
        (["webhook.replicas=0"], r"'/webhook/replicas'.*minimum: got 0, want 1"),
        (["elector.sidecar=sometimes"], r"'/elector/sidecar'.*must be one of 'native', 'classic'"),
    ],
)
def test_refused(options: list[str], says: str) -> None:
    values = [] if not options else [DEFAULT]
    with pytest.raises(HelmFailed) as refused:
        render(*[f"--set={option}" for option in options], values=values)
    assert re.search(says, str(refused.value), re.DOTALL), refused.value


def defaults(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value and every group of values with its default."""
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        yield here, value
        if isinstance(value, dict):
            yield from defaults(value, here)


NEEDED = [
    path
    for path, default in defaults(yaml.safe_load((CHART / "values.yaml").read_text()))
    if default not in ("", [], {}) and not re.match(r"(webhook|controller)\.resources\.", path)
]


@pytest.mark.parametrize("path", NEEDED)
def test_a_value_that_is_taken_away_is_missed(path: str) -> None:
    """null takes a default away, as `limits:` with nothing under it does in a file of values."""
    with pytest.raises(HelmFailed) as refused:
        render(f"--set={path}=null", values=[DEFAULT] if path != "image" else [])
    assert f"missing property '{path.rpartition('.')[2]}'" in str(refused.value), refused.value


@pytest.mark.parametrize(
    "options",
    [
        ["elector.resources.requests.cpu=200m"],
        ["elector.resources.requests.memory=67108864"],
        ["elector.resources.limits.memory=0.1Gi"],
        ["elector.resources.limits.cpu=1"],
        ["elector.resources.limits.memory=1G"],
    ],
)
def test_quantities_are_compared_whatever_their_units(options: list[str]) -> None:
    assert render(*[f"--set={option}" for option in options], values=[DEFAULT])


def test_a_large_number_in_yaml_stays_one(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("elector: {resources: {limits: {memory: 67108864}}}\n")
    deployment = of_kind(objects(render(values=[DEFAULT, values])), "Deployment", "webhook")
    (limit,) = [one for one in deployment["spec"]["template"]["spec"]["containers"][0]["args"] if "--memory-limit=" in one]
    assert parse_quantity(limit.partition("=")[2]) == 67108864


def test_any_name_of_a_release_gives_names_that_services_can_have() -> None:
    for release, name in (("a.b", "a-b-leader-election"), ("a" * 53, "a" * 40), ("my-leader-election", "my-leader-election")):
        service = of_kind(objects(render(values=[DEFAULT], release=release)), "Service")
        assert service["metadata"]["name"] == f"{name}-webhook"
    with pytest.raises(HelmFailed, match="would be called 1st-leader-election, but the name of a Service begins with a letter"):
        render(values=[DEFAULT], release="1st")


def test_on_the_hosts_network_a_roll_out_needs_no_node_more() -> None:
    options = ["--set=webhook.hostNetwork=true", "--set=webhook.port=10260"]
    deployment = of_kind(objects(render(*options, values=[DEFAULT])), "Deployment", "webhook")
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


def test_an_old_cluster_is_told_at_render() -> None:
    with pytest.raises(HelmFailed, match=r"needs Kubernetes 1\.30 or newer; this is v1\.29\.0"):
        render(values=[DEFAULT], kube_version="1.29.0")
    for mode in ("none", "static"):
        options = [] if mode == "none" else ["rbac.static[0].namespace=a", "rbac.static[0].serviceAccounts[0]=b"]
        made = render(*[f"--set={one}" for one in [f"rbac.mode={mode}", *options]], values=[DEFAULT], kube_version="1.29.0")
        assert "ValidatingAdmissionPolicy" not in {one["kind"] for one in objects(made)}
    with pytest.raises(HelmFailed, match=r"1\.28"):
        render(values=[DEFAULT], kube_version="1.28.0")


def test_notes_name_the_users_own_things(tmp_path: Path) -> None:
    values = next(file for file in VALUE_SETS if file.stem == "cert-manager-issuer")
    options = ["--dry-run=client", "--namespace=ours", f"--values={values}", "--set=webhook.replicas=1"]
    notes = helm("install", "mine", str(CHART), *options, home=tmp_path).partition("NOTES:")[2]
    assert "kubectl --namespace ours rollout status deployment/mine-leader-election-webhook" in notes
    assert "shop: default, orders" in notes
    assert "There is one webhook pod only" in notes
    assert "helm --namespace ours test mine" in notes


@pytest.mark.parametrize("mode", ["managed", "none"])
def test_notes_say_what_to_do_about_rights(tmp_path: Path, mode: str) -> None:
    options = ["--dry-run=client", f"--values={DEFAULT}", f"--set=rbac.mode={mode}"]
    notes = helm("install", "mine", str(CHART), *options, home=tmp_path).partition("NOTES:")[2]
    if mode == "managed":
        assert "There is nothing to do about rights" in notes
        assert "kubectl --namespace NAMESPACE label endpoints ELECTION leader-election/lock=true" in notes
    else:
        assert "--verb=get,list,watch,create,update --resource=endpoints" in notes
        assert "leader-election check --namespace NAMESPACE deployment/NAME" in notes


if __name__ == "__main__":
    for each in VALUE_SETS:
        golden_of(each).write_text(render(values=[each], kube_version=kube_version_of(each)))
