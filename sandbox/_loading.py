"""Images into the node of a sandbox that is kept: its keeper takes no more orders, so this enters the node by itself."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sandbox._errors import SandboxError
from sandbox._namespaces import Namespaces
from sandbox._progress import Step

__all__ = ["commands", "load_into"]

_WITHIN = 300.0


def commands(ctr: Sequence[str], archive: Path, names: Sequence[str]) -> list[list[str]]:
    """The command lines that put the images of an archive (docker or OCI) where the kubelet finds them.

    `ctr` is the beginning of each. Of several `names` the first is one in the archive, and the others are given to that image.
    """
    load = [*ctr, "images", "import", "--local", "--discard-unpacked-layers", str(archive)]
    return [load, *([*ctr, "images", "tag", "--force", names[0], name] for name in names[1:])]


def load_into(state_file: Path, archive: Path, *names: str) -> None:
    """The same, done, in the sandbox with that state. `SandboxError` when it has no node, or refuses."""
    node = json.loads(state_file.read_text()).get("node")
    if node is None:
        raise SandboxError(f"{state_file.parent.name!r} has no node: start it with `up --node`")
    namespaces = Namespaces(node["first_process"])
    for command in commands(node["ctr"], archive, names):
        with Step(f"loading {(names or (archive.name,))[0]}"), namespaces.children_inside():
            done = subprocess.run(
                command,
                env=node["environment"],
                preexec_fn=namespaces.entering("/", None),
                capture_output=True,
                text=True,
                timeout=_WITHIN,
                check=False,
            )
        if done.returncode:
            raise SandboxError(f"{archive} could not be loaded: {done.stderr.strip()[-2000:]}")
