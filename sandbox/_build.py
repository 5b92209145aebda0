"""The control plane's binaries: found where they are, or built.

A binary has its name in the cache only when it is complete: it is built under another name beside it. One build at a time: the
lock is the kernel's, so a build that was killed holds up nobody.
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from sandbox._errors import SandboxError
from sandbox._go import find_go, go_environment, run_showing
from sandbox._progress import Step, say
from sandbox._recipes import CONTROL_PLANE, Module, Recipe
from sandbox._versions import ETCD, KUBERNETES

__all__ = ["ASSETS_VARIABLE", "PARTIAL", "binaries", "cache_folder", "clean", "one_at_a_time"]

ASSETS_VARIABLE = "KUBEBUILDER_ASSETS"
PARTIAL = "partial-"
"""What is not complete yet begins with this, and is thrown away by the next build when it was left behind."""


def cache_folder() -> Path:
    """Where binaries, and Go where it had to be fetched, are kept; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "leader-election"


def binaries(recipes: Sequence[Recipe] = CONTROL_PLANE) -> Path:
    """The folder that holds those binaries: `KUBEBUILDER_ASSETS` when set, else the cache, filled first where needed.

    `SandboxError` when `KUBEBUILDER_ASSETS` lacks one, or there is no building one.
    """
    assets = os.environ.get(ASSETS_VARIABLE)
    if assets:
        if missing := _missing(Path(assets), recipes):
            raise SandboxError(
                f"{ASSETS_VARIABLE} is {assets!r}, where these programs are missing: {_names(missing)};"
                " put them there, or unset it to have them built"
            )
        return Path(assets).resolve()
    folder = cache_folder() / "bin" / f"kubernetes-{KUBERNETES}-etcd-{ETCD}"
    if _missing(folder, recipes):
        folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(cache_folder()):
            for recipe in (missing := _missing(folder, recipes)):
                if recipe is missing[0]:
                    say(f"building {_names(missing)} into {folder}: about 5 minutes on 2 cores, once")
                    clean(cache_folder(), folder)
                    go = find_go(cache_folder())
                _build(recipe, go, folder)
    return folder


def _missing(folder: Path, recipes: Sequence[Recipe]) -> list[Recipe]:
    return [recipe for recipe in recipes if not os.access(folder / recipe.name, os.X_OK) or (folder / recipe.name).is_dir()]


def _names(recipes: Sequence[Recipe]) -> str:
    return ", ".join(recipe.name for recipe in recipes)


@contextlib.contextmanager
def one_at_a_time(cache: Path) -> Iterator[None]:
    """Wait until nobody else builds into that cache, and keep others from it meanwhile."""
    with (cache / "build.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another build is under way: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def clean(cache: Path, folder: Path) -> None:
    """Remove what builds that were killed have left; only under the lock."""
    for leftover in [*cache.glob(f"{PARTIAL}*"), *folder.glob(f"{PARTIAL}*")]:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _build(recipe: Recipe, go: Path, folder: Path) -> None:
    partial = folder / f"{PARTIAL}{recipe.name}"
    env = go_environment()
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=PARTIAL) as temporary:
        module = Path(temporary)
        try:
            with Step(f"building {recipe.name}") as step:
                _lay_out(recipe.module, go, module, step, env)
                # -mod=mod: our go.mod names only what we need, and go completes it.
                build = [str(go), "build", "-mod=mod", "-trimpath", f"-ldflags={recipe.linker_flags}", "-o", str(partial)]
                run_showing(step, [*build, recipe.package], cwd=module, env=env)
                partial.replace(folder / recipe.name)
        finally:
            partial.unlink(missing_ok=True)


def _lay_out(module: Module, go: Path, folder: Path, step: Step, env: dict[str, str]) -> None:
    theirs = ""
    if module.requires is not None:
        answer = run_showing(step, [str(go), "mod", "download", "-json", module.requires], cwd=folder, env=env)
        theirs = Path(json.loads(answer)["GoMod"]).read_text()
    (folder / "go.mod").write_text(module.go_mod(theirs))
    if module.main_go is not None:
        (folder / "main.go").write_text(module.main_go)
