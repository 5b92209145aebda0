"""The schema of annotations, and the messages for wrong ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jsonpatch
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elector._settings import parse_settings
from tests.unit.webhook.pods import SETTINGS, admit, elector, operations, owner, pod, refuse, respond, review
from webhook._annotations import ROWS, Annotations, parse


def test_defaults() -> None:
    asked, problems = parse({"leader-election/enabled": "true", "other/ttl": "nonsense"})
    assert asked == Annotations(enabled=True)
    assert (asked.name, asked.lock, asked.ttl, asked.port, asked.listen) == (None, "endpoints", 10, 4040, "localhost")
    assert problems == {}


def test_every_row_is_described() -> None:
    for row in ROWS:
        assert row.key.startswith("leader-election/")
        assert all((row.means, row.allowed, row.default))


@pytest.mark.parametrize(
    ("key", "value", "argument"),
    [
        ("name", "orders.leader", "--election=orders.leader"),
        ("name", "a" * 253, "--election=" + "a" * 253),
        ("ttl", "1s", "--ttl=1s"),
        ("ttl", "1m30s", "--ttl=90s"),
        ("ttl", "10m", "--ttl=600s"),
        ("port", "1024", "--http=localhost:1024"),
        ("port", "1024", "--status-http=:1025"),
        ("port", "65534", "--status-http=:65535"),
        ("listen", "localhost", "--http=localhost:4040"),
        ("listen", "all", "--http=:4040"),
        ("lock", "leases", "--lock=leases"),
        ("lock", "endpointsleases", "--lock=endpointsleases"),
        ("health", "http://localhost:8080/ready?a=b", "--health-url=http://localhost:8080/ready?a=b"),
        ("health", "http://[::1]:8080", "--health-url=http://[::1]:8080"),
        ("health", "http://127.0.0.1/$(POD_UID)", "--health-url=http://127.0.0.1/$$(POD_UID)"),
        ("log-level", "debug", "--log-level=debug"),
        ("sidecar", "native", "--sidecar=native"),
        ("sidecar", "classic", "--sidecar=classic"),
        ("sidecar", "classic", "--drain=28s"),
    ],
)
def test_a_value_reaches_the_elector(key: str, value: str, argument: str) -> None:
    assert argument in elector(admit(pod(annotations={key: value})))["args"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("enabled", "yes"),
        ("enabled", "True"),
        ("enabled", ""),
        ("name", ""),
        ("name", "Web"),
        ("name", "a/b"),
        ("name", "$(POD_NAME)"),
        ("name", "a" * 254),
        ("ttl", ""),
        ("ttl", "10"),
        ("ttl", "0s"),
        ("ttl", "500ms"),
        ("ttl", "1.5s"),
        ("ttl", "601s"),
        ("ttl", "-10s"),
        ("port", "0"),
        ("port", "1023"),
        ("port", "65535"),
        ("port", "4040 "),
        ("port", "+4040"),
        ("port", "4_040"),
        ("port", "\u0664\u0660\u0664\u0660"),
        ("port", "9" * 5000),
        ("listen", "0.0.0.0"),
        ("lock", "configmaps"),
        ("sidecar", "Native"),
        ("health", "8080"),
        ("health", "https://localhost/"),
        ("health", "http://example.com/"),
        ("health", "http://localhost.example.com/"),
        ("health", "http://u@localhost/"),
        ("health", "http://localhost:0/"),
        ("health", "http://localhost:99999/"),
        ("health", "http://[::1/"),
        ("health", "http://localhost/a b"),
        ("health", "http://localhost/#a"),
        ("health", "http://localhost?a=b"),
        ("health", "http://localhost:/"),
        ("health", "http://LOCALHOST:8080/"),
        ("health", "HTTP://localhost:8080/"),
        ("drain", "-1s"),
        ("drain", "1500ms"),
        ("drain", "25h"),
        ("image", ""),
        ("image", "a b"),
        ("image", "a" * 2049),
        ("cpu-request", "0"),
        ("cpu-limit", "-1"),
        ("memory-request", "64MiB"),
        ("memory-limit", "much"),
        ("log-level", "trace"),
    ],
)
def test_a_wrong_value_is_denied_with_what_is_allowed(key: str, value: str) -> None:
    message = refuse(pod(annotations={key: value}))
    (row,) = [row for row in ROWS if row.key == f"leader-election/{key}"]
    assert message.startswith(f"annotation leader-election/{key} is ")
    assert value[:64] in message
    assert message.endswith(f", allowed is {row.allowed}")
    assert len(message) < 300


@given(
    key=st.sampled_from([row.key.removeprefix("leader-election/") for row in ROWS if not row.key.endswith("/enabled")]),
    value=st.text("019.-smhnuaAz+_$()/:", max_size=8)
    | st.from_regex(r"(http|HTTP)://(localhost|LocalHost|127\.0\.0\.1|\[::1\])(:[0-9]{0,5})?[/?#]?[ -~]{0,5}", fullmatch=True),
    sidecar=st.sampled_from(["native", "classic"]),
)
@settings(max_examples=500, deadline=None)
def test_the_elector_takes_whatever_is_not_denied(key: str, value: str, sidecar: Any) -> None:
    response, _ = respond(review(of := pod(annotations={"sidecar": sidecar, key: value})))
    if response["allowed"]:
        args = elector(jsonpatch.apply_patch(of, operations(response)))["args"]
        # As the kubelet substitutes them.
        for name, text in (("POD_NAME", "web-0"), ("POD_NAMESPACE", "shop"), ("POD_UID", "uid")):
            args = [arg.replace(f"$({name})", text) for arg in args]
        parse_settings([arg.replace("$$", "$") for arg in args], {}, "test")


def test_every_wrong_annotation_is_named_at_once() -> None:
    message = refuse(pod(annotations={"enabled": "on", "name": "A", "ttl": "5", "port": "80"}))
    assert message == (
        'annotation leader-election/enabled is "on", allowed is "true" or "false"; '
        'annotation leader-election/name is "A", allowed is '
        "a DNS subdomain (lower-case letters, digits, - and .) of at most 253 characters; "
        'annotation leader-election/ttl is "5", allowed is a Go duration in whole seconds from 1s to 10m; '
        'annotation leader-election/port is "80", allowed is a number from 1024 to 65534'
    )


def test_the_image_of_the_pod_wins() -> None:
    assert elector(admit(pod(annotations={"image": "mirror.example/e@sha256:0a"})))["image"] == "mirror.example/e@sha256:0a"


def test_the_sidecar_of_the_pod_wins() -> None:
    admitted = admit(pod(annotations={"sidecar": "native"}), replace(SETTINGS, sidecar="classic"))
    assert [c["name"] for c in admitted["spec"]["initContainers"]] == ["leader-elector"]


@pytest.mark.parametrize(
    ("annotations", "grace", "argument"),
    [
        ({}, 60, "--drain=58s"),
        ({}, 1, "--drain=0s"),
        ({}, None, "--drain=28s"),
        ({"drain": "0s"}, 30, "--drain=0s"),
        ({"drain": "1m"}, 90, "--drain=60s"),
    ],
)
def test_a_classic_sidecar_drains_within_the_grace_period(annotations: dict[str, str], grace: int | None, argument: str) -> None:
    made = pod(annotations={"sidecar": "classic", **annotations}, terminationGracePeriodSeconds=grace)
    assert argument in elector(admit(made))["args"]


def test_a_native_sidecar_does_not_drain() -> None:
    assert not [a for a in elector(admit(pod(annotations={"drain": "5s"})))["args"] if a.startswith("--drain")]


def warnings(of: dict[str, Any]) -> list[str]:
    response, _ = respond(review(of))
    found: list[str] = response.get("warnings", [])
    return found


@pytest.mark.parametrize(
    ("key", "warning"),
    [
        ("tll", "annotation leader-election/tll is unknown, did you mean leader-election/ttl?"),
        ("Port", "annotation leader-election/Port is unknown, did you mean leader-election/port?"),
        ("memory-limits", "annotation leader-election/memory-limits is unknown, did you mean leader-election/memory-limit?"),
        ("zebra-crossing", "annotation leader-election/zebra-crossing is unknown"),
    ],
)
def test_an_unknown_annotation_is_a_warning(key: str, warning: str) -> None:
    assert warnings(pod(annotations={key: "x"})) == [warning]
    assert warnings(pod(annotations={key: "x", "ttl": "wrong"})) == [warning]


def test_our_own_report_and_other_prefixes_are_no_warning() -> None:
    made = pod(annotations={"injected": "native"})
    made["metadata"]["annotations"]["leader-election.example/tll"] = "x"
    assert warnings(made) == []


def test_a_warning_is_short() -> None:
    (warning,) = warnings(pod(annotations={"x" * 200: "x"}))
    assert len(warning) == 120


@pytest.mark.parametrize(
    ("annotations", "warning"),
    [
        ({"drain": "5s"}, "annotation leader-election/drain has no effect on a native sidecar"),
        ({"memory-limit": "64m"}, "annotation leader-election/memory-limit is 64m: below 32Mi the elector may be killed"),
        (
            {"drain": "30s", "sidecar": "classic"},
            "annotation leader-election/drain leaves less than 2 s of the grace period of 30 s",
        ),
    ],
)
def test_what_is_hardly_meant_is_a_warning(annotations: dict[str, str], warning: str) -> None:
    assert warnings(pod(annotations=annotations)) == [warning]


def test_enough_memory_is_no_warning() -> None:
    assert warnings(pod(annotations={"memory-limit": "32Mi"})) == []


def test_a_job_with_a_classic_sidecar_is_a_warning() -> None:
    job = pod(annotations={"name": "import", "sidecar": "classic"})
    job["metadata"]["ownerReferences"] = [owner("Job", "import-28", "batch/v1")]
    assert warnings(job) == ["a Job with a classic sidecar never completes: set the annotation leader-election/sidecar to native"]
    job["metadata"]["annotations"]["leader-election/sidecar"] = "native"
    assert warnings(job) == []


def test_what_else_is_wrong_with_the_pod_is_named_too() -> None:
    bare = pod(annotations={"ttl": "5"}, volumes=[{"name": "leader-elector", "emptyDir": {}}])
    del bare["metadata"]["ownerReferences"]
    message = refuse(bare)
    assert "leader-election/ttl" in message
    assert "set the annotation leader-election/name" in message
    assert 'a volume named "leader-elector"' in message
