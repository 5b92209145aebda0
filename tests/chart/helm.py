"""helm, and the chart as it renders."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sandbox._build import binaries
from sandbox._recipes import CHART_TOOLS

__all__ = ["CHART", "VALUE_SETS", "HelmFailed", "helm", "kube_version_of", "objects", "render"]

CHART = Path(__file__).parents[2] / "charts" / "leader-election"
VALUE_SETS = sorted((Path(__file__).parent / "values").glob("*.yaml"))
"""Sets of values that people have, each with its golden render."""

_WITHIN = 100.0


class HelmFailed(Exception):
    """helm refused; the message is what it said."""


def helm(*arguments: str, kubeconfig: Path | None = None, home: Path | None = None) -> str:
    """Run helm and return what it printed. `home` is where it keeps its own files. Raises `HelmFailed`."""
    program = binaries(CHART_TOOLS) / "helm"
    folder = str(home or "/nonexistent")
    env = {"PATH": os.defpath, "HOME": folder, **{f"HELM_{kind}_HOME": folder for kind in ("CACHE", "CONFIG", "DATA")}}
    if kubeconfig is not None:
        env["KUBECONFIG"] = str(kubeconfig)
    done = subprocess.run([program, *arguments], env=env, capture_output=True, text=True, timeout=_WITHIN, check=False)
    if done.returncode:
        raise HelmFailed(done.stderr + done.stdout)
    return done.stdout


def kube_version_of(values: Path) -> str:
    """The Kubernetes version that a set of values is rendered for."""
    return "1.29.0" if values.stem == "kubernetes-1.29" else "1.36.3"


def render(*arguments: str, values: Sequence[Path] = (), kube_version: str = "1.36.3", release: str = "leader-election") -> str:
    """All manifests, as `helm template` prints them. Raises `HelmFailed`."""
    files = [f"--values={file}" for file in values]
    return helm(
        "template", release, str(CHART), "--namespace=leader-election", f"--kube-version={kube_version}", *files, *arguments
    )


def objects(manifests: str) -> list[dict[str, Any]]:
    """The objects in a render."""
    return [found for found in yaml.safe_load_all(manifests) if found is not None]
