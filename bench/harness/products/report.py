"""The benchmark of the other products: its columns, summary and picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import present
from ..benchmark import Benchmark
from ..contenders.base import Contender
from ..present import against, gops
from ..summary import FLOATS, Names, Row, compare, geometric_mean, seconds
from . import contenders, shapes

# What is compared in each kind; the first is the one of the main table and the picture.
OUTPUTS = {
    "signed": ("s8", "s8 s32"),
    "wide": ("u16",),
    "shared": ("shared",),
    "attention": ("product u8", "product s32", "product f32"),
}
COLUMNS = (
    ("shape", 26),
    ("thr", 3),
    ("us", 9),
    ("qgemm", 9),
    ("u8", 7),
    ("best peer", 34),
    ("ratio", 6),
    ("x FP32", 6),
    ("x BF16", 6),
)


class Products(Benchmark):
    name = "products"
    title = "Other quantized products"
    lists = shapes.LISTS
    columns = COLUMNS
    default_repeats = 20
    default_seconds = 1.0

    def __init__(self, about: str = ""):
        self.about = about

    def contenders(self) -> list[Contender]:
        return contenders.all_contenders()

    def trials(self) -> list[shapes.Product]:
        small = {"shared": (48, 16), "attention": (64,)}
        return [shapes.Product(kind, 6, 96, small.get(kind, (64,)), 2 if kind == "attention" else 1) for kind in shapes.KINDS]

    @staticmethod
    def _ours(row: Row, names: Names) -> str | None:
        return names.ours(OUTPUTS[row["kind"]][0], row)

    def cells(self, row: Row, names: Names, statistic: str) -> list[str]:
        """GOPS and us are of medians, ratios of ``statistic``; the first output of the kind."""
        ours = self._ours(row, names)
        return [
            row["shape"],
            str(row["threads"]),
            f"{1e6 * seconds(row, 'median')[ours]:.3g}" if ours else "missing",
            gops(row, ours),
            gops(row, "qgemm u8"),
            *against(row, statistic, ours, names.peers_with(OUTPUTS[row["kind"]][0])),
            *(against(row, statistic, ours, [name])[1] for name in FLOATS.values()),
        ]

    def summarize(self, rows: Sequence[Row], described: Sequence[Mapping[str, Any]], statistic: str) -> dict[str, Any]:
        """Comparisons by title: of every output, and of every kind against floating point. Those without rows are left out."""
        names = Names(described)
        comparisons: dict[str, Any] = {}

        def add(title: str, output: str, peers: Sequence[str], chosen: Sequence[Row]) -> None:
            result = compare(chosen, statistic, lambda row: names.ours(output, row), peers)
            if result is not None:
                comparisons[title] = result

        for kind, outputs in OUTPUTS.items():
            chosen = [row for row in rows if row["kind"] == kind]
            for output in outputs:
                add(f"{kind}: {output}, against the best peer with that output", output, names.peers_with(output), chosen)
            for floating, name in FLOATS.items():
                add(f"{kind}: {outputs[0]}, against {floating.upper()}", outputs[0], [name], chosen)
        return {"statistic": statistic, "comparisons": comparisons, "of_u8": self._of_u8(rows, names, statistic)}

    @staticmethod
    def _of_u8(rows: Sequence[Row], names: Names, statistic: str) -> dict[str, Any]:
        """The rate of each kind over that of uint8 by int8 on the same shape, requantized both; M >= 16."""
        found: dict[str, list[tuple[float, str]]] = {}
        for row in rows:
            ours, u8 = names.ours(OUTPUTS[row["kind"]][0], row), names.ours("u8", row)
            if ours and u8 and row["m"] >= 16:
                taken = seconds(row, statistic)
                found.setdefault(row["kind"], []).append((taken[u8] / taken[ours], f"{row['shape']}, {row['threads']} thr."))
        return {
            kind: {"rows": len(r), "geometric_mean": geometric_mean([x for x, _ in r]), "worst": {"ratio": min(r)[0], "shape": min(r)[1]}}
            for kind, r in found.items()
        }

    def summary_lines(self, report: Mapping[str, Any]) -> list[str]:
        lines = present.comparison_lines(report)
        for kind, share in report["summary"]["of_u8"].items():
            lines.append(
                f"{kind}, M >= 16: {100 * share['geometric_mean']:.0f}% of the rate of uint8 (geometric mean of {share['rows']} rows), "
                f"least {100 * share['worst']['ratio']:.0f}% ({share['worst']['shape']})"
            )
        return lines

    def plot(self, report: Mapping[str, Any], path: Path) -> None:
        names = Names(report["contenders"])
        colors = dict(zip(shapes.KINDS, ("#d8602b", "#b9982c", "#8a6fb0", "#3c8d5a"), strict=True))
        kinds = [
            (f"{kind}: best peer with {OUTPUTS[kind][0]}", OUTPUTS[kind][0], names.peers_with(OUTPUTS[kind][0]), "o", color)
            for kind, color in colors.items()
        ]
        kinds += [(f"{kind}: FP32", OUTPUTS[kind][0], [FLOATS["fp32"]], "x", color) for kind, color in colors.items()]
        present.plot(report, path, "Other quantized products, by arithmetic, most at the top.", kinds)
