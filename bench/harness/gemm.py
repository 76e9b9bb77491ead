"""The GEMM benchmark: shapes MxKxN, contenders of ``contenders/``, compared by what they deliver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from . import contenders, present, shapes
from .benchmark import Benchmark
from .present import against, gops
from .summary import FLOATS, Names, Row, best, compare, peak_share, scaling, seconds

INTEGER_OUTPUTS = ("u8", "s32", "f32", "dynamic")
MODULE, ENGINE = "qgemm.nn.Linear", "qgemm engine dynamic"
MANY_ROWS = 16  # from this M on a GEMM is bound by arithmetic, and the ratio to floating point is one of kernels
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


class Gemm(Benchmark):
    name = "gemm"
    title = "Quantized GEMM"
    lists = shapes.LISTS
    columns = COLUMNS

    def __init__(self, about: str = ""):
        self.about = about

    def contenders(self) -> list[contenders.Contender]:
        return contenders.all_contenders()

    def trials(self) -> list[shapes.Shape]:
        return [shapes.Shape(6, 96, 64)]

    def cells(self, row: Row, names: Names, statistic: str) -> list[str]:
        """GOPS are of medians, ratios of ``statistic``."""
        u8, dynamic = names.ours("u8", row), names.ours("dynamic", row)
        return [
            row["shape"],
            str(row["threads"]),
            gops(row, u8),
            present.share(row, names, statistic),
            *against(row, statistic, u8, names.peers_with("u8")),
            *against(row, statistic, u8, names.peers),
            gops(row, dynamic),
            *against(row, statistic, dynamic, names.peers_with("dynamic")),
            *(against(row, statistic, u8, [name])[1] for name in FLOATS.values()),
        ]

    def summarize(self, rows: Sequence[Row], described: Sequence[Mapping[str, Any]], statistic: str) -> dict[str, Any]:
        """Comparisons by title, percent of peak, scaling over threads. Comparisons without rows are left out."""
        names = Names(described)
        comparisons = {}

        def add(title: str, output: str, peers: Sequence[str], chosen: Sequence[Row]) -> None:
            result = compare(chosen, statistic, lambda row: names.ours(output, row), peers)
            if result is not None:
                comparisons[title] = result

        for output in INTEGER_OUTPUTS:
            add(f"{output} against the best peer with {output} out", output, names.peers_with(output), rows)
        add("u8 against the best peer of any kind", "u8", names.peers, rows)
        many = [row for row in rows if row["m"] >= MANY_ROWS]
        for kind, name in FLOATS.items():
            add(f"u8 against {kind.upper()}, M >= {MANY_ROWS}", "u8", [name], many)
            add(f"u8 against the best {kind.upper()}, M >= {MANY_ROWS}", "u8", names.peers_with(kind), many)
        # Where M, K, N >= 512 arithmetic alone is the limit.
        large = [row for row in rows if min(row["m"], row["k"], row["n"]) >= 512]
        return {
            "statistic": statistic,
            "comparisons": comparisons,
            "percent_of_peak": peak_share(large, names, statistic),
            "scaling": scaling(many, names, statistic, lambda row: row["ops"] >= 1e8),
            "module_overhead": self._module_overhead(rows, statistic),
        }

    @staticmethod
    def _module_overhead(rows: Sequence[Row], statistic: str) -> dict[str, Any] | None:
        """Seconds that a call of qgemm.nn.Linear takes beyond the engine's, where a product of up to 10^6 operations lets them be seen."""
        found = []
        for row in rows:
            taken = seconds(row, statistic)
            if row["ops"] <= 1e6 and {MODULE, ENGINE} <= taken.keys():
                found.append((taken[MODULE] - taken[ENGINE], row["shape"]))
        return {"rows": len(found), "median": median(x for x, _ in found), "most": max(found)[0], "shape": max(found)[1]} if found else None

    def summary_lines(self, report: Mapping[str, Any]) -> list[str]:
        s = report["summary"]
        return [
            *present.comparison_lines(report),
            *present.peak_line("u8, M, K, N >= 512", s["percent_of_peak"]),
            *present.scaling_lines(s["scaling"], "M >= 16 and 10^8 operations"),
            *self._module_line(s.get("module_overhead")),
        ]

    @staticmethod
    def _module_line(overhead: Mapping[str, Any] | None) -> list[str]:
        if not overhead:
            return []
        return [
            f"qgemm.nn.Linear over the engine: {1e6 * overhead['median']:.1f} us a call (median of {overhead['rows']} rows of up to 10^6 "
            f"operations), most {1e6 * overhead['most']:.1f} us ({overhead['shape']})"
        ]

    def sections(self, report: Mapping[str, Any]) -> list[str]:
        """Where reading the weights is the limit: how fast they are read."""
        names, statistic = Names(report["contenders"]), report["summary"]["statistic"]
        body = []
        for row in (r for r in report["rows"] if r["m"] <= 8):
            name = names.ours("u8", row)
            rival = best(row, statistic, [n for o in INTEGER_OUTPUTS for n in names.peers_with(o)])
            taken = seconds(row, statistic)
            read = [f"{row['k'] * row['n'] / t * 1e-9:.1f}" if t else "" for t in (taken.get(name or ""), rival and rival[1])]
            body.append([row["shape"], str(row["threads"]), read[0], read[1], rival[0] if rival else ""])
        if not body:
            return []
        about = "int8 weights over the time; FP32 contenders read four times as many bytes."
        head = ["shape", "thr", "qgemm u8", "best integer peer", "which"]
        return ["", "## M <= 8: weights read, GB/s", "", about, "", *present.table(head, body)]

    def plot(self, report: Mapping[str, Any], path: Path) -> None:
        names = Names(report["contenders"])
        # Against qgemm with u8 out, but dynamic against dynamic.
        kinds = (
            ("BF16", "u8", [FLOATS["bf16"]], "+", "#9a9a9a"),
            ("FP32", "u8", [FLOATS["fp32"]], "x", "#5f5f5f"),
            ("best peer with raw s32 out", "u8", names.peers_with("s32"), "v", "#b9982c"),
            ("best dynamic peer, over qgemm dynamic", "dynamic", names.peers_with("dynamic"), "s", "#8a6fb0"),
            ("best peer with u8 out", "u8", names.peers_with("u8"), "o", "#d8602b"),
        )
        present.plot(report, path, "Quantized GEMM, shapes MxKxN by arithmetic, most at the top.", kinds)
