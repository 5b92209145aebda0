"""`python -m sandbox up|down|status|images|build|demo`."""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sandbox import _folders
from sandbox._build import binaries
from sandbox._errors import SandboxError
from sandbox._loading import load_into
from sandbox._recipes import CHART_TOOLS, NODE
from sandbox._sandbox import STATE_FILE, Sandbox

__all__ = ["main"]

_DOWN = 20.0
"""Seconds that a keeper has for its end."""
_LAST_MOMENT = 2.0
"""Seconds that a keeper without programs and folder may take to be gone; one that nobody waits for stays a zombie."""
_POLL = 0.05


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, 1 for what went wrong (one line on standard error), 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        for name, why in _folders.take_notes().items():
            print(f"{name!r} has ended by itself: {why}", file=sys.stderr)
        return int(options.run(options))
    except SandboxError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sandbox: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="A real Kubernetes control plane on this machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser(
        "up", help="start a control plane in the background (building it first, once) and say how to reach it"
    )
    up.add_argument("--name", default="default", help="which one, when several are to run side by side (default: %(default)s)")
    up.add_argument("--node", action="store_true", help="with a node, in namespaces of its own, so that pods run (Linux, root)")
    up.add_argument("--audit", action="store_true", help="write an audit log")
    up.set_defaults(run=_up)

    down = commands.add_parser("down", help="stop it and remove its data")
    down.add_argument("--name", default="default", help="which one (default: %(default)s)")
    down.set_defaults(run=_down)

    status = commands.add_parser("status", help="list the running ones")
    status.set_defaults(run=_status)

    build = commands.add_parser("build", help="only build the programs that a control plane needs")
    build.add_argument("--node", action="store_true", help="and those of a node, and helm")
    build.set_defaults(run=_build)

    images = commands.add_parser(
        "images", help="build this checkout's images, and a stand-in for a public one, and put them on a running node"
    )
    images.add_argument("--name", default="default", help="which sandbox (default: %(default)s)")
    images.add_argument(
        "--runtime", choices=("scripts", "java", "go"), default="scripts", help="which stand-in (default: %(default)s)"
    )
    images.set_defaults(run=_images)

    demo = commands.add_parser("demo", help="show the whole way: annotation, admission, injected electors, fail-over")
    demo.add_argument("--node", action="store_true", help="on a real node, from the images and the chart (Linux, root)")
    demo.add_argument("--keep", action="store_true", help="leave everything running afterwards, and say what to try")
    demo.set_defaults(run=_demo)

    return parser


def _up(options: argparse.Namespace) -> int:
    folder = _folders.root() / _folders.check_name(options.name)
    if folder in _folders.running():
        if not (folder / STATE_FILE).exists():
            raise SandboxError(f"{options.name!r} is being started or stopped by another process: {folder}")
        print(f"{options.name!r} is already running")
        _say_how_to_reach(folder)
        return 0
    sandbox = Sandbox.start(name=options.name, node=options.node, audit=options.audit, keep=True)
    print(f"{options.name!r} is up, ready in {sandbox.ready_seconds:.1f} s; `{_command('down', options.name)}` ends it")
    _say_how_to_reach(folder)
    return 0


def _say_how_to_reach(folder: Path) -> None:
    kubeconfig = json.loads((folder / STATE_FILE).read_text())["kubeconfig"]
    print(f"kubeconfig: {kubeconfig}")
    print(f"export KUBECONFIG={kubeconfig}")


def _down(options: argparse.Namespace) -> int:
    folder = _folders.root() / _folders.check_name(options.name)
    if folder not in _folders.running():
        print(f"{options.name!r} is not running")
        return 0
    try:
        keeper = int((folder / "keeper.pid").read_text())
    except (FileNotFoundError, ValueError):
        raise SandboxError(f"{options.name!r} is just being started by another process: {folder}") from None
    # Its lock on the folder says that it lives, so the pid is its own.
    with contextlib.suppress(ProcessLookupError):
        os.kill(keeper, signal.SIGTERM)
    deadline = time.monotonic() + _DOWN
    while _folders.is_held(folder):
        if time.monotonic() > deadline:
            raise SandboxError(f"{options.name!r} did not end within {_DOWN:g} s: its keeper has pid {keeper}")
        time.sleep(_POLL)
    _wait_for_the_end_of(keeper)
    _folders.sweep()
    print(f"stopped {options.name!r}: its programs (keeper pid {keeper}) and its data in {folder} are gone")
    return 0


def _wait_for_the_end_of(pid: int) -> None:
    """The keeper lets go of its folder a moment before it is gone; nobody should see it after `down` has returned."""
    deadline = time.monotonic() + _LAST_MOMENT
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(_POLL)


def _status(_: argparse.Namespace) -> int:
    folders = _folders.running()
    if not folders:
        print("none is running")
    for folder in folders:
        try:
            state = json.loads((folder / STATE_FILE).read_text())
        except (FileNotFoundError, ValueError):
            print(f"{folder.name}: starting, or ending")
        else:
            print(f"{folder.name}: {state['url']} since {state['ready_at']}, kubeconfig {state['kubeconfig']}")
    return 0


def _build(options: argparse.Namespace) -> int:
    print(f"the control plane's programs are in {binaries()}")
    if options.node:
        print(f"the node's, kubectl and helm are in {binaries((*NODE, *CHART_TOOLS))}")
    return 0


def _images(options: argparse.Namespace) -> int:
    folder = _folders.root() / _folders.check_name(options.name)
    if folder not in _folders.running():
        raise SandboxError(f"{options.name!r} is not running: `{_command('up', options.name)} --node` starts it")
    from sandbox import _images

    for archive in _images.project_images():
        load_into(folder / STATE_FILE, archive)
    runtime = _images.RUNTIMES[options.runtime]
    load_into(folder / STATE_FILE, _images.runtime_image(options.runtime), *runtime.names)
    for name in (*(f"{_images.REPOSITORY}-{image}:{_images.TAG}" for image in ("elector", "webhook")), *runtime.names):
        print(name)
    return 0


def _demo(options: argparse.Namespace) -> int:
    if options.node:
        from sandbox.node_demo import run_node_demo

        return run_node_demo(keep=options.keep)
    from sandbox.demo import run_demo

    return run_demo(keep=options.keep)


def _command(command: str, name: str) -> str:
    return f"python -m sandbox {command}" + ("" if name == "default" else f" --name {name}")


if __name__ == "__main__":
    sys.exit(main())
