"""The command line of a benchmark: a fresh process for each number of threads, in which all contenders take turns; then the report."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from . import machine, measure, peak, present, summary
from .benchmark import Benchmark
from .contenders.base import select

SCHEMA = 1


def parse(bench: Benchmark, argv: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=bench.about, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peers", default="all", help="all, none, or parts of names or libraries, separated by commas (default: all)")
    p.add_argument("--threads", default="1,2", help="numbers of threads, separated by commas (default: 1,2 where there are 2 cores)")
    p.add_argument("--shapes", default="all", help=f"lists in {bench.lists.folder.name}/ or JSON files, separated by commas (default: all)")
    p.add_argument("--filter", default="", help="regular expression: only shapes whose label or use matches")
    text = f"samples of each contender in a row, at most (default: {bench.default_repeats})"
    p.add_argument("--repeats", type=int, default=bench.default_repeats, help=text)
    text = f"time for the samples of a row; at least 5 rounds (default: {bench.default_seconds:g})"
    p.add_argument("--seconds-per-row", type=float, default=bench.default_seconds, help=text)
    p.add_argument("--min-sample-ms", type=float, default=1.0, help="short calls are repeated to fill this (default: 1)")
    p.add_argument("--statistic", choices=("median", "min"), default="median", help="what ratios are made of (default: median)")
    p.add_argument("--no-peak", action="store_true", help="do not measure (nor build) the native peak loop")
    p.add_argument("--json", type=Path, help="write all measurements here")
    p.add_argument("--merge", type=Path, nargs="+", help="measure nothing: make one report of these, later rows replacing earlier")
    p.add_argument("--markdown", type=Path, help="write tables here")
    p.add_argument("--plot", type=Path, help="write a picture here (needs matplotlib)")
    p.add_argument("--list", action="store_true", help="list contenders and shape lists, and stop")
    p.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    p.add_argument("--only", help=argparse.SUPPRESS)
    p.add_argument("--ended", default="{}", help=argparse.SUPPRESS)
    bench.add_options(p)
    args = p.parse_args(argv)
    present_cores = len(machine.cores())
    try:
        counts = [int(t) for t in args.threads.split(",")]
    except ValueError:
        p.error(f"--threads takes numbers separated by commas, got '{args.threads}'")
    if args.threads == p.get_default("threads"):
        counts = [n for n in counts if n <= present_cores]
    if min(counts) < 1 or max(counts) > present_cores:
        p.error(f"--threads {args.threads}: this process may use {present_cores} physical cores")
    if args.repeats < 1 or args.seconds_per_row < 0 or args.min_sample_ms <= 0:
        p.error("--repeats must be at least 1, --seconds-per-row at least 0, --min-sample-ms above 0")
    for path in filter(None, (args.json, args.markdown, args.plot)):
        if not path.resolve().parent.is_dir():
            p.error(f"no folder {path.parent} to write {path.name} in")
    if args.plot and not importlib.util.find_spec("matplotlib"):
        p.error('--plot needs matplotlib, which is not installed: pip install "qgemm[plot]"')
    args.counts = counts
    args.lists = bench.lists.available() if args.shapes == "all" else args.shapes.split(",")
    bench.check_options(args)
    return args


def quieten() -> None:
    """Peers warn of deprecations at import and compilation; none of that is about the measurement."""
    warnings.filterwarnings("ignore")
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401  (sets up its logging, which would undo what follows)
    for name in ("torch", "torchao"):
        logging.getLogger(name).setLevel(logging.ERROR)


def work(bench: Benchmark, args: argparse.Namespace) -> None:
    """Measure in this process, on one number of threads; the file is complete after every row."""
    threads = args.counts[0]
    cpus = machine.pin(threads)
    quieten()
    chosen = select(bench.contenders(), args.peers)
    inference: Any = contextlib.nullcontext()
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(threads)
        inference = torch.inference_mode()
    only = json.loads(args.only)
    todo = [s for s in bench.shapes(args) if s.label in only]
    settings = measure.Settings(args.repeats, args.seconds_per_row, args.min_sample_ms * 1e-3, bench.min_rounds)
    limit = peak.Peak(cpus)
    if args.no_peak or not bench.needs_peak:
        limit.reason = "--no-peak" if args.no_peak else "not part of this benchmark"
    with inference:
        kept, dropped = measure.usable(chosen, threads, bench.trials())
        described = [
            {"name": c.name, "library": c.library, "output": c.output, "ours": c.ours, "missing": dropped.get(c.name)} for c in chosen
        ]
        partial = {"threads": threads, "cpus": cpus, "machine": machine.describe(), "contenders": described, "rows": []}
        names = summary.Names(described)
        progress = present.Progress(len(todo), f"{threads} thr.")
        ended = json.loads(args.ended)

        def note(label: str, contender: str | None) -> None:
            at_work(args.worker).write_text(json.dumps([label, contender]))
            progress.note(f"{label}: {contender}" if contender else label)

        for shape in todo:
            row = measure.measure_row(shape, kept, threads, settings, limit, note, ended.get(shape.label))
            partial["rows"].append(row)
            partial["peak_not_measured"] = limit.reason
            args.worker.write_text(json.dumps(partial))
            progress.row(present.line(bench.cells(row, names, args.statistic), bench.columns))
        progress.close()


def at_work(piece: Path) -> Path:
    """Where the process that writes ``piece`` says which shape and contender it is at, in case it does not live to say more."""
    return piece.with_suffix(".at")


def measure_part(folder: Path, number: int, threads: int, labels: list[str], forwarded: list[str]) -> tuple[list[dict[str, Any]], bool]:
    """What processes on ``threads`` threads measured of ``labels``, and whether the user stopped them. A contender that ends the process
    with a signal is named in its row, and what is left is measured by another process, without it."""
    pieces: list[dict[str, Any]] = []
    ended: dict[str, dict[str, str]] = {}
    while labels:
        piece = folder / f"{number}_{len(pieces)}_{sum(map(len, ended.values()))}_{len(labels)}.json"
        own = ["--threads", str(threads), "--worker", str(piece), "--only", json.dumps(labels), "--ended", json.dumps(ended)]
        interrupted = False
        try:
            code = subprocess.run([sys.executable, sys.argv[0], *forwarded, *own], env=machine.environment(threads)).returncode
        except KeyboardInterrupt:
            code, interrupted = 0, True
        if piece.is_file():
            pieces.append(json.loads(piece.read_text()))
            measured = {row["shape"] for row in pieces[-1]["rows"]}
            labels = [label for label in labels if label not in measured]
        if code:
            print(f"the process for {threads} threads ended with {code}", file=sys.stderr)
        if code >= 0 or not at_work(piece).is_file():
            return pieces, interrupted
        label, contender = json.loads(at_work(piece).read_text())
        if contender is None:  # all were at work: none can be named
            print(f"no row for {label}: the process ended while contenders took turns", file=sys.stderr)
            labels = [other for other in labels if other != label]
        else:
            ended.setdefault(label, {})[contender] = f"ended the process with {signal.Signals(-code).name}"
    return pieces, False


def run(bench: Benchmark, args: argparse.Namespace, forwarded: list[str]) -> dict[str, Any]:
    """A process for each number of threads and part of the shapes; their rows in one report."""
    # Before the processes that measure bind themselves and load the machine.
    idle = {"physical_cores": len(machine.cores()), "load": round(os.getloadavg()[0], 2)}
    pieces = []
    todo = [(threads, part) for part in bench.parts(bench.shapes(args)) for threads in args.counts]
    with tempfile.TemporaryDirectory() as folder:
        for i, (threads, labels) in enumerate(todo):
            measured, interrupted = measure_part(Path(folder), i, threads, labels, forwarded)
            pieces += measured
            if interrupted:
                print("interrupted: the report has the rows measured so far", file=sys.stderr)
                break
    if not pieces:
        raise SystemExit("nothing was measured")
    described = pieces[0]["contenders"]
    for piece in pieces[1:]:
        for c, other in zip(described, piece["contenders"], strict=True):
            c["missing"] = c["missing"] or other["missing"]
    rows = [row for piece in pieces for row in piece["rows"]]
    return {
        "schema": SCHEMA,
        "benchmark": bench.name,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": pieces[0]["machine"] | idle,
        "settings": {
            "repeats": args.repeats,
            "seconds_per_row": args.seconds_per_row,
            "min_sample": args.min_sample_ms * 1e-3,
            "lists": args.lists,
            "filter": args.filter,
        },
        "cpus": {str(p["threads"]): p["cpus"] for p in pieces},
        "peak_not_measured": {str(p["threads"]): p["peak_not_measured"] for p in pieces},
        "contenders": described,
        "rows": rows,
        "summary": bench.summarize(rows, described, args.statistic),
    }


def merge(bench: Benchmark, args: argparse.Namespace) -> dict[str, Any]:
    """One report of several runs on one machine; conditions of the last, the highest load of all."""
    reports = []
    for path in args.merge:
        try:
            report = json.loads(path.read_text())
            if (report["schema"], report["benchmark"]) != (SCHEMA, bench.name):
                raise SystemExit(f"--merge: {path} is a report of '{report['benchmark']}', schema {report['schema']}")
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise SystemExit(f"--merge: {path} is no report of this benchmark: {measure.first_line(e)}") from None
        if reports and report["machine"]["cpu"] != reports[0]["machine"]["cpu"]:
            raise SystemExit(f"--merge: {path} was measured on {report['machine']['cpu']}, the others on {reports[0]['machine']['cpu']}")
        reports.append(report)
    rows: dict[tuple[str, int], Any] = {}
    described: dict[str, Any] = {}
    for report in reports:
        rows |= {(row["shape"], row["threads"]): row for row in report["rows"]}
        for c in report["contenders"]:
            # Missing is what took part in no run.
            described[c["name"]] = c if c["name"] not in described or not c["missing"] else described[c["name"]]
    whole = reports[-1]
    whole["machine"]["load"] = max(report["machine"]["load"] for report in reports)
    whole |= {"rows": list(rows.values()), "contenders": list(described.values())}
    for key in ("cpus", "peak_not_measured"):
        whole[key] = {n: value for report in reports for n, value in report[key].items()}
    whole["settings"]["lists"] = list(dict.fromkeys(name for report in reports for name in report["settings"]["lists"]))
    whole["summary"] = bench.summarize(whole["rows"], whole["contenders"], args.statistic)
    return whole


def list_all(bench: Benchmark, args: argparse.Namespace) -> None:
    quieten()
    for c in select(bench.contenders(), args.peers):
        reason = c.missing()
        print(f"{c.name:<28} {c.library:<12} {c.output:<8} {'missing: ' + reason if reason else 'installed'}")
    print()
    for name in bench.lists.available():
        print(f"{name:<20} {len(bench.lists.load([name])):>3} shapes  {bench.lists.about(name)}")


def main(bench: Benchmark, argv: list[str] | None = None) -> int:
    forwarded = sys.argv[1:] if argv is None else list(argv)
    args = parse(bench, argv)
    if args.list:
        list_all(bench, args)
        return 0
    if args.worker:
        work(bench, args)
        return 0
    if args.merge:
        report = merge(bench, args)
    else:
        select(bench.contenders(), args.peers)  # a wrong name ends here, before anything is built or measured
        if not bench.shapes(args):
            raise SystemExit(f"no shape matches --filter '{args.filter}'")
        if bench.needs_peak and not args.no_peak and not peak.executable().is_file():
            print("building the native peak loop ...", flush=True)
            reason = peak.build()
            if reason:
                print(f"peak not measured: {reason}")
        print(present.heading(bench.columns), flush=True)
        report = run(bench, args, forwarded)
        print()
    print("\n".join([*present.conditions(report), "", *bench.summary_lines(report), *present.absences(report)]))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(bench.markdown(report))
    if args.plot:
        bench.plot(report, args.plot)
    return 0
