"""The benchmark of whole networks: its options, columns, summary and picture."""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import present
from ..benchmark import Benchmark
from ..contenders.base import Contender
from ..summary import FLOATS, Names, Row, best, compare, seconds
from . import shapes

COLUMNS = (
    ("shape", 22),
    ("thr", 3),
    ("qgemm ms", 9),
    ("iqr", 6),
    ("quantize", 9),
    ("aimet", 9),
    ("best peer with int8", 32),
    ("ratio", 6),
    ("best peer of any kind", 32),
    ("ratio", 6),
    ("x FP32", 6),
    ("x BF16", 6),
    ("x sim.", 6),
)
SIMULATION = "AIMET simulation"
# A result so much further from float32 than its class is doubtful (grids of 7 bits, which torch FX prefers, cost 6 dB), unless it is as
# near as SURE_DB, where the order of summation decides.
DOUBTFUL_DB, SURE_DB = 10.0, 60.0


def milliseconds(row: Row, name: str | None) -> str:
    for r in row["results"]:
        if r["contender"] == name:
            return f"{1e3 * r['seconds']['median']:.2f}{'~' if r['noisy'] else ''}"
    return ""


def doubtful(report: Mapping[str, Any]) -> list[str]:
    """Contenders much further from float32 than others of their class on the same row: right enough to be timed, but suspect."""
    output = {c["name"]: c["output"] for c in report["contenders"]}
    lines = []
    for row in report["rows"]:
        for kind in dict.fromkeys(output.values()):
            reached = {r["contender"]: r["sqnr_db"] for r in row["results"] if output[r["contender"]] == kind}
            if len(reached) < 3:
                continue
            usual = statistics.median(reached.values())
            lines += [
                f"doubtful: {name} on {row['shape']}, {row['threads']} thr.: {db:.1f} dB to float32, usual for {kind} {usual:.1f}"
                for name, db in reached.items()
                if db < usual - DOUBTFUL_DB and db < SURE_DB
            ]
    return lines


class Models(Benchmark):
    name = "models"
    title = "Quantized networks"
    unit = "ms a batch"
    lists = shapes.LISTS
    columns = COLUMNS
    needs_peak = False
    default_repeats = 15
    default_seconds = 6.0
    min_rounds = 3

    def __init__(self, about: str = ""):
        self.about = about

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--batch", default="1,8", help="batch sizes, separated by commas (default: 1,8)")
        parser.add_argument("--artefacts", type=Path, help="folder for ONNX files and compiled packages (default: build/models)")
        parser.add_argument("--prepare", action="store_true", help="build every artefact that is missing, measure each contender once")

    def check_options(self, args: argparse.Namespace) -> None:
        if not {*args.batch.split(",")} <= {str(b) for b in shapes.BATCHES}:
            raise SystemExit(f"--batch {args.batch}: batch sizes are {', '.join(map(str, shapes.BATCHES))}")
        if args.artefacts:
            os.environ["QGEMM_BENCH_ARTEFACTS"] = str(args.artefacts.resolve())
        if args.prepare:
            args.repeats, args.seconds_per_row, self.min_rounds = 1, 0.0, 1

    def shapes(self, args: argparse.Namespace) -> list[Any]:
        return [s for s in super().shapes(args) if str(s.batch) in args.batch.split(",")]

    def parts(self, chosen: Sequence[Any]) -> list[list[str]]:
        """A process for each network, so that memory holds one at a time."""
        return [[s.label] for s in chosen]

    def contenders(self) -> list[Contender]:
        try:
            from .contenders import all_contenders
        except ImportError as e:
            raise SystemExit(f"bench/models.py needs PyTorch, in which the networks are defined: {e}") from None
        return all_contenders()

    def trials(self) -> list[Any]:
        return []  # a network is no small shape: each contender is checked on its own

    def cells(self, row: Row, names: Names, statistic: str) -> list[str]:
        """Milliseconds are medians, ratios of ``statistic``."""
        ours, taken = names.ours("int8", row), seconds(row, statistic)
        spread = next((f"{100 * r['seconds']['iqr'] / r['seconds']['median']:.0f}%" for r in row["results"] if r["contender"] == ours), "")

        def against(peers: Sequence[str]) -> tuple[str, str]:
            rival = best(row, statistic, peers)
            if rival is None:
                return "", ""
            return f"{milliseconds(row, rival[0])} {rival[0]}", f"{rival[1] / taken[ours]:.2f}" if ours else ""

        return [
            row["shape"],
            str(row["threads"]),
            milliseconds(row, ours) if ours else "failed",
            spread,
            milliseconds(row, "qgemm.quantize"),
            milliseconds(row, "qgemm.from_aimet"),
            *against(names.peers_with("int8")),
            *against(names.peers),
            *(against([name])[1] for name in (*FLOATS.values(), SIMULATION)),
        ]

    def summarize(self, rows: Sequence[Row], described: Sequence[Mapping[str, Any]], statistic: str) -> dict[str, Any]:
        names = Names(described)
        comparisons: dict[str, Any] = {}

        def add(title: str, peers: Sequence[str], chosen: Sequence[Row]) -> None:
            result = compare(chosen, statistic, lambda row: names.ours("int8", row), peers)
            if result is not None:
                comparisons[title] = result

        every = names.peers
        add("against the best peer of any kind", every, rows)
        add("against the best int8 peer", names.peers_with("int8"), rows)
        for key, title in (("threads", "{} thr."), ("batch", "batch {}")):
            for value in sorted({row[key] for row in rows}):
                add(title.format(value), every, [row for row in rows if row[key] == value])
        for name in dict.fromkeys(row["model"] for row in rows):
            add(name, every, [row for row in rows if row["model"] == name])
        for name in every:
            add(f"against {name}", [name], rows)
        return {"statistic": statistic, "comparisons": comparisons}

    def summary_lines(self, report: Mapping[str, Any]) -> list[str]:
        lines = [line for line in present.comparison_lines(report) if not line.startswith("peak not measured")]
        return lines + doubtful(report)

    def figure(self, row: Row, contender: str) -> str:
        return milliseconds(row, contender)

    def sections(self, report: Mapping[str, Any]) -> list[str]:
        """How near to float32 each result is; and the variant that was timed where a contender has several."""
        shown = [c["name"] for c in report["contenders"] if any(self.figure(row, c["name"]) for row in report["rows"])]
        body = []
        for row in report["rows"]:
            results = {r["contender"]: r for r in row["results"]}
            sqnr = [f"{results[n]['sqnr_db']:.1f}" if n in results else "" for n in shown]
            body.append([row["shape"], str(row["threads"]), *sqnr])
        about = "Signal-to-noise ratio against float32, dB. Weights are random: this tells who computes the same, not who is accurate."
        return ["", "## Results", "", about, "", *present.table(["shape", "thr", *shown], body), *self.loading(report)]

    def loading(self, report: Mapping[str, Any]) -> list[str]:
        """What stands before the first result of qgemm's programs, and what memory they take."""
        head = ["shape", "thr", "contender", "load ms", "first inference ms", "weights MB", "arena MB", "of the least"]
        body = []
        for row in report["rows"]:
            for r in row["results"]:
                if "load_seconds" in r:
                    times = [f"{1e3 * r[k]:.0f}" for k in ("load_seconds", "first_seconds")]
                    sizes = [f"{1e-6 * r[k]:.2f}" for k in ("weight_bytes", "arena_bytes")]
                    least = f"{r['arena_bytes'] / max(1, r['minimum_bytes']):.2f}"
                    body.append([row["shape"], str(row["threads"]), r["contender"], *times, *sizes, least])
        about = "Loading, and the first inference, which compiles. Arena: of one call's tensors, over the least that any plan of it needs."
        return ["", "## Loading and memory", "", about, "", *present.table(head, body)] if body else []

    def plot(self, report: Mapping[str, Any], path: Path) -> None:
        names = Names(report["contenders"])
        kinds = (
            ("AIMET simulation", "int8", names.peers_with("simulation"), "s", "#8a6fb0"),
            ("best BF16", "int8", names.peers_with("bf16"), "+", "#9a9a9a"),
            ("torch FP32", "int8", [FLOATS["fp32"]], "x", "#5f5f5f"),
            ("best FP32", "int8", names.peers_with("fp32"), "v", "#b9982c"),
            ("best int8", "int8", names.peers_with("int8"), "o", "#d8602b"),
        )
        present.plot(report, path, "Quantized networks.", kinds, ours="int8", reached=milliseconds, unit="ms")
