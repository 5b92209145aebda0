"""Images for a node, without a registry: a base made by debootstrap, this checkout's own from its Dockerfile, and runtimes.

Archives are kept in the user's cache under a hash of what they were made of, so nothing is built twice. One has its name there
only when it is complete. The tools run in namespaces of their own, so that a build that is cut off leaves no mount behind.
"""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox import _packages
from sandbox._build import PARTIAL, cache_folder, clean, one_at_a_time
from sandbox._errors import SandboxError
from sandbox._go import find_go, run_showing
from sandbox._progress import Step, say

__all__ = ["REPOSITORY", "RUNTIMES", "TAG", "Runtime", "project_images", "runtime_image"]

REPOSITORY = "localhost/leader-election"
"""What the chart's `image.repository` has to be for the images of this checkout."""
TAG = "sandbox"

_ROOT = Path(__file__).resolve().parent.parent
_OF_THE_PROJECT = ("Dockerfile", "LICENSE", "README.md", "elector", "pyproject.toml", "uv.lock", "webhook")
"""What the Dockerfile copies, and itself."""
_SUITE = "trixie"
_BASE = f"docker.io/library/debian:{_SUITE}-slim"
"""The name in the Dockerfile's FROM."""
_KEPT = 86400.0
"""Seconds."""
_CA_VARIABLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True)
class Runtime:
    """What a program in some language needs, made here in the place of a public image."""

    names: tuple[str, ...]
    """The images that it stands in for."""
    containerfile: str


def _debian(*packages: str) -> str:
    return (
        f"FROM {_BASE}\n"
        f"RUN apt-get update && apt-get install --yes --no-install-recommends {' '.join(packages)}"
        " && rm -rf /var/lib/apt/lists/* /var/cache/apt\n"
    )


RUNTIMES = {
    "scripts": Runtime(
        ("docker.io/library/node:22-slim", "docker.io/library/python:3.13-slim", "docker.io/library/busybox:1.37"),
        _debian("nodejs", "python3", "busybox") + "RUN busybox --install -s /usr/local/bin\n",
    ),
    "java": Runtime(("docker.io/library/eclipse-temurin:21",), _debian("openjdk-21-jdk-headless")),
    # The Go that the sandbox is built with, and the part of the standard library that a server needs, compiled.
    "go": Runtime(
        ("docker.io/library/golang:1.26",),
        f"FROM {_BASE}\n"
        "COPY --from=go / /usr/local/go\n"
        "ENV PATH=/usr/local/go/bin:/usr/bin:/bin CGO_ENABLED=0 GOCACHE=/var/cache/go GOTOOLCHAIN=local GOFLAGS=-trimpath\n"
        "RUN go build net/http encoding/json && chmod -R a+rwX /var/cache/go\n",
    ),
}


def project_images() -> list[Path]:
    """Archives of the elector's and the webhook's image of this checkout, built from its Dockerfile where they are not yet.

    They are named `REPOSITORY` with `-elector` or `-webhook`, and `TAG`. `SandboxError` when they cannot be built. Where the
    environment names a CA bundle (as `PIP_CERT` does), the build is given it as the secret that the Dockerfile knows.
    """
    key = _hash_of(_OF_THE_PROJECT)
    archives = [_folder() / f"{target}-{key}.tar" for target in ("elector", "webhook")]
    with _Builder(archives) as builder:
        for archive in builder.missing:
            target = archive.name.partition("-")[0]
            name = f"{REPOSITORY}-{target}:{TAG}"
            builder.build(name, [*_ca(), "--target", target, "--file", str(_ROOT / "Dockerfile"), str(_ROOT)])
            builder.save(name, archive)
    return archives


def runtime_image(which: str) -> Path:
    """An archive of the runtime of that name in `RUNTIMES`; its image has the first of its names."""
    runtime = RUNTIMES[which]
    key = hashlib.sha256(runtime.containerfile.encode()).hexdigest()[:12]
    archive = _folder() / f"{which}-{key}.tar"
    with _Builder([archive]) as builder:
        for _ in builder.missing:
            with tempfile.TemporaryDirectory() as context:
                (Path(context) / "Containerfile").write_text(runtime.containerfile)
                contexts = [f"--build-context=go={_go_root()}"] if which == "go" else []
                builder.build(runtime.names[0], [*contexts, "--file", f"{context}/Containerfile", context])
            builder.save(runtime.names[0], archive)
    return archive


def _folder() -> Path:
    return cache_folder() / "images"


def _hash_of(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        top = _ROOT / part
        files = [top] if top.is_file() else sorted(top.rglob("*"))
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                content = file.read_bytes()
                digest.update(f"{file.relative_to(_ROOT)} {len(content)} {file.stat().st_mode & 0o111}\n".encode())
                digest.update(content)
    return digest.hexdigest()[:12]


def _ca() -> list[str]:
    for variable in _CA_VARIABLES:
        bundle = os.environ.get(variable)
        if bundle and Path(bundle).is_file():
            return ["--secret", f"id=ca,src={bundle}"]
    return []


def _go_root() -> Path:
    return find_go(cache_folder()).resolve().parent.parent


class _Builder:
    """Makes what is missing of some archives, alone in the cache; does nothing when nothing is."""

    def __init__(self, archives: Sequence[Path]) -> None:
        self._archives = archives
        self.missing: list[Path] = []

    def __enter__(self) -> "_Builder":
        if all(archive.exists() for archive in self._archives):
            return self
        _packages.check_root("building images")
        _packages.ensure(_packages.FOR_IMAGES, "building images")
        _folder().mkdir(parents=True, exist_ok=True)
        self._lock = one_at_a_time(cache_folder())
        self._lock.__enter__()
        try:
            clean(cache_folder(), _folder())
            self._temporary = tempfile.TemporaryDirectory(dir=_folder(), prefix=PARTIAL)
            self._scratch = Path(self._temporary.name)
            self.missing = [archive for archive in self._archives if not archive.exists()]
            if self.missing:
                self._run("looking for leftovers", "rm", "--all")
                self._ensure_base()
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_lock"):
            self._temporary.cleanup()
            self._lock.__exit__(None, None, None)

    def build(self, name: str, arguments: Sequence[str]) -> None:
        """Build an image of that name; `SandboxError` with what was said last when that fails."""
        self._run(f"building {name}", "bud", "--pull=never", "--layers", "--tag", name, *arguments)

    def save(self, name: str, archive: Path) -> None:
        """Write the image into an archive, and remove those of the same kind that are older than a day: others may use them."""
        partial = archive.with_name(f"{PARTIAL}{archive.name}")
        partial.unlink(missing_ok=True)
        self._run(f"saving {name}", "push", "--quiet", name, f"docker-archive:{partial}:{name}")
        for former in archive.parent.glob(f"{archive.name.rpartition('-')[0]}-*.tar"):
            if time.time() - former.stat().st_mtime > _KEPT:
                former.unlink()
        partial.replace(archive)

    def _ensure_base(self) -> None:
        if self._run("looking for the base image", "images", "--quiet", "--filter", f"reference={_BASE}").strip():
            return
        tree = self._scratch / "base"
        debootstrap = shutil.which("debootstrap", path=_packages.search_path())
        say(f"making the base image, Debian {_SUITE}: about a minute, once")
        self._isolated("debootstrap", [str(debootstrap), "--variant=minbase", _SUITE, str(tree)])
        for cached in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(tree / cached)
            (tree / cached / "partial").mkdir(parents=True)
        container = self._run("beginning the base image", "from", "scratch").strip()
        self._run("filling the base image", "copy", "--quiet", container, str(tree), "/")
        self._run("finishing the base image", "commit", "--quiet", "--rm", container, _BASE)
        shutil.rmtree(tree)

    def _run(self, label: str, command: str, *arguments: str) -> str:
        buildah = shutil.which("buildah", path=_packages.search_path())
        store = ["--root", str(_folder() / "store"), "--runroot", str(self._scratch / "run")]
        return self._isolated(label, [str(buildah), *store, command, *arguments])

    def _isolated(self, label: str, argv: Sequence[str]) -> str:
        """Run it with processes and mounts of its own, which end with it, whatever cuts it off."""
        unshare = ["unshare", "--fork", "--kill-child", "--pid", "--mount-proc"]
        env = {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "overlay", **os.environ, "PATH": _packages.search_path()}
        with Step(label) as step:
            try:
                return run_showing(step, [*unshare, *argv], cwd=self._scratch, env=env)
            except SandboxError as error:
                raise SandboxError(f"{label}: {error}") from error
