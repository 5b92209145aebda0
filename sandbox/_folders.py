"""Where sandboxes keep their data, and how a left-over is told from a running one.

Each sandbox has a folder below one folder of this user in the temporary directory. Its keeper holds a lock on that folder
itself (a `flock` on the directory), which the kernel lets go of whatever the keeper dies of: a folder nobody holds is a
left-over, and the next start, `status` or `down` removes it. Making and sweeping folders is done under a lock on the folder
above, so that nobody sweeps a folder between its making and its locking.
"""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sandbox import _cgroups
from sandbox._errors import SandboxError

__all__ = ["check_name", "create", "is_held", "leave_note", "remove", "root", "running", "sweep", "take_notes"]

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_TRASH = ".gone-"
_NOTE = ".ended-"


def check_name(name: str) -> str:
    """The name itself when it is one that a sandbox or a program may have; `SandboxError` otherwise."""
    if not _NAME.fullmatch(name):
        raise SandboxError(f"name {name!r}: allowed are 1 to 40 of a-z, 0-9 and '-', not '-' first or last")
    return name


def root() -> Path:
    """The folder above all sandboxes of this user. It need not exist."""
    return Path(tempfile.gettempdir()).resolve() / f"leader-election-sandbox-{os.getuid()}"


def create(name: str | None) -> tuple[Path, int]:
    """Make and lock the folder of a new sandbox, with a name of its own when `name` is None.

    Returns the folder and the file descriptor that holds its lock. `SandboxError` when one of that name is running.
    """
    if name is not None:
        check_name(name)
    with _locked_root(make=True) as top:
        assert top is not None
        _sweep(top)
        folder = top / (name or f"run-{secrets.token_hex(4)}")
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            raise SandboxError(f"a sandbox named {folder.name!r} is already running: {folder}") from None
        return folder, _lock(folder)


def remove(folder: Path) -> None:
    """Remove a sandbox's folder; only for who holds its lock. The name is free at once, whatever happens meanwhile."""
    trash = folder.parent / f"{_TRASH}{secrets.token_hex(8)}"
    try:
        folder.rename(trash)
    except FileNotFoundError:
        return
    shutil.rmtree(trash, ignore_errors=True)
    # Whoever looks into the root, or makes a folder there, has it locked: it must not go meanwhile. One that is not ours stays.
    with contextlib.suppress(SandboxError), _locked_root(make=False, top=folder.parent) as top:
        if top is not None:
            _remove_if_empty(top)


def is_held(folder: Path) -> bool:
    """Whether the folder exists and somebody (its keeper) holds its lock."""
    try:
        held = _lock(folder)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    os.close(held)
    return False


def sweep() -> None:
    """Remove the folders whose keeper is gone."""
    with _locked_root(make=False) as top:
        if top is not None:
            _sweep(top)
            _remove_if_empty(top)


def running() -> list[Path]:
    """The folders of the running sandboxes, by name; sweeps first."""
    with _locked_root(make=False) as top:
        if top is None:
            return []
        _sweep(top)
        folders = sorted(folder for folder in top.iterdir() if not folder.name.startswith("."))
        _remove_if_empty(top)
        return folders


def leave_note(folder: Path, text: str) -> None:
    """Say why a kept sandbox ended by itself, beside its folder, for whoever asks next."""
    (folder.parent / f"{_NOTE}{folder.name}").write_text(text)


def take_notes() -> dict[str, str]:
    """Why kept sandboxes ended by themselves since this was asked last, by name; the notes are gone afterwards."""
    notes = {}
    with _locked_root(make=False) as top:
        for note in sorted(top.glob(f"{_NOTE}*")) if top is not None else []:
            notes[note.name.removeprefix(_NOTE)] = note.read_text()
            note.unlink()
        if top is not None:
            _remove_if_empty(top)
    return notes


def _remove_if_empty(top: Path) -> None:
    with contextlib.suppress(OSError):  # there are others
        top.rmdir()


def _sweep(top: Path) -> None:
    for folder in list(top.iterdir()):
        if folder.name.startswith(_TRASH):
            shutil.rmtree(folder, ignore_errors=True)
            continue
        try:
            held = _lock(folder)
        except (BlockingIOError, FileNotFoundError, NotADirectoryError):
            continue
        try:
            _cgroups.remove(_cgroups.name_of(folder))
            folder.rename(trash := top / f"{_TRASH}{secrets.token_hex(8)}")
            shutil.rmtree(trash, ignore_errors=True)
        finally:
            os.close(held)


def _lock(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def _locked_root(*, make: bool, top: Path | None = None) -> Iterator[Path | None]:
    """The folder above (`top`; by default this user's), locked; None when it does not exist and is not to be made."""
    top = top or root()
    while True:
        if make:
            with contextlib.suppress(FileExistsError):
                top.mkdir(mode=0o700)
        try:
            descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            if make:
                continue
            yield None
            return
        except OSError as error:
            raise SandboxError(f"{top} must be a directory: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            mine = os.fstat(descriptor)
            # Its name is known to everybody, and the temporary directory is writable for everybody.
            if mine.st_uid != os.getuid() or stat.S_IMODE(mine.st_mode) & 0o077:
                raise SandboxError(f"{top} must belong to user {os.getuid()} alone (mode 0700)")
            try:
                same = os.path.samestat(mine, top.stat())
            except FileNotFoundError:
                same = False
            if same:  # else the last sandbox's end removed it meanwhile
                yield top
                return
        finally:
            os.close(descriptor)
