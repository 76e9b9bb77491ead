"""Measurements for people: terminal, Markdown, plot."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .summary import FLOATS, Names, Row, best, percent_of_peak, seconds

SCALE = (0.25, 32.0)  # of the plot
# (heading, width in the terminal)
COLUMNS = (
    ("shape", 16),
    ("thr", 3),
    ("qgemm u8", 9),
    ("% peak", 6),
    ("best peer with u8", 32),
    ("ratio", 6),
    ("best peer of any kind", 32),
    ("ratio", 6),
    ("dynamic", 9),
    ("best dynamic peer", 32),
    ("ratio", 6),
    ("x FP32", 6),
    ("x BF16", 6),
)


def _gops(row: Row, name: str | None) -> str:
    for r in row["results"]:
        if r["contender"] == name:
            value = r["gops"]
            return f"{value:.0f}{'~' if r['noisy'] else ''}" if value >= 100 else f"{value:.3g}{'~' if r['noisy'] else ''}"
    return ""


def _against(row: Row, statistic: str, ours: str | None, peers: Sequence[str]) -> tuple[str, str]:
    """(GOPS and name of the best peer, our advantage)"""
    rival = best(row, statistic, peers)
    if rival is None:
        return "", ""
    ratio = f"{rival[1] / seconds(row, statistic)[ours]:.2f}" if ours else ""
    return f"{_gops(row, rival[0])} {rival[0]}", ratio


def cells(row: Row, names: Names, statistic: str) -> list[str]:
    """One row of the main table. GOPS are of medians, ratios of ``statistic``."""
    u8, dynamic = names.ours("u8", row), names.ours("dynamic", row)
    share = f"{percent_of_peak(row, seconds(row, statistic)[u8]):.0f}" if u8 and row["peak_gops"] else ""
    floats = [_against(row, statistic, u8, [name])[1] for name in FLOATS.values()]
    return [
        row["shape"],
        str(row["threads"]),
        _gops(row, u8),
        share,
        *_against(row, statistic, u8, names.peers_with("u8")),
        *_against(row, statistic, u8, names.peers),
        _gops(row, dynamic),
        *_against(row, statistic, dynamic, names.peers_with("dynamic")),
        *floats,
    ]


def line(values: Sequence[str]) -> str:
    """``values`` under the headings, numbers to the right."""
    out = []
    for value, (title, width) in zip(values, COLUMNS, strict=True):
        left = title == "shape" or title.startswith("best")
        out.append(f"{value[:width]:<{width}}" if left else f"{value:>{width}}")
    return "  ".join(out).rstrip()


def heading() -> str:
    return line([title for title, _ in COLUMNS])


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


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    s = report["summary"]
    lines = []
    for title, c in s["comparisons"].items():
        worst = c["worst"]
        lines.append(
            f"{title}: first on {100 * c['first']:.0f}% of {c['rows']} rows, geometric mean {c['geometric_mean']:.2f}x, "
            f"worst {worst['ratio']:.2f}x ({worst['shape']}, {worst['threads']} thr., {worst['peer']})"
        )
    peak = s["percent_of_peak"]
    if peak:
        lines.append(
            f"u8, M, K, N >= 512: {peak['geometric_mean']:.0f}% of the peak "
            f"(geometric mean of {peak['rows']} rows), least {peak['least']:.0f}%"
        )
    for reason in sorted({r for r in report["peak_not_measured"].values() if r}):
        lines.append(f"peak not measured: {reason}")
    for n, c in s["scaling"].items():
        worst = c["worst"]
        lines.append(
            f"{n} threads over one: {c['geometric_mean']:.2f}x (geometric mean of {c['rows']} rows of M >= 16 and 10^8 operations), "
            f"worst {worst['ratio']:.2f}x ({worst['shape']})"
        )
    return lines


def absences(report: Mapping[str, Any]) -> list[str]:
    """Contenders that did not take part, and rows on which one failed, each with the reason."""
    lines = [f"missing: {c['name']}: {c['missing']}" for c in report["contenders"] if c["missing"]]
    for row in report["rows"]:
        lines += [f"failed: {name} on {row['shape']}, {row['threads']} thr.: {reason}" for name, reason in row["failed"].items()]
    return lines


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *(f"| {' | '.join(r)} |" for r in rows)]


def markdown(report: Mapping[str, Any]) -> str:
    """Summary, the main table, then every contender's GOPS."""
    names, statistic = Names(report["contenders"]), report["summary"]["statistic"]
    rows = report["rows"]
    bullets: Callable[[list[str]], list[str]] = lambda lines: [f"- {text}" for text in lines]  # noqa: E731
    parts = ["# Quantized GEMM", "", *bullets(conditions(report)), "", "## Summary", "", *bullets(summary_lines(report))]
    parts += ["", "## qgemm against the best", "", "GOPS, shapes MxKxN; a ratio above 1: qgemm is faster.", ""]
    parts += _table([title for title, _ in COLUMNS], [cells(row, names, statistic) for row in rows])
    shown = [c["name"] for c in report["contenders"] if any(_gops(row, c["name"]) for row in rows)]
    for threads in sorted({row["threads"] for row in rows}):
        parts += ["", f"## All contenders, {threads} thread{'' if threads == 1 else 's'}: GOPS", ""]
        body = []
        for row in (r for r in rows if r["threads"] == threads):
            peak = f"{row['peak_gops']:.0f}" if row["peak_gops"] else ""
            body.append([row["shape"], peak, *(_gops(row, name) for name in shown)])
        parts += _table(["shape", "peak", *shown], body)
    thin = [row for row in rows if row["m"] <= 8]
    if thin:
        parts += ["", "## M <= 8: weights read, GB/s", "", "int8 weights over the time; FP32 contenders read four times as many bytes.", ""]
        body = []
        for row in thin:
            name = names.ours("u8", row)
            rival = best(row, statistic, [n for o in ("u8", "s32", "f32", "dynamic") for n in names.peers_with(o)])
            taken = seconds(row, statistic)
            read = [f"{row['k'] * row['n'] / t * 1e-9:.1f}" if t else "" for t in (taken.get(name or ""), rival and rival[1])]
            body.append([row["shape"], str(row["threads"]), read[0], read[1], rival[0] if rival else ""])
        parts += _table(["shape", "thr", "qgemm u8", "best integer peer", "which"], body)
    absent = absences(report)
    if absent:
        parts += ["", "## Absent", "", *bullets(absent)]
    return "\n".join(parts) + "\n"


def plot(report: Mapping[str, Any], path: Path) -> None:
    """A panel for each number of threads, a line for each shape: how many times as long as qgemm the best peer of each kind takes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names, statistic = Names(report["contenders"]), report["summary"]["statistic"]
    counts = sorted({row["threads"] for row in report["rows"]})
    tallest = max(sum(row["threads"] == n for row in report["rows"]) for n in counts)
    figure, axes = plt.subplots(1, len(counts), figsize=(7.5 * len(counts), 2.4 + 0.22 * tallest), squeeze=False, layout="constrained")
    # Against qgemm with u8 out, but dynamic against dynamic.
    kinds = (
        ("BF16", "u8", [FLOATS["bf16"]], "+", "#9a9a9a"),
        ("FP32", "u8", [FLOATS["fp32"]], "x", "#5f5f5f"),
        ("best peer with raw s32 out", "u8", names.peers_with("s32"), "v", "#b9982c"),
        ("best dynamic peer, over qgemm dynamic", "dynamic", names.peers_with("dynamic"), "s", "#8a6fb0"),
        ("best peer with u8 out", "u8", names.peers_with("u8"), "o", "#d8602b"),
    )
    for ax, threads in zip(axes[0], counts, strict=True):
        rows = sorted((r for r in report["rows"] if r["threads"] == threads), key=lambda r: (r["m"] * r["k"] * r["n"], r["shape"]))
        for label, output, peers, marker, color in kinds:
            points = []
            for i, row in enumerate(rows):
                ours, rival = names.ours(output, row), best(row, statistic, peers)
                if ours and rival:
                    # What lies outside the scale is drawn on its edge.
                    points.append((min(max(rival[1] / seconds(row, statistic)[ours], SCALE[0]), SCALE[1]), i))
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
        right.set_yticks(range(len(rows)), [_reached(row, names, statistic) for row in rows], fontsize=8, color="#0b5fb0")
        right.tick_params(length=0)
        ax.set_xlabel("time of the peer / time of qgemm (left of 1x: the peer is faster)")
        ax.set_title(f"{threads} thread{'' if threads == 1 else 's'}; on the right qgemm u8: GOPS, % of peak", fontsize=10)
        ax.grid(True, which="major", color="#e3e3e3", zorder=0)
        ax.set_axisbelow(True)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, 3 * len(counts)), fontsize=9, frameon=False)
    figure.suptitle(f"Quantized GEMM, shapes MxKxN by arithmetic, most at the top. {report['machine']['cpu']}", fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _reached(row: Row, names: Names, statistic: str) -> str:
    ours = names.ours("u8", row)
    if ours is None:
        return ""
    share = f"  {percent_of_peak(row, seconds(row, statistic)[ours]):.0f}%" if row["peak_gops"] else ""
    return f"{_gops(row, ours)}{share}"
