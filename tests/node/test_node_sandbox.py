"""The node itself: what the command line says of it, and that nothing of it is left, whatever it ends of."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox import SandboxError, _cgroups, _packages
from sandbox._images import REPOSITORY, TAG
from sandbox._namespaces import _KERNEL_SETTINGS
from tests.api.electors import ROOT
from tests.node.cluster import Cluster
from tests.waiting import until

PLACES = ("/run", "/var/lib", "/var/log", "/opt", "/etc/cni", "/var/run/netns", "/run/netns")
"""Where a node's programs leave things on a machine that has no namespaces for them."""


@dataclass(frozen=True)
class Machine:
    """What of this machine a node could change."""

    interfaces: set[str]
    mounts: set[str]
    cgroups: set[str]
    settings: dict[str, str]
    places: set[str]

    @classmethod
    def now(cls) -> Machine:
        return cls(
            interfaces={interface.name for interface in Path("/sys/class/net").iterdir()},
            mounts={line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()},
            cgroups={str(group) for group in Path("/sys/fs/cgroup").glob("**/leader-election-*")},
            settings={name: Path("/proc/sys", name).read_text() for name in _KERNEL_SETTINGS},
            places={str(found) for place in PLACES for found in Path(place).glob("*")},
        )


def processes_with(text: str) -> set[int]:
    """The pids of all processes whose command line holds that, those left out that have ended and nobody has waited for."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if text in (process / "cmdline").read_bytes().decode(errors="replace"):
                found.add(int(process.name))
        except OSError:
            continue
    return found


def namespaces_of(process: Path) -> set[str]:
    return {str((process / "ns" / kind).readlink()) for kind in ("pid", "net", "mnt")}


def processes_in(namespaces: set[str]) -> set[int]:
    """The pids of all processes that are in one of these namespaces."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if namespaces & namespaces_of(process):
                found.add(int(process.name))
        except OSError:
            continue
    return found


@pytest.fixture
def temporary() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="node-test-")).resolve()
    yield folder
    shutil.rmtree(folder)


def run_cli(temporary: Path, *arguments: str, expect: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == expect, done.stderr + done.stdout
    return done.stdout + done.stderr


@pytest.mark.parametrize("end", ["down", "the keeper is killed", "the first process is killed"])
def test_nothing_is_left_of_a_node(cluster: Cluster, temporary: Path, end: str) -> None:
    """A second node, beside the one that all tests share, with a pod that runs."""
    before = Machine.now()
    up = run_cli(temporary, "up", "--node")
    found = re.search(r"^export KUBECONFIG=(.*)$", up, re.MULTILINE)
    assert found, up
    kubeconfig = Path(found[1])
    folder = kubeconfig.parent
    first = json.loads((folder / "sandbox.json").read_text())["node"]["first_process"]
    namespaces = namespaces_of(Path(f"/proc/{first}"))
    # Else it makes its cache in the home directory, or, without one, here.
    kubectl = [cluster.kubectl_program, f"--kubeconfig={kubeconfig}", f"--cache-dir={cluster.scratch / 'kubectl'}"]

    def run(*arguments: str) -> str:
        done = subprocess.run([*kubectl, *arguments], capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "Ready" in run("get", "nodes", "--no-headers")
    run("run", "pod", "--image=localhost/pause:1", "--restart=Never")
    run("wait", "--for=condition=Ready", "pod/pod", "--timeout=60s")
    assert len(processes_in(namespaces)) > 8
    assert Machine.now().settings == before.settings, "what the kubelet wants of the kernel is not changed for all"
    assert Machine.now().interfaces == before.interfaces
    group = _cgroups.name_of(folder)
    assert any(group in name for name in Machine.now().cgroups)

    if end == "down":
        assert "stopped 'default'" in run_cli(temporary, "down")
    else:
        victim = first if "first" in end else int((folder / "keeper.pid").read_text())
        os.kill(victim, signal.SIGKILL)
        until(lambda: not processes_in(namespaces), "all its processes are gone", 30)
        # When nobody was left to remove them, folder and groups are removed by whoever asks next.
        until(lambda: "none is running" in run_cli(temporary, "status"), "nothing runs", 30)
    assert processes_in(namespaces) == set()
    # A keeper that ends by itself lets go of its folder a moment before it is gone.
    until(lambda: not processes_with(str(temporary)), "its keeper is gone", 5)
    after = Machine.now()
    assert [name for name in after.cgroups if group in name] == []
    assert after.interfaces == before.interfaces
    assert [mount for mount in after.mounts - before.mounts if str(temporary) in mount] == []
    assert after.settings == before.settings
    assert after.places - before.places == set()
    assert list(temporary.iterdir()) == []


def test_the_demo_on_a_node(temporary: Path) -> None:
    """Kept, looked at as it says, given images again, and ended."""
    said = run_demo(temporary, "--keep")
    try:
        assert "All agree on node-example-" in said
        assert re.search(r"Both others show node-example-\S+, [0-9.]+ s later", said)
        exported = re.search(r"export KUBECONFIG=(\S+); alias kubectl=(\S+)", said)
        assert exported
        for command in re.findall(r"^  (kubectl -n .*)$", said, re.MULTILINE):
            argv = [exported[2], *command.split()[1:]]
            subprocess.run(argv, env={"KUBECONFIG": exported[1], "PATH": ""}, check=True, capture_output=True, timeout=60)
        listed = run_cli(temporary, "images", "--name", "demo")
        assert f"{REPOSITORY}-elector:{TAG}" in listed.splitlines()
    finally:
        run_cli(temporary, "down", "--name", "demo")
    assert list(temporary.iterdir()) == []


def run_demo(temporary: Path, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", "demo", "--node", *options],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_images_for_a_sandbox_that_does_not_run(temporary: Path) -> None:
    said = run_cli(temporary, "images", "--name", "nobody", expect=1)
    assert "'nobody' is not running" in said
    assert said.count("\n") == 1


def test_what_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it may not be installed; and where nobody may have a node."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SandboxError) as missing:
        _packages.ensure({"no-such-program": "some-package", "sh": "dash"}, "a node")
    assert str(missing.value) == "a node needs no-such-program; on Debian: apt-get install some-package"
    with pytest.raises(SandboxError, match=r"^a node needs Linux and root \(this is linux, user 1000\)$"):
        _packages.check_root("a node")
