"""Measurements for people: terminal, Markdown, plot."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .summary import FLOATS, Names, Row, best, percent_of_peak, seconds

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
    """A panel for each number of threads: a row for each shape, GOPS of qgemm and of the best peer of each kind."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names, statistic = Names(report["contenders"]), report["summary"]["statistic"]
    counts = sorted({row["threads"] for row in report["rows"]})
    tallest = max(sum(row["threads"] == n for row in report["rows"]) for n in counts)
    figure, axes = plt.subplots(1, len(counts), figsize=(7 * len(counts), 2.2 + 0.24 * tallest), squeeze=False, layout="constrained")
    kinds = (
        ("best u8 peer", names.peers_with("u8"), "o", "#e07b39"),
        ("best s32 peer (not requantized)", names.peers_with("s32"), "v", "#b9a44c"),
        ("best dynamic peer", names.peers_with("dynamic"), "s", "#8a6fb0"),
        ("best FP32", names.peers_with("fp32"), "x", "#7f7f7f"),
        ("best BF16", names.peers_with("bf16"), "+", "#bcbcbc"),
    )
    for ax, threads in zip(axes[0], counts, strict=True):
        rows = sorted((r for r in report["rows"] if r["threads"] == threads), key=lambda r: (2 * r["m"] * r["k"] * r["n"], r["shape"]))

        def rate(row: Row, name: str | None) -> float | None:
            t = seconds(row, statistic).get(name or "")
            return 2 * row["m"] * row["k"] * row["n"] / t * 1e-9 if t else None

        def draw(values: Sequence[float | None], marker: str, color: str, label: str, size: int, order: int, ax=ax) -> None:
            points = [(v, i) for i, v in enumerate(values) if v is not None]
            if points:
                ax.scatter(*zip(*points, strict=True), marker=marker, c=color, s=size, label=label, zorder=order)

        for label, peers, marker, color in kinds:
            rivals = [best(row, statistic, peers) for row in rows]
            rates = [rate(row, r[0]) if r else None for row, r in zip(rows, rivals, strict=True)]
            draw(rates, marker, color, label, 26, 2)
        draw([rate(row, names.ours("dynamic", row)) for row in rows], "s", "#7fb2e5", "qgemm dynamic", 26, 3)
        draw([rate(row, names.ours("u8", row)) for row in rows], "D", "#0b5fb0", "qgemm u8", 34, 4)
        peaks = [(row["peak_gops"], i) for i, row in enumerate(rows) if row["peak_gops"]]
        if peaks:
            ax.plot(*zip(*peaks, strict=True), color="#303030", lw=1, ls=":", label="vpdpbusd peak")
        ax.set_xscale("log")
        ax.set_yticks(range(len(rows)), [row["shape"] for row in rows], fontsize=8)
        ax.set_ylim(-0.7, len(rows) - 0.3)
        ax.set_xlabel("GOPS")
        ax.set_title(f"{threads} thread{'' if threads == 1 else 's'}", fontsize=11)
        ax.grid(True, which="major", color="#e6e6e6", zorder=0)
        ax.set_axisbelow(True)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.suptitle(f"Quantized GEMM, MxKxN, smallest at the bottom\n{report['machine']['cpu']}", fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)
