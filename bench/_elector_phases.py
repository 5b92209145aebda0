"""The phases of the measurement: what must have the machine for itself first, what may overlap after it, and their figures."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bench._elector_audit import Request, read_audit
from bench._elector_cost import Start, Steady, Window, rate, requests, start, steady
from bench._elector_failover import HandOver, event_delays, hand_over, kill
from bench._elector_frozen import FACTORS, Frozen, freeze, judge
from bench._elector_group import OURS, RIVAL, Group, Setup
from bench._elector_process import cpu_limit
from bench._elector_table import Row, say, spread

__all__ = ["PHASES", "Bench"]

PHASES = ("start", "sigterm", "events", "steady", "sigkill", "frozen", "requests")
_KINDS = (OURS, RIVAL)
_FEW = 3
_MILLICORES = 200


class Bench:
    """One run of the phases in `only`; `rows` has its figures afterwards."""

    def __init__(self, setup: Setup, *, rounds: int, minutes: float, many: int, only: Sequence[str]) -> None:
        self._setup = setup
        self._rounds = rounds
        self._minutes = minutes
        self._many = many
        self._only = only
        self._starts: dict[str, list[Start]] = {}
        self._limited: dict[str, list[Start] | None] = {}
        self._handed: dict[str, tuple[str, list[HandOver]]] = {}
        self._steady: dict[str, Steady] = {}
        self._killed: dict[str, list[float]] = {}
        self._frozen: dict[str, list[tuple[str, list[Frozen]]]] = {kind: [] for kind in _KINDS}
        self._windows: dict[tuple[str, int], Window] = {}
        self._log: list[Request] = []

    async def run(self) -> None:
        """All of them; `TimeoutError` when candidates do not come to agree."""
        await self._in_quiet()
        large = await self._large_groups()
        try:
            async with asyncio.TaskGroup() as together:
                for kind in _KINDS:
                    if "sigkill" in self._only:
                        together.create_task(self._kill(kind))
                    if "frozen" in self._only:
                        for factor in FACTORS:
                            together.create_task(self._freeze(kind, factor))
                    if "requests" in self._only:
                        together.create_task(self._count_few(kind))
                for group in large:
                    together.create_task(self._count(group))
        finally:
            for group in large:
                await group.close()
        self._log = read_audit(self._setup.sandbox.directory)

    async def _in_quiet(self) -> None:
        if {"start", "sigterm", "events"} & set(self._only):
            for kind in _KINDS:
                group = await self._group(kind, "quiet")
                if "start" in self._only:
                    await self._start(group)
                if {"sigterm", "events"} & set(self._only):
                    self._handed[kind] = group.election, await hand_over(group, self._rounds)
                await group.close()
        if "steady" in self._only:
            groups = [await self._group(kind, "steady") for kind in _KINDS]
            # At once: asleep most of the time, they do not disturb each other.
            found = await asyncio.gather(*(steady(group, 60.0) for group in groups))
            self._steady = dict(zip(_KINDS, found, strict=True))
            for group in groups:
                await group.close()

    async def _start(self, group: Group) -> None:
        self._starts[group.kind] = await start(group, self._rounds)
        with cpu_limit(_MILLICORES) as wrapper:
            self._limited[group.kind] = None if wrapper is None else await start(group, self._rounds, wrapper)

    async def _large_groups(self) -> list[Group]:
        if "requests" not in self._only:
            return []
        # Before the rest: so many starts at a time would disturb it.
        return [await self._group(kind, "many", self._many) for kind in _KINDS]

    async def _kill(self, kind: str) -> None:
        group = await self._group(kind, "kill")
        self._killed[kind] = await kill(group, self._rounds)
        await group.close()

    async def _freeze(self, kind: str, factor: float) -> None:
        group = await self._group(kind, f"frozen{round(10 * factor)}")
        self._frozen[kind].append((group.election, await freeze(group, factor, self._rounds)))
        await group.close()

    async def _count_few(self, kind: str) -> None:
        group = await self._group(kind, "few")
        await self._count(group)
        await group.close()

    async def _count(self, group: Group) -> None:
        self._windows[group.kind, len(group.candidates)] = await requests(group, self._minutes)

    async def _group(self, kind: str, label: str, count: int = _FEW) -> Group:
        group = self._setup.group(kind, label)
        say(f"{group.election}: starting {count} candidates")
        await group.start(count)
        return group

    def rows(self) -> list[Row]:
        """In the order of the targets."""
        made = {
            "sigterm": self._sigterm_rows,
            "sigkill": self._sigkill_rows,
            "frozen": self._frozen_rows,
            "requests": self._request_rows,
            "steady": self._steady_rows,
            "start": self._start_rows,
            "events": self._event_rows,
        }
        return [row for name, make in made.items() if name in self._only for row in make()]

    def _sigterm_rows(self) -> list[Row]:
        shown = [spread([one.agreed - one.signalled for one in self._handed[kind][1]], "s", 3) for kind in _KINDS]
        return [Row("SIGTERM of the leader until all others agree", "0.25 s", "0.1 s", *shown)]

    def _sigkill_rows(self) -> list[Row]:
        shown = [spread(self._killed[kind], "s", 2) for kind in _KINDS]
        return [Row("SIGKILL right after a renewal until all others agree", "10.5 s", "10.3 s", *shown)]

    def _frozen_rows(self) -> list[Row]:
        shown = []
        for kind in _KINDS:
            judged = [judge(rounds, election, self._log) for election, rounds in self._frozen[kind]]
            second, past, answers = (sum(column) for column in zip(*judged, strict=True))
            shown.append(f"{second} beside another leader, {past} past its claim, of {answers:,}")
        what = f"answers that name a leader that was frozen for {', '.join(f'{one:g}' for one in FACTORS)} ttl, and wrongly"
        return [Row(what, "0", "0", *shown)]

    def _request_rows(self) -> list[Row]:
        rows = []
        for count, must in ((_FEW, "0.45"), (self._many, "0.6")):
            shown = [f"{rate(self._windows[kind, count], self._log):.2f}" for kind in _KINDS]
            rows.append(Row(f"API requests per second, {count} candidates", must, "0.45", *shown))
        return rows

    def _steady_rows(self) -> list[Row]:
        def worst(pairs: list[tuple[float, float]]) -> str:
            return f"{max(one for one, _ in pairs):.1f} / {max(one for _, one in pairs):.1f} MB"

        found = [self._steady[kind] for kind in _KINDS]
        return [
            Row("memory resident / private, steady", "", "", *(worst(one.before) for one in found)),
            Row("the same after 10,000 requests", "30 / 18 MB", "24 / 13 MB", *(worst(one.after) for one in found)),
            Row("CPU, steady, the worst candidate", "1 ms/s", "0.5 ms/s", *(f"{max(one.cpu):.2f} ms/s" for one in found)),
        ]

    def _start_rows(self) -> list[Row]:
        rows = []
        for starts, where in ((self._starts, ""), (self._limited, f", limited to {_MILLICORES} millicores")):
            found = [starts[kind] for kind in _KINDS]
            if None in found:
                rows.append(Row(f"start{where}", "", "", *["not measured: no right to make control groups"] * 2))
                continue
            sides = [one or [] for one in found]
            answers = [spread([one.answers for one in side], "s", 2) for side in sides]
            names = [spread([one.names for one in side], "s", 2) for side in sides]
            cpu = [spread([1000 * one.cpu for one in side], "ms", 0) for side in sides]
            rows += [
                Row(f"start until it answers{where}", "0.5 s", "0.35 s", *answers),
                Row(f"start until it names the leader{where}", "", "", *names),
                Row(f"CPU for that{where}", "250 ms", "150 ms", *cpu),
            ]
        return rows

    def _event_rows(self) -> list[Row]:
        election, rounds = self._handed[OURS]
        delays = [1000 * delay for delay in event_delays(rounds, election, self._log)]
        what = "a change of leader until a reader of events on another candidate has it"
        return [Row(what, "50 ms", "20 ms", spread(delays, "ms", 1), "has no events")]
