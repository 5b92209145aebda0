"""The client-go candidates below `candidate/`: found in the user's cache, or built from Go modules.

A binary has its name there only when it is complete, and each state of the sources and versions has a folder of its own.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sandbox._build import cache_folder, one_at_a_time
from sandbox._go import find_go, go_environment, run_showing
from sandbox._progress import Step

__all__ = ["LOCKS", "SOURCE", "candidate"]

LOCKS = {"endpoints": "v0.22.mod", "leases": "go.mod"}
"""The kinds of lock, and the module file of the client-go that speaks each."""

SOURCE = Path(__file__).resolve().parent / "candidate"
"""Where the program and its module files are."""


def candidate(lock: str) -> Path:
    """The program that stands with that kind of lock; built first when it is missing, which takes a minute or two.

    `sandbox.SandboxError` when there is no building it.
    """
    module = LOCKS[lock]
    cache = cache_folder()
    binary = cache / "bin" / f"client-go-{_key()}" / lock
    if not _is_there(binary):
        binary.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(cache):
            if not _is_there(binary):  # somebody else may have built it while we waited
                _build(lock, module, binary, cache)
    return binary


def _is_there(binary: Path) -> bool:
    return binary.is_file() and os.access(binary, os.X_OK)


def _key() -> str:
    """Of all that goes in; the versions and checksums of the modules are in the module files."""
    found = hashlib.sha256()
    for file in sorted(SOURCE.iterdir()):
        if file.suffix in (".go", ".mod", ".sum"):
            content = file.read_bytes()
            found.update(f"{file.name} {len(content)}\n".encode() + content)
    return found.hexdigest()[:16]


def _build(lock: str, module: str, binary: Path, cache: Path) -> None:
    partial = cache / f"partial-client-go-{lock}"  # a name that a later build cleans up after one that was killed
    build = [
        str(find_go(cache)),
        "build",
        f"-modfile={module}",
        "-mod=readonly",
        "-trimpath",
        "-buildvcs=false",
        "-ldflags=-s -w",
    ]
    try:
        with Step(f"building the client-go candidate for {lock}") as step:
            run_showing(step, [*build, "-o", str(partial), "."], cwd=SOURCE, env=go_environment())
        partial.replace(binary)
    finally:
        partial.unlink(missing_ok=True)
