"""The image of the container that holds a pod's namespaces: one program, and nothing else."""

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path

__all__ = ["write_pause_image"]

_PROCESSORS = {"x86_64": "amd64", "aarch64": "arm64"}


def write_pause_image(program: Path, name: str, archive: Path) -> Path:
    """Write a docker archive with an image of that name that runs a static `program`; returns `archive`.

    See https://github.com/moby/docker-image-spec/blob/main/v1.2.md#combined-image-json--filesystem-changeset-format.
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        entry = tarfile.TarInfo("pause")
        content = program.read_bytes()
        entry.size, entry.mode = len(content), 0o755
        files.addfile(entry, io.BytesIO(content))
    config = {
        "architecture": _PROCESSORS.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, mode="w") as files:
        for file, data in (
            ("manifest.json", json.dumps(manifest).encode()),
            ("config.json", json.dumps(config).encode()),
            ("layer.tar", layer.getvalue()),
        ):
            entry = tarfile.TarInfo(file)
            entry.size = len(data)
            files.addfile(entry, io.BytesIO(data))
    return archive
