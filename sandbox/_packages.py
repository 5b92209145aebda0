"""What a node, and images for it, need of the machine: told in one line where it is missing, installed where that is possible."""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from sandbox._errors import SandboxError
from sandbox._go import run_showing
from sandbox._progress import Step

__all__ = ["FOR_A_NODE", "FOR_IMAGES", "check_root", "ensure", "search_path"]

FOR_A_NODE = {
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "ip": "iproute2",
}
"""Programs, by name or path, and the Debian package that each is in."""

FOR_IMAGES = {"buildah": "buildah", "debootstrap": "debootstrap", "unshare": "util-linux"}


def search_path() -> str:
    """PATH for what is installed in the system: some of it is in folders for administrators."""
    return os.pathsep.join(["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"])


def check_root(what: str) -> None:
    """`SandboxError` where this process cannot have a node."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise SandboxError(f"{what} needs Linux and root (this is {sys.platform}, user {os.geteuid()})")


def ensure(needed: Mapping[str, str], what: str) -> None:
    """Install the packages of the programs that are missing; `SandboxError`, one line, where that is impossible."""
    missing = _missing(needed)
    if not missing:
        return
    packages = " ".join(sorted(set(missing.values())))
    apt = shutil.which("apt-get", path=search_path())
    if apt is None or os.geteuid() != 0:
        raise SandboxError(f"{what} needs {', '.join(missing)}; on Debian: apt-get install {packages}")
    env = {**os.environ, "PATH": search_path(), "DEBIAN_FRONTEND": "noninteractive"}
    options = ["-o", "DPkg::Lock::Timeout=300", "--yes", "--no-install-recommends"]
    with Step(f"installing {packages}") as step, tempfile.TemporaryDirectory() as folder:
        try:
            run_showing(step, [apt, "update"], cwd=Path(folder), env=env)
            run_showing(step, [apt, *options, "install", *packages.split()], cwd=Path(folder), env=env)
        except SandboxError as error:
            raise SandboxError(f"{what} needs {packages}, which could not be installed: {error}") from error
    if missing := _missing(needed):
        raise SandboxError(f"{what} needs {', '.join(missing)}, which {packages} did not bring")


def _missing(needed: Mapping[str, str]) -> dict[str, str]:
    return {program: package for program, package in needed.items() if shutil.which(program, path=search_path()) is None}
