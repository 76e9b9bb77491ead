"""What makes one benchmark of the harness: its shapes, its contenders, and how its rows are read."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import present
from .contenders.base import Contender
from .lists import AnyShape, Lists
from .summary import Names, Row


class Benchmark(ABC):
    name: str
    title: str
    about: str  # the help of the command, its first line a sentence
    lists: Lists[Any]
    columns: Sequence[present.Column]
    unit = "GOPS"
    default_repeats = 40
    default_seconds = 2.5
    min_rounds = 5
    needs_peak = True

    @abstractmethod
    def contenders(self) -> list[Contender]:
        """qgemm first, then the peers; floating point last."""

    @abstractmethod
    def trials(self) -> Sequence[AnyShape]:
        """Small shapes: a contender that is not right on those it takes does not take part."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:  # noqa: B027  (most have none)
        """Options beside those that every benchmark has."""

    def check_options(self, args: argparse.Namespace) -> None:  # noqa: B027
        """End the program, with the reason, when the options of :meth:`add_options` have no sense; else take note of them."""

    def shapes(self, args: argparse.Namespace) -> list[AnyShape]:
        return self.lists.load(args.lists, args.filter)

    def parts(self, shapes: Sequence[AnyShape]) -> list[list[str]]:
        """Labels of the shapes that share a process."""
        return [[s.label for s in shapes]]

    @abstractmethod
    def cells(self, row: Row, names: Names, statistic: str) -> list[str]:
        """A row of the main table, a text for each of ``columns``."""

    @abstractmethod
    def summarize(self, rows: Sequence[Row], described: Sequence[Mapping[str, Any]], statistic: str) -> dict[str, Any]:
        """ "comparisons" (title: see :func:`summary.compare`) and whatever else this benchmark tells."""

    @abstractmethod
    def summary_lines(self, report: Mapping[str, Any]) -> list[str]: ...

    def figure(self, row: Row, contender: str) -> str:
        """What the table of all contenders shows."""
        return present.gops(row, contender)

    def sections(self, report: Mapping[str, Any]) -> list[str]:
        """Further sections of the Markdown report."""
        return []

    @abstractmethod
    def plot(self, report: Mapping[str, Any], path: Path) -> None: ...

    def markdown(self, report: Mapping[str, Any]) -> str:
        """Summary, the main table, then every contender's figures."""
        names, statistic = Names(report["contenders"]), report["summary"]["statistic"]
        rows = report["rows"]
        parts = [f"# {self.title}", "", *present.bullets(present.conditions(report))]
        parts += ["", "## Summary", "", *present.bullets(self.summary_lines(report))]
        parts += ["", "## qgemm against the best", "", f"{self.unit}; a ratio above 1: qgemm is faster.", ""]
        parts += present.table([title for title, _ in self.columns], [self.cells(row, names, statistic) for row in rows])
        shown = [c["name"] for c in report["contenders"] if any(self.figure(row, c["name"]) for row in rows)]
        for threads in sorted({row["threads"] for row in rows}):
            parts += ["", f"## All contenders, {threads} thread{'' if threads == 1 else 's'}: {self.unit}", ""]
            body = []
            for row in (r for r in rows if r["threads"] == threads):
                peak = [f"{row['peak_gops']:.0f}" if row["peak_gops"] else ""] if self.needs_peak else []
                body.append([row["shape"], *peak, *(self.figure(row, name) for name in shown)])
            parts += present.table(["shape", *(["peak"] if self.needs_peak else []), *shown], body)
        parts += self.sections(report)
        absent = present.absences(report)
        if absent:
            parts += ["", "## Absent", "", *present.bullets(absent)]
        return "\n".join(parts) + "\n"
