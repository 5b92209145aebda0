"""Elections that break a rule on purpose. Each must be found out by the simulation, else the simulation proves nothing.

A mutant is a copy of the package with a few places of its source replaced. Where two rules back each other up, the mutant has to
break both.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MUTANTS", "Mutant"]


@dataclass(frozen=True)
class Mutant:
    """`edits` are (file, what stands there, what is to stand there); all of a file's places with that text are replaced."""

    name: str
    edits: tuple[tuple[str, str, str], ...]

    def apply(self, package: Path, folder: Path) -> None:
        """Write the broken copy of `package` into `folder`. Raises `ValueError` when the text to replace is not there."""
        copy = folder / package.name
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
        for file, old, new in self.edits:
            source = (copy / file).read_text()
            if old not in source:
                raise ValueError(f"mutant {self.name!r}: {file} does not contain {old!r}")
            (copy / file).write_text(source.replace(old, new))


_WAIT = ("_observer.py", "at + max(stated, self._former, self._ttl)", "at + stated")

MUTANTS = (
    Mutant(
        "deadline counted from the reply",
        (
            (
                "_observer.py",
                "self.ours = write if write is not None and write.holds else None",
                "self.ours = Write(write.base, write.mark, write.text, at) if write is not None and write.holds else None",
            ),
        ),
    ),
    Mutant(
        "wall clock",
        (
            (
                "_election.py",
                "        self.identity = identity\n",
                "        real = clock\n"
                "        clock = type('Wall', (), {'now': lambda self: real.wall(), 'wall': lambda self: real.wall()})()\n"
                "        self.identity = identity\n",
            ),
        ),
    ),
    Mutant(
        "no read-back after a time-out",
        (
            (
                "_lockview.py",
                '            await self.look()\n            if result != "conflict"',
                '            if result == "unknown":\n'
                "                self.observer.ours, self.observer.sight = write, Sight.OURS\n"
                "                self._on_sight(self)\n"
                "                return\n"
                '            await self.look()\n            if result != "conflict"',
            ),
        ),
    ),
    Mutant(
        "expiry by the record's own times",
        (
            (
                "_lockview.py",
                "        self.observer.saw(state, self._clock.now())\n",
                "        self.observer.saw(state, self._clock.now())\n"
                "        if state is not None and state.record is not None and state.record.renewed.startswith('20'):\n"
                "            from datetime import datetime\n"
                "            renewed = datetime.fromisoformat(state.record.renewed.replace('Z', '+00:00')).timestamp()\n"
                "            self.observer.free_at = self._clock.now() + renewed + state.record.lease - self._clock.wall()\n",
            ),
        ),
    ),
    Mutant(
        "claim kept on 409",
        (
            (
                "_lockview.py",
                '            await self.look()\n            if result != "conflict"',
                '            if result == "conflict":\n'
                "                self.observer.ours, self.observer.sight = write, Sight.OURS\n"
                "                self._on_sight(self)\n"
                "                return\n"
                '            await self.look()\n            if result != "conflict"',
            ),
        ),
    ),
    Mutant(
        "PUT without uid",
        (
            (
                "_objects.py",
                '        metadata = dict(base["metadata"])\n',
                '        metadata = dict(base["metadata"])\n        metadata.pop("uid", None)\n',
            ),
            ("_observer.py", "return state.uid == self.base.uid and state.text", "return state.text"),
            ("_observer.py", "(state.uid, state.version) == (self.base.uid, self.base.version)", "True"),
        ),
    ),
    Mutant(
        "renewal that changes nothing",
        (
            (
                "_election.py",
                "max(int(self._clock.wall() * 1e6), self._last_stamp + time_unit(self.timing.ttl))",
                "self._last_stamp or int(self._clock.wall() * 1e6)",
            ),
            ("_lockview.py", "        if state.version == base.version:\n", "        if False:\n"),
            (
                "_observer.py",
                "and self._is_unchanged(before, state):\n            return\n",
                "and self._is_unchanged(before, state):\n"
                "            self.ours = write if write is not None and write.holds else self.ours\n"
                "            return\n",
            ),
        ),
    ),
    Mutant(
        "release before the given-out claims have ended",
        (("_election.py", "self._give_up(self._given_until)", "self._give_up(self._clock.now())"),),
    ),
    # Our own candidates never wait less than their own ttl, so a duration that says too little deceives only those who wait
    # for what is stated and no longer, as client-go does.
    Mutant("duration rounded down", (("_record.py", "math.ceil(ttl)", "int(ttl)"), _WAIT)),
    Mutant("a lock is created free", (("_election.py", "Record(PLACEHOLDER, ", 'Record("", '),)),
)
