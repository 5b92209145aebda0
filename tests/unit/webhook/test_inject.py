"""`leader-election inject`: the patch on manifests."""

from __future__ import annotations

import copy
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import IO, Any

import jsonpatch
import pytest
import yaml
from ruamel.yaml import YAML

from tests.unit.webhook.conftest import PATIENCE, command, environment
from tests.unit.webhook.pods import SETTINGS, operations, owner, respond, review
from webhook.__main__ import main
from webhook._inject import inject

ON = {"leader-election/enabled": "true"}
NAMED = {**ON, "leader-election/name": "jobs"}


def template(annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"app": "web"}, "annotations": annotations or ON},
        "spec": {"containers": [{"name": "web", "image": "nginx"}], **spec},
    }


def workload(kind: str, version: str, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = {"template": template(annotations)}
    if kind == "CronJob":
        spec = {"schedule": "@daily", "jobTemplate": {"spec": spec}}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "web"}, "spec": spec}


def pod_of(document: dict[str, Any]) -> dict[str, Any]:
    found = document["spec"]
    return dict(found.get("jobTemplate", {"spec": found})["spec"]["template"])


def injected(text: str) -> str:
    """The injected text; injecting it again changes nothing."""
    result = inject(text, SETTINGS)
    assert result.problems == []
    again = inject(result.text, SETTINGS)
    assert (again.text, again.notes, again.problems) == (result.text, [], [])
    return result.text


WORKLOADS = [
    ("Deployment", "apps/v1", ON, owner(), "web.leader"),
    ("StatefulSet", "apps/v1", ON, owner("StatefulSet", "web"), "web.leader"),
    ("DaemonSet", "apps/v1", ON, owner("DaemonSet", "web"), "web.leader"),
    ("ReplicaSet", "apps/v1", NAMED, owner("ReplicaSet", "web"), "jobs"),
    ("ReplicationController", "v1", NAMED, owner("ReplicationController", "web", "v1"), "jobs"),
    ("Job", "batch/v1", NAMED, owner("Job", "web", "batch/v1"), "jobs"),
    ("CronJob", "batch/v1", NAMED, owner("Job", "web-1", "batch/v1"), "jobs"),
    ("Rollout", "argoproj.io/v1alpha1", ON, owner(), "web.leader"),
    ("Service", "serving.knative.dev/v1", NAMED, owner(), "jobs"),
]


@pytest.mark.parametrize(("kind", "version", "annotations", "its_owner", "name"), WORKLOADS)
def test_every_kind_gets_what_the_webhook_would_add(
    kind: str, version: str, annotations: dict[str, str], its_owner: dict[str, Any], name: str
) -> None:
    document = workload(kind, version, annotations)
    found = pod_of(yaml.safe_load(injected(yaml.safe_dump(document))))
    # What the webhook makes of the pod that such a workload creates.
    admitted = template(annotations)
    admitted["metadata"]["ownerReferences"] = [its_owner]
    admitted["metadata"]["labels"]["pod-template-hash"] = "5c689d88bb"
    response, decision = respond(review(admitted))
    expected: dict[str, Any] = jsonpatch.apply_patch(copy.deepcopy(admitted), operations(response))
    del expected["metadata"]["ownerReferences"], expected["metadata"]["labels"]["pod-template-hash"]
    assert found == expected
    assert decision.election == name


def test_a_pod_a_pod_template_and_a_list() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", **template(NAMED)}
    pod_template = {"apiVersion": "v1", "kind": "PodTemplate", "template": template(NAMED)}
    documents = {"kind": "List", "items": [pod, pod_template, {"kind": "PodList", "items": [pod]}, workload("Job", "batch/v1")]}
    documents["items"][3]["spec"]["template"] = template(NAMED)  # type: ignore[index]
    text = injected(yaml.safe_dump(documents))
    assert text.count("name: leader-elector\n") == 3 * 4  # container, volume and mount
    # Two of the pods were one and the same, by an anchor and an alias.
    added = yaml.safe_load(text)["items"]
    assert added[0] == added[2]["items"][0]


def test_json_stays_json() -> None:
    text = json.dumps(workload("Deployment", "apps/v1"))
    assert json.loads(injected(text))["spec"]["template"]["spec"]["initContainers"][0]["name"] == "leader-elector"


COMMENTED = """\
# the service
apiVersion: v1
kind: Service
metadata:   {name: web}
--- # the deployment
apiVersion: apps/v1   # version
kind: Deployment
metadata:
    name: 'web'
spec:
    template:
        metadata:
            annotations:
                leader-election/enabled: "true"  # please
                leader-election/name: on
        spec:
            # the containers
            containers:
              - name: web  # first
                args: [ "a",   'b' ]
              # second
              - image: "x"
                # between
                name: other
            restartPolicy: Always
# the end
---
kind: ConfigMap
data:
   text: |
      --- no document
...
"""


def test_comments_order_and_quotes_stay() -> None:
    text = injected(COMMENTED)
    before, between, after = COMMENTED.split("---", 1)[0], text.split("--- #")[1], COMMENTED[COMMENTED.index("---\nkind") :]
    assert text.startswith(before)
    assert text.endswith(after)
    lines = between.splitlines()
    # Every line is still there, as it was but for blanks within brackets, and in the same order.
    at = 0
    for line in COMMENTED[COMMENTED.index("apiVersion: apps") : COMMENTED.index("---\nkind")].splitlines():
        wanted = line.replace("[ \"a\",   'b' ]", "[\"a\", 'b']")
        assert wanted in lines[at:], wanted
        at = lines.index(wanted, at) + 1
    # `on` is a text here, and has to be one for those who read YAML 1.1, too.
    assert 'value: "on"' in text


def test_carriage_returns_stay() -> None:
    text = inject(COMMENTED.replace("\n", "\r\n"), SETTINGS).text
    assert "leader-elector" in text
    assert text.replace("\r\n", "").count("\n") == 0


SHARED = """\
kind: Pod
metadata:
  name: web
  labels: &labels {app: web}
  annotations: {leader-election/enabled: "true", leader-election/name: web}
spec:
  nodeSelector: *labels
  containers:
  - &base
    name: a
    env: &env
    # shared
    - name: A
      value: a
  - name: b
    env: *env
  - <<: *base
    name: c
"""


def test_what_anchors_share_is_added_once_to_each() -> None:
    before = json.loads(json.dumps(yaml.safe_load(SHARED)))  # as the API server gets it, nothing shared
    after = yaml.safe_load(injected(SHARED))
    assert after["spec"]["nodeSelector"] == {"app": "web"}
    names = [[variable["name"] for variable in container["env"]] for container in after["spec"]["containers"]]
    assert names == [["LEADER_ELECTION_URL", "LEADER_ELECTION_NAME", "LEADER_ELECTION_ID", "A"]] * 3
    response, _ = respond(review(before))
    assert after == jsonpatch.apply_patch(before, operations(response))


GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("patch", sorted(GOLDEN.glob("*.patch.json")), ids=lambda path: path.name.partition(".")[0])
def test_a_golden_pod_gets_its_golden_patch(patch: Path) -> None:
    pod = json.loads(patch.with_name(patch.name.replace(".patch.", ".pod.")).read_text())
    # Only a whole manifest says that it is one.
    pod["kind"] = "Pod"
    out = io.StringIO()
    YAML().dump(pod, out)
    assert yaml.safe_load(injected(out.getvalue())) == jsonpatch.apply_patch(pod, json.loads(patch.read_text()))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "---\n---\n",
        "kind: ConfigMap\ndata:   {a: b}\n",
        "- a\n- b\n",
        "text",
        "{}",
        yaml.safe_dump(workload("Deployment", "apps/v1", {"leader-election/enabled": "false"})),
        "kind: Deployment\nspec:\n  template: text\n",
        "kind: List\nitems:\n",
        "%YAML 1.1\n---\nkind: Service\n",
    ],
)
def test_anything_else_stays_as_it_is(text: str) -> None:
    result = inject(text, SETTINGS)
    assert (result.text, result.problems) == (text, [])


@pytest.mark.parametrize("denied", sorted(GOLDEN.glob("*.denied.txt")), ids=lambda path: path.name.partition(".")[0])
def test_a_golden_pod_is_denied_with_its_message(denied: Path) -> None:
    pod = json.loads(denied.with_name(denied.name.replace(".denied.txt", ".pod.json")).read_text())
    result = inject(json.dumps({**pod, "kind": "Pod"}), SETTINGS)
    assert result.problems == [f"Pod/{pod['metadata'].get('generateName', '')}: {denied.read_text().strip()}"]


def denial(document: dict[str, Any]) -> str:
    result = inject(yaml.safe_dump(document), SETTINGS)
    (problem,) = result.problems
    return problem


def test_what_the_webhook_would_deny_has_the_same_message() -> None:
    annotations = {**ON, "leader-election/ttl": "5", "leader-election/port": "x"}
    admitted = template(annotations)
    admitted["metadata"].update(ownerReferences=[owner()])
    admitted["metadata"]["labels"]["pod-template-hash"] = "5c689d88bb"
    _, decision = respond(review(admitted))
    assert denial(workload("Deployment", "apps/v1", annotations)) == f"Deployment/web: {decision.reason}"
    assert "set the annotation leader-election/name" in denial(workload("CronJob", "batch/v1"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "not YAML: line 1, column 5: expected the node content, but found '<stream end>'"),
        ("a: secret\na: secret\n", 'not YAML: line 2, column 1: found duplicate key "a"'),
        ("a: 1\n---\n# a comment\nb: 1\n\tc: 2\n", "not YAML: line 5, column 1: found character '\\t'"),
        ("a: 1\n--- # a comment\nb: 1\n c: 2\n", "not YAML: line 4, column 3: mapping values are not allowed here"),
        ("[" * 5000, "not YAML: "),
        ("kind: List\nitems: 1\n", "items is not a list"),
        (
            "{kind: Pod, metadata: {annotations: {leader-election/enabled: true}}, spec: {containers: []}}",
            'Pod/: metadata.annotations: "leader-election/enabled" has a value that is not a string: put it in quotes',
        ),
    ],
)
def test_what_cannot_be_read_is_said(text: str, problem: str) -> None:
    result = inject(text, SETTINGS)
    (found,) = result.problems
    assert found.startswith(problem)
    assert found.isprintable()
    assert "secret" not in found
    assert result.text == text


@pytest.mark.parametrize("where", [("Deployment", ()), ("CronJob", ()), ("CronJob", ("spec", "jobTemplate"))])
def test_an_annotation_beside_the_template_is_a_warning(where: tuple[str, tuple[str, ...]]) -> None:
    kind, way = where
    document = workload(kind, "apps/v1", {"a": "b"})
    beside = document
    for step in way:
        beside = beside[step]
    beside.setdefault("metadata", {})["annotations"] = ON
    result = inject(yaml.safe_dump(document), SETTINGS)
    assert result.warnings == [
        f"{kind}/web: annotation leader-election/enabled is on the workload, but belongs into its pod template"
    ]


# -- the command -------------------------------------------------------------------------------------------------------

GOOD = yaml.safe_dump(workload("Deployment", "apps/v1"))
BAD = yaml.safe_dump(workload("Deployment", "apps/v1", {**ON, "leader-election/ttl": "5"}))
OTHER = "kind:   ConfigMap\n"


def run(*arguments: str) -> int:
    return main(["inject", "--image=registry.example/leader-elector:1", *arguments])


def test_files_and_standard_input_become_one_stream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text(OTHER.rstrip())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(GOOD.encode())))
    assert run("-f", str(tmp_path / "a.yaml"), "-f", "-") == 0
    out, err = capsys.readouterr()
    assert out == f"{OTHER}---\n{injected(GOOD)}"
    assert err == "leader-election: stdin: Deployment/web: injected, election web.leader\n"


def test_a_directory_is_written_in_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    below = tmp_path / "below"
    below.mkdir()
    files = {"b.yaml": GOOD, "below/a.yml": GOOD, "other.yaml": OTHER, "text.txt": GOOD, ".hidden.yaml": GOOD}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "b.yaml").chmod(0o640)
    (tmp_path / "link.yaml").symlink_to("b.yaml")
    untouched = (tmp_path / "other.yaml").stat()
    assert run("-i", "-f", str(tmp_path)) == 0
    for name in ("b.yaml", "below/a.yml"):
        assert (tmp_path / name).read_text() == injected(GOOD)
    assert (tmp_path / "text.txt").read_text() == (tmp_path / ".hidden.yaml").read_text() == GOOD
    assert (tmp_path / "other.yaml").stat() == untouched
    assert (tmp_path / "b.yaml").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "link.yaml").is_symlink()
    assert len(list(tmp_path.iterdir())) == 6
    out, err = capsys.readouterr()
    assert (out, err.count("injected, election web.leader")) == ("", 3)


def test_a_denied_pod_ends_it_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text(BAD)
    for flags in ([], ["-i"]):
        assert run(*flags, "-f", str(tmp_path)) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert f'{tmp_path / "b.yaml"}: Deployment/web: annotation leader-election/ttl is "5", allowed is a Go duration' in err
    assert (tmp_path / "a.yaml").read_text() == GOOD


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(GOOD)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert run("-i", "-f", str(file)) == 1
    assert capsys.readouterr().err.endswith(f"cannot write {file}: No space left on device\n")
    assert file.read_text() == GOOD
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_no_file_or_no_text_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-f", str(tmp_path / "none.yaml")) == 1
    assert capsys.readouterr().err == f"leader-election: cannot read {tmp_path / 'none.yaml'}: No such file or directory\n"
    (tmp_path / "a.txt").write_text(GOOD)
    assert run("-f", str(tmp_path)) == 1
    assert capsys.readouterr().err == f"leader-election: {tmp_path} holds no files that end in .yaml, .yml, .json\n"
    (tmp_path / "a.yaml").write_bytes(b"\xff")
    assert run("-f", str(tmp_path)) == 1
    assert f"{tmp_path / 'a.yaml'} is not UTF-8: invalid start byte at byte 0" in capsys.readouterr().err


def test_a_reader_that_has_left_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD + "# " + "x" * 1_000_000 + "\n")
    arguments = command("inject", "--image=e", "-f", str(tmp_path))
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == f"leader-election: {tmp_path / 'a.yaml'}: Deployment/web: injected, election web.leader\n"
        assert process.wait(PATIENCE) == 1


def _unread(pipe: IO[bytes]) -> int:
    answer = fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4)
    return int.from_bytes(answer, sys.byteorder)


def _sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_an_interrupt_is_no_traceback() -> None:
    arguments = command("inject", "--image=e", "-f", "-")
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment()
    ) as process:
        # It reads until the end, which does not come. An interrupt between two reads is noticed after the second only.
        assert process.stdin is not None
        process.stdin.write(b"#")
        process.stdin.flush()
        deadline = time.monotonic() + PATIENCE
        while _unread(process.stdin) or not _sleeps(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        # One that comes just before it waits for more would be seen after that only.
        process.stdin.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 130


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "-f/--filename"),
        (["-i", "-f", "-"], "--in-place writes files, and - is none"),
        (["-f", "-", "--sidecar=both"], '--sidecar is "both"'),
    ],
)
def test_a_wrong_flag_is_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
