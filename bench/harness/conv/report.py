"""The convolution benchmark: its options, columns, summary and picture."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import present
from ..benchmark import Benchmark
from ..contenders.base import Contender
from ..present import against, gops
from ..summary import FLOATS, Names, Row, best, compare, peak_share, scaling, seconds
from . import contenders, shapes

COLUMNS = (
    ("shape", 38),
    ("thr", 3),
    ("us", 9),
    ("qgemm u8", 9),
    ("% peak", 6),
    ("engine", 7),
    ("best peer with u8", 32),
    ("ratio", 6),
    ("x FP32", 6),
    ("x BF16", 6),
)
ENGINE = "qgemm engine u8"
# Families of which the summary says what share of the peak they reach.
COMPUTE_BOUND = ("3x3", "1x1", "first layer")


class Conv(Benchmark):
    name = "conv"
    title = "Quantized convolution"
    lists = shapes.LISTS
    columns = COLUMNS
    default_repeats = 20
    default_seconds = 0.8

    def __init__(self, about: str = ""):
        self.about = about

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--batch", default="1,8", help="batch sizes, separated by commas (default: 1,8)")
        parser.add_argument("--family", default="", help=f"only these families, separated by commas: {', '.join(shapes.FAMILIES)}")

    def check_options(self, args: argparse.Namespace) -> None:
        if not {*args.batch.split(",")} <= {str(b) for b in shapes.BATCHES}:
            raise SystemExit(f"--batch {args.batch}: batch sizes are {', '.join(map(str, shapes.BATCHES))}")
        for family in filter(None, args.family.split(",")):
            if family not in shapes.FAMILIES:
                raise SystemExit(f"--family: nothing is called '{family}'; families are {', '.join(shapes.FAMILIES)}")

    def shapes(self, args: argparse.Namespace) -> list[Any]:
        families = args.family.split(",") if args.family else shapes.FAMILIES
        return [s for s in super().shapes(args) if str(s.batch) in args.batch.split(",") and s.family in families]

    def contenders(self) -> list[Contender]:
        return contenders.all_contenders()

    def trials(self) -> list[shapes.Conv]:
        return [shapes.Conv(1, (7, 6), 16, 24, (3, 3), (1, 1), (1, 1), (1, 1), output_padding=(0, 0))]

    def cells(self, row: Row, names: Names, statistic: str) -> list[str]:
        """GOPS and us are of medians, ratios of ``statistic``."""
        u8 = names.ours("u8", row)
        return [
            row["shape"],
            str(row["threads"]),
            f"{1e6 * seconds(row, 'median')[u8]:.3g}" if u8 else "missing",
            gops(row, u8),
            present.share(row, names, statistic),
            gops(row, ENGINE),
            *against(row, statistic, u8, names.peers_with("u8")),
            *(against(row, statistic, u8, [name])[1] for name in FLOATS.values()),
        ]

    def summarize(self, rows: Sequence[Row], described: Sequence[Mapping[str, Any]], statistic: str) -> dict[str, Any]:
        """Comparisons by title: of all rows, by threads and batch, by family. Those without rows are left out."""
        names = Names(described)
        comparisons: dict[str, Any] = {}

        def add(title: str, peers: Sequence[str], chosen: Sequence[Row]) -> None:
            result = compare(chosen, statistic, lambda row: names.ours("u8", row), peers)
            if result is not None:
                comparisons[title] = result

        u8 = names.peers_with("u8")
        add("all, against the best u8 peer", u8, rows)
        for key, title in (("threads", "{} thr."), ("batch", "batch {}")):
            for value in sorted({row[key] for row in rows}):
                add(title.format(value), u8, [row for row in rows if row[key] == value])
        for family in shapes.FAMILIES:
            add(family, u8, [row for row in rows if row["family"] == family])
        for kind, name in FLOATS.items():
            add(f"all, against {kind.upper()}", [name], rows)
            add(f"all, against the best {kind.upper()}", names.peers_with(kind), rows)
        peaks = {f: peak_share([row for row in rows if row["family"] == f], names, statistic) for f in COMPUTE_BOUND}
        peaks["3x3, stride 1, 64 channels and 196 positions or more"] = peak_share(
            [row for row in rows if row["well_shaped"]], names, statistic
        )
        return {
            "statistic": statistic,
            "comparisons": comparisons,
            "percent_of_peak": peaks,
            "scaling": scaling(rows, names, statistic, lambda row: row["ops"] >= 1e7),
            "without_qgemm": [f"{row['shape']}, {row['threads']} thr." for row in rows if names.ours("u8", row) is None],
        }

    def summary_lines(self, report: Mapping[str, Any]) -> list[str]:
        s = report["summary"]
        lines = present.comparison_lines(report)
        for what, peak in s["percent_of_peak"].items():
            lines += present.peak_line(what, peak)
        lines += present.scaling_lines(s["scaling"], "10^7 operations")
        return lines + [f"qgemm has no such operator: {text}" for text in s["without_qgemm"]]

    def plot(self, report: Mapping[str, Any], path: Path) -> None:
        """A panel for each number of threads; each shape a point, by operations and by how many times as fast as the best peer."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        names, statistic = Names(report["contenders"]), report["summary"]["statistic"]
        counts = sorted({row["threads"] for row in report["rows"]})
        figure, axes = plt.subplots(1, len(counts), figsize=(7.5 * len(counts), 6), squeeze=False, sharey=True, layout="constrained")
        colors = plt.get_cmap("tab10")
        for ax, threads in zip(axes[0], counts, strict=True):
            for i, family in enumerate(shapes.FAMILIES):
                for batch, marker in zip(shapes.BATCHES, "o^", strict=True):
                    points = []
                    for row in report["rows"]:
                        ours, rival = names.ours("u8", row), best(row, statistic, names.peers_with("u8"))
                        if (row["threads"], row["family"], row["batch"]) == (threads, family, batch) and ours and rival:
                            points.append((row["ops"], rival[1] / seconds(row, statistic)[ours]))
                    if points:
                        label = f"{family}, batch {batch}"
                        ax.scatter(*zip(*points, strict=True), marker=marker, color=colors(i), s=26, alpha=0.8, label=label, zorder=3)
            ax.axhline(1, color="#0b5fb0", lw=1.2, zorder=1)
            ax.set_xscale("log")
            ax.set_yscale("log", base=2)
            low, high = ax.get_ylim()
            ticks = [t for t in (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 16, 32) if low <= t <= high]
            ax.set_yticks(ticks, [f"{t:g}x" for t in ticks])
            ax.minorticks_off()
            ax.set_xlabel("operations")
            ax.set_ylabel("time of the best u8 peer / time of qgemm")
            ax.set_title(f"{threads} thread{'' if threads == 1 else 's'}", fontsize=10)
            ax.grid(True, which="major", color="#e3e3e3", zorder=0)
            ax.set_axisbelow(True)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=8 if len(counts) > 1 else 4, fontsize=8, frameon=False)
        figure.suptitle(f"Quantized convolution, uint8 to uint8. {report['machine']['cpu']}", fontsize=11)
        figure.savefig(path, dpi=110)
        plt.close(figure)
