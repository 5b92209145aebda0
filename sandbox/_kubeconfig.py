"""Writing kubeconfig files: JSON, which is YAML too."""

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox._certificates import Pair

__all__ = ["with_certificate", "with_token"]


def with_certificate(path: Path, *, url: str, ca: Path, client: "Pair") -> Path:
    """Write a kubeconfig, readable by its owner only, that holds everything itself; returns `path`."""
    user = {
        "client-certificate-data": _encoded(client.certificate),
        "client-key-data": _encoded(client.key),
    }
    return _write(path, url, ca, user)


def with_token(path: Path, *, url: str, ca: Path, token: str) -> Path:
    """The same, for who shows a token."""
    return _write(path, url, ca, {"token": token})


def _write(path: Path, url: str, ca: Path, user: dict[str, Any]) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "sandbox", "cluster": {"server": url, "certificate-authority-data": _encoded(ca)}}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": "user", "namespace": "default"}}],
        "current-context": "sandbox",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


def _encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
