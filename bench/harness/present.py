"""Measurements for people: terminal, Markdown, plot."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .summary import Names, Row, best, percent_of_peak, seconds

SCALE = (0.25, 32.0)  # of the plot
Column = tuple[str, int]  # heading, width in the terminal


def gops(row: Row, name: str | None) -> str:
    for r in row["results"]:
        if r["contender"] == name:
            value = r["gops"]
            return f"{value:.0f}{'~' if r['noisy'] else ''}" if value >= 100 else f"{value:.3g}{'~' if r['noisy'] else ''}"
    return ""


def against(row: Row, statistic: str, ours: str | None, peers: Sequence[str]) -> tuple[str, str]:
    """(GOPS and name of the best peer, our advantage)"""
    rival = best(row, statistic, peers)
    if rival is None:
        return "", ""
    ratio = f"{rival[1] / seconds(row, statistic)[ours]:.2f}" if ours else ""
    return f"{gops(row, rival[0])} {rival[0]}", ratio


def share(row: Row, names: Names, statistic: str) -> str:
    """Percent of the peak that qgemm with u8 out reaches."""
    u8 = names.ours("u8", row)
    return f"{percent_of_peak(row, seconds(row, statistic)[u8]):.0f}" if u8 and row["peak_gops"] else ""


def line(values: Sequence[str], columns: Sequence[Column]) -> str:
    """``values`` under the headings of ``columns``, numbers to the right."""
    out = []
    for value, (title, width) in zip(values, columns, strict=True):
        left = title == "shape" or title.startswith("best")
        out.append(f"{value[:width]:<{width}}" if left else f"{value:>{width}}")
    return "  ".join(out).rstrip()


def heading(columns: Sequence[Column]) -> str:
    return line([title for title, _ in columns], columns)


class Progress:
    """A bar on a terminal, with finished rows printed above it; plain lines elsewhere."""

    def __init__(self, total: int, label: str):
        self._bar: Any = None
        if sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=total, desc=label, leave=False, dynamic_ncols=True, unit="row")

    def note(self, text: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def row(self, text: str) -> None:
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text)
            self._bar.update()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def conditions(report: Mapping[str, Any]) -> list[str]:
    """Where and with what: a line each."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    settings = report["settings"]
    lines = [
        f"{machine['cpu']}, {machine['physical_cores']} cores; path {machine['isa'] or 'unknown'}; {machine['system']}; {report['date']}",
        versions,
        f"up to {settings['repeats']} samples of at least {1e3 * settings['min_sample']:g} ms in {settings['seconds_per_row']:g} s a row; "
        f"ratios of the {report['summary']['statistic']}; ~ an interquartile range above 15% of the median",
    ]
    if machine["load"] > 0.5 * machine["physical_cores"]:
        lines.append(f"The machine was not idle: {machine['load']} runnable tasks when the run began.")
    return lines


def comparison_lines(report: Mapping[str, Any]) -> list[str]:
    """The comparisons of the summary, and what kept the peak from being measured."""
    lines = []
    for title, c in report["summary"]["comparisons"].items():
        worst = c["worst"]
        lines.append(
            f"{title}: first on {100 * c['first']:.0f}% of {c['rows']} rows, geometric mean {c['geometric_mean']:.2f}x, "
            f"worst {worst['ratio']:.2f}x ({worst['shape']}, {worst['threads']} thr., {worst['peer']})"
        )
    return lines + [f"peak not measured: {reason}" for reason in sorted({r for r in report["peak_not_measured"].values() if r})]


def peak_line(what: str, peak: Mapping[str, Any] | None) -> list[str]:
    if not peak:
        return []
    return [f"{what}: {peak['geometric_mean']:.0f}% of the peak (geometric mean of {peak['rows']} rows), least {peak['least']:.0f}%"]


def scaling_lines(scaling: Mapping[str, Any], of: str) -> list[str]:
    return [
        f"{n} threads over one: {c['geometric_mean']:.2f}x (geometric mean of {c['rows']} rows of {of}), "
        f"worst {c['worst']['ratio']:.2f}x ({c['worst']['shape']})"
        for n, c in scaling.items()
    ]


def absences(report: Mapping[str, Any]) -> list[str]:
    """Contenders that did not take part, and rows on which one failed, each with the reason."""
    lines = [f"missing: {c['name']}: {c['missing']}" for c in report["contenders"] if c["missing"]]
    failed: dict[tuple[str, str], list[str]] = {}
    for row in report["rows"]:
        for name, reason in row["failed"].items():
            failed.setdefault((name, reason), []).append(f"{row['shape']}, {row['threads']} thr.")
    for (name, reason), where in failed.items():
        lines.append(f"failed: {name} on {where[0]}{f' and {len(where) - 1} more rows' if len(where) > 1 else ''}: {reason}")
    return lines


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *(f"| {' | '.join(r)} |" for r in rows)]


def bullets(lines: Sequence[str]) -> list[str]:
    return [f"- {text}" for text in lines]


Kind = tuple[str, str, Sequence[str], str, str]  # label; our output and the peers that are compared; marker, colour


def plot(
    report: Mapping[str, Any],
    path: Path,
    title: str,
    kinds: Sequence[Kind],
    ours: str = "u8",
    reached: Callable[[Row, str], str] = gops,
    unit: str = "GOPS, % of peak",
) -> None:
    """A panel for each number of threads, a line for each shape: how many times as long as qgemm the best peer of each kind takes.

    On the right stands what qgemm with output ``ours`` reaches itself, as ``reached`` puts it.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names, statistic = Names(report["contenders"]), report["summary"]["statistic"]
    counts = sorted({row["threads"] for row in report["rows"]})
    tallest = max(sum(row["threads"] == n for row in report["rows"]) for n in counts)
    figure, axes = plt.subplots(1, len(counts), figsize=(7.5 * len(counts), 2.4 + 0.22 * tallest), squeeze=False, layout="constrained")
    for ax, threads in zip(axes[0], counts, strict=True):
        rows = sorted((r for r in report["rows"] if r["threads"] == threads), key=lambda r: (r["ops"], r["shape"]))
        for label, output, peers, marker, color in kinds:
            points = []
            for i, row in enumerate(rows):
                mine, rival = names.ours(output, row), best(row, statistic, peers)
                if mine and rival:
                    # What lies outside the scale is drawn on its edge.
                    points.append((min(max(rival[1] / seconds(row, statistic)[mine], SCALE[0]), SCALE[1]), i))
            if points:
                ax.scatter(*zip(*points, strict=True), marker=marker, c=color, s=28, label=label, zorder=3)
        ax.axvspan(SCALE[0] / 1.1, 1, color="#f6ecec", zorder=0)
        ax.axvline(1, color="#0b5fb0", lw=1.2, zorder=1)
        ax.set_xscale("log", base=2)
        ax.set_xlim(SCALE[0] / 1.1, SCALE[1] * 1.1)
        ax.set_xticks(ticks := [2.0**e for e in range(-2, 6)], [f"{t:g}x" for t in ticks])
        ax.set_yticks(range(len(rows)), [row["shape"] for row in rows], fontsize=8)
        ax.set_ylim(-0.7, len(rows) - 0.3)
        # On the right: what qgemm itself reaches.
        right = ax.twinx()
        right.set_ylim(ax.get_ylim())
        right.set_yticks(range(len(rows)), [_reached(row, names, statistic, ours, reached) for row in rows], fontsize=8, color="#0b5fb0")
        right.tick_params(length=0)
        ax.set_xlabel("time of the peer / time of qgemm (left of 1x: the peer is faster)")
        ax.set_title(f"{threads} thread{'' if threads == 1 else 's'}; on the right qgemm {ours}: {unit}", fontsize=10)
        ax.grid(True, which="major", color="#e3e3e3", zorder=0)
        ax.set_axisbelow(True)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, 3 * len(counts)), fontsize=9, frameon=False)
    figure.suptitle(f"{title} {report['machine']['cpu']}", fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _reached(row: Row, names: Names, statistic: str, output: str, reached: Callable[[Row, str], str]) -> str:
    name, percent = names.ours(output, row), share(row, names, statistic)
    return reached(row, name) + (f"  {percent}%" if percent else "") if name else ""
