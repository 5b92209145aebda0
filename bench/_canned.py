"""The webhook in Go that decides nothing, in `canned/`: built, started, and as it is to be registered."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from bench._admission import review
from sandbox import Sandbox
from sandbox._build import cache_folder
from sandbox._certificates import Authority
from sandbox._go import find_go, go_environment, run_showing
from sandbox._progress import Step
from sandbox.injection import IMAGE, registration, url_of
from webhook._review import answer
from webhook._settings import InjectionSettings

__all__ = ["start_canned"]

_SOURCE = Path(__file__).parent / "canned"


def start_canned(sandbox: Sandbox, pod: dict[str, Any]) -> dict[str, Any]:
    """Start it on the sandbox, with the patch that ours makes for `pod` as the API server has it; returns its registration."""
    folder = sandbox.directory / "canned"
    folder.mkdir()
    program, patch = folder / "canned", folder / "patch.json"
    with Step("building the webhook in Go") as step:
        build = [str(find_go(cache_folder())), "build", "-trimpath", "-buildvcs=false", "-o", str(program), "."]
        run_showing(step, build, cwd=_SOURCE, env=go_environment())
    asked = json.loads(review())
    asked["request"]["object"] = pod
    reply, _ = answer(json.dumps(asked).encode(), InjectionSettings(image=IMAGE))
    patch.write_bytes(base64.b64decode(json.loads(reply)["response"]["patch"]))
    authority = Authority(folder)
    pair = authority.server("webhook", dns=["localhost"], addresses=["127.0.0.1"])
    started = sandbox.run("canned", [str(program), str(pair.certificate), str(pair.key), str(patch)])
    return registration(url_of(started), authority.pair.certificate.read_bytes())
