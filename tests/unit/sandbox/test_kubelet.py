from pathlib import Path
from typing import Any

import pytest

from sandbox import SandboxError
from sandbox.kubelet import SERVICE_ACCOUNT_VARIABLE, expand, field_of, prepare

POD: dict[str, Any] = {
    "metadata": {
        "name": "worker-1",
        "namespace": "apps",
        "uid": "u-1",
        "labels": {"app": "worker"},
        "annotations": {"leader-election/name": "x"},
    },
    "spec": {
        "serviceAccountName": "runner",
        "initContainers": [
            {
                "name": "elector",
                "args": ["--id=$(POD)", "--election=$(GREETING)", "--unknown=$(NOPE)", "--api=$(KUBERNETES_SERVICE_HOST)"],
                "env": [
                    {"name": "EARLY", "value": "$(LATE)"},
                    {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "GREETING", "value": "hello $(POD) at $(KUBERNETES_SERVICE_PORT)"},
                    {"name": "LATE", "value": "late"},
                    {"name": "EMPTY"},
                ],
            }
        ],
        "containers": [{"name": "app"}],
    },
}


class FakeSandbox:
    """Issues tokens that tell what they were asked for."""

    url = "https://127.0.0.1:6443"

    def __init__(self, folder: Path) -> None:
        self.ca_file = folder / "ca.crt"
        self.ca_file.write_text("CA")
        self.issued = 0

    def service_account_token(self, namespace: str, name: str, *, pod: str, pod_uid: str, seconds: int) -> str:
        self.issued += 1
        return f"{namespace}/{name}/{pod}/{pod_uid}/{seconds}/{self.issued}"


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)z", "x1y2z"),
        ("$(NOPE)", "$(NOPE)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$(A)", "$$(A)"),
        ("$A ${A}", "$A ${A}"),
        ("$(A", "$(A"),
        ("a$", "a$"),
        ("$$", "$"),
        ("$(A$(B))", "$(A$(B))"),
        ("$(NESTED)", "$(A)"),
        ("$()", "$()"),
    ],
)
def test_references_expand_by_kubernetes_rules(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1", "B": "2", "NESTED": "$(A)"}) == expanded


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "worker-1"),
        ("metadata.namespace", "apps"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['app']", "worker"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['leader-election/name']", "x"),
        ("spec.serviceAccountName", "runner"),
        ("spec.nodeName", ""),
        ("status.podIP", "127.0.0.1"),
    ],
)
def test_downward_fields(path: str, value: str) -> None:
    assert field_of(POD, path) == value


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(SandboxError, match=r"status\.hostIP"):
        field_of(POD, "status.hostIP")


def test_a_container_gets_its_arguments_and_environment_and_nothing_else(tmp_path: Path) -> None:
    prepared = prepare(FakeSandbox(tmp_path), POD, "elector", tmp_path)  # type: ignore[arg-type]

    assert prepared.args == ["--id=worker-1", "--election=hello worker-1 at 6443", "--unknown=$(NOPE)", "--api=127.0.0.1"]
    assert prepared.env == {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": "6443",
        "EARLY": "$(LATE)",
        "POD": "worker-1",
        "GREETING": "hello worker-1 at 6443",
        "LATE": "late",
        "EMPTY": "",
        SERVICE_ACCOUNT_VARIABLE: str(prepared.service_account_folder),
    }


def test_the_token_folder_is_laid_out_and_renewed_as_a_projected_volume(tmp_path: Path) -> None:
    prepared = prepare(FakeSandbox(tmp_path), POD, "elector", tmp_path, token_seconds=600)  # type: ignore[arg-type]
    folder = prepared.service_account_folder
    first = (folder / "..data").readlink()
    assert (folder / "token").read_text() == "apps/runner/worker-1/u-1/600/1"

    assert prepared.refresh_token() == "apps/runner/worker-1/u-1/600/2"

    assert (folder / "..data").readlink() != first
    assert {name: (folder / name).read_text() for name in ("token", "ca.crt", "namespace")} == {
        "token": "apps/runner/worker-1/u-1/600/2",
        "ca.crt": "CA",
        "namespace": "apps",
    }
    assert len([entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink()]) == 1, "the old one is gone"


def test_an_unknown_container_is_answered_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="elector, app"):
        prepare(FakeSandbox(tmp_path), POD, "other", tmp_path)  # type: ignore[arg-type]
