"""What of a node can be judged without one."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from sandbox import SandboxError, _cgroups, _folders, _images, _packages
from sandbox._keeper_client import KeeperClient
from sandbox._loading import commands, load_into
from sandbox._pause import write_pause_image
from sandbox._recipes import NODE


def test_the_pause_image_is_what_it_says(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"a program")
    with tarfile.open(write_pause_image(program, "localhost/pause:1", tmp_path / "pause.tar")) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    (manifest,) = json.loads(files["manifest.json"])
    assert manifest["RepoTags"] == ["localhost/pause:1"]
    config = json.loads(files[manifest["Config"]])
    (layer,) = (files[name] for name in manifest["Layers"])
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as inside:
        entry = inside.getmember(config["config"]["Entrypoint"][0].lstrip("/"))
        assert entry.mode & 0o111
        assert inside.extractfile(entry).read() == b"a program"  # type: ignore[union-attr]


def hierarchy(root: Path, **files: str) -> Path:
    root.mkdir()
    for name, content in {"cgroup.procs": "", **{name.replace("__", "."): content for name, content in files.items()}}.items():
        (root / name).write_text(content)
    return root


def test_groups_are_made_in_every_hierarchy_of_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cgroups, "_ROOT", tmp_path)
    memory = hierarchy(tmp_path / "memory")
    processors = hierarchy(tmp_path / "cpuset", cpuset__cpus="0-1\n", cpuset__mems="0\n")
    (tmp_path / "cpu").symlink_to(memory)
    _cgroups.make("mine")
    assert (memory / "mine").is_dir()
    assert [(processors / "mine" / file).read_text() for file in ("cpuset.cpus", "cpuset.mems")] == ["0-1\n", "0\n"]


def test_a_group_of_version_2_passes_its_controllers_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = hierarchy(tmp_path / "top", cgroup__controllers="cpu io memory pids\n")
    monkeypatch.setattr(_cgroups, "_ROOT", top)
    _cgroups.make("mine")
    for group in (top, top / "mine"):
        assert (group / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"


def test_groups_are_named_after_the_whole_path_of_the_folder() -> None:
    assert _cgroups.name_of(Path("/a/run-1")) != _cgroups.name_of(Path("/b/run-1"))


def test_removing_groups_where_there_are_none_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cgroups, "_ROOT", tmp_path / "nothing")
    _cgroups.remove("mine")


@pytest.mark.parametrize("variable", ["PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_ca_bundle_of_the_environment_is_handed_to_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for other in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(other, raising=False)
    assert _images._ca() == []
    monkeypatch.setenv(variable, str(tmp_path / "missing.pem"))
    assert _images._ca() == []
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    monkeypatch.setenv(variable, str(bundle))
    assert _images._ca() == ["--secret", f"id=ca,src={bundle}"]


def test_an_image_is_built_anew_when_something_in_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_images, "_ROOT", tmp_path)
    (tmp_path / "elector" / "__pycache__").mkdir(parents=True)
    source = tmp_path / "elector" / "a.py"
    source.write_text("1")
    first = _images._hash_of(["elector"])
    (tmp_path / "elector" / "__pycache__" / "a.pyc").write_text("compiled")
    assert _images._hash_of(["elector"]) == first
    source.write_text("2")
    assert _images._hash_of(["elector"]) != first


def test_further_names_are_given_to_the_first_one() -> None:
    assert commands(["ctr"], Path("a.tar"), ["one", "two"])[1:] == [["ctr", "images", "tag", "--force", "one", "two"]]
    assert len(commands(["ctr"], Path("a.tar"), [])) == 1


def test_no_images_into_what_has_no_node(tmp_path: Path) -> None:
    state = tmp_path / "mine" / "sandbox.json"
    state.parent.mkdir()
    state.write_text("{}")
    with pytest.raises(SandboxError, match="'mine' has no node"):
        load_into(state, tmp_path / "a.tar")


def test_a_nodes_programs_are_a_control_planes_and_more() -> None:
    names = [recipe.name for recipe in NODE]
    assert len(names) == len(set(names))
    assert {"etcd", "kubelet", "containerd", "containerd-shim-runc-v2", "ctr", "pause", "kubectl"} <= set(names)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can")
def test_who_may_not_make_namespaces_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_folders, "root", lambda: tmp_path / "sandboxes")
    folder, lock = _folders.create("one")
    (folder / "logs").mkdir()
    keeper = KeeperClient(folder, lock)
    try:
        with pytest.raises(SandboxError, match="isolate"):
            keeper.isolate()
    finally:
        keeper.close()


FAKE_APT = """#!/bin/sh
echo "$@" >> {said}
case "$*" in
    *install*) printf '#!/bin/sh\n' > {tools}/runc; chmod +x {tools}/runc;;
esac
exit {code}
"""


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stand-in for `apt-get`, whose arguments are then in the file `said`, among the few programs there are."""
    (tmp_path / "apt-get").write_text(FAKE_APT.format(said=tmp_path / "said", tools=tmp_path, code=0))
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setattr(_packages, "search_path", lambda: f"{tmp_path}:/bin")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def test_root_gets_what_is_missing_installed(apt: Path) -> None:
    needed = {f"{apt}/runc": "runc", "sh": "dash"}
    _packages.ensure(needed, "a node")
    update, install = (apt / "said").read_text().splitlines()
    assert update == "update"
    assert install.endswith("--no-install-recommends install runc")
    _packages.ensure(needed, "a node")
    assert (apt / "said").read_text().count("install") == 2, "nothing is installed twice"


def test_what_cannot_be_installed_is_named(apt: Path) -> None:
    (apt / "apt-get").write_text(FAKE_APT.format(said=apt / "said", tools=apt, code=100))
    with pytest.raises(SandboxError, match=r"^a node needs runc, which could not be installed"):
        _packages.ensure({f"{apt}/runc": "runc"}, "a node")


def test_a_package_that_does_not_bring_it_is_named(apt: Path) -> None:
    with pytest.raises(SandboxError, match=rf"^a node needs {apt}/other, which other did not bring"):
        _packages.ensure({f"{apt}/other": "other"}, "a node")
