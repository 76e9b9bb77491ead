#!/usr/bin/env python3
"""Quantized GEMM and Linear: qgemm against every library that is installed, side by side.

    python bench/gemm.py                                        # every shape list, 1 and 2 threads, all peers
    python bench/gemm.py --shapes bert_base --peers onnxruntime,onednn --threads 1
    python bench/gemm.py --json gemm.json --markdown gemm.md --plot gemm.png

Each number of threads gets a fresh process, in which all contenders take turns. docs/benchmarks.md says how a figure is made.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import contenders, machine, measure, peak, present, shapes, summary  # noqa: E402

SCHEMA = 1


def parse(argv: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peers", default="all", help="all, none, or parts of names or libraries, separated by commas (default: all)")
    p.add_argument("--threads", default="1,2", help="numbers of threads, separated by commas (default: 1,2 where there are 2 cores)")
    p.add_argument("--shapes", default="all", help="lists in bench/shapes or JSON files, separated by commas (default: all)")
    p.add_argument("--filter", default="", help="regular expression: only shapes whose MxKxN or use it matches")
    p.add_argument("--repeats", type=int, default=40, help="samples of each contender in a row, at most (default: 40)")
    p.add_argument("--seconds-per-row", type=float, default=2.5, help="time for the samples of a row; at least 5 rounds (default: 2.5)")
    p.add_argument("--min-sample-ms", type=float, default=1.0, help="short calls are repeated to fill this (default: 1)")
    p.add_argument("--statistic", choices=("median", "min"), default="median", help="what ratios are made of (default: median)")
    p.add_argument("--no-peak", action="store_true", help="do not measure (nor build) the native peak loop")
    p.add_argument("--json", type=Path, help="write all measurements here")
    p.add_argument("--markdown", type=Path, help="write tables here")
    p.add_argument("--plot", type=Path, help="write a picture here (needs matplotlib)")
    p.add_argument("--list", action="store_true", help="list contenders and shape lists, and stop")
    p.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
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
    args.lists = shapes.available() if args.shapes == "all" else args.shapes.split(",")
    return args


def quieten() -> None:
    """Peers warn of deprecations at import and compilation; none of that is about the measurement."""
    warnings.filterwarnings("ignore")
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401  (sets up its logging, which would undo what follows)
    for name in ("torch", "torchao"):
        logging.getLogger(name).setLevel(logging.ERROR)


def work(args: argparse.Namespace) -> None:
    """Measure in this process, on one number of threads; the file is complete after every row."""
    threads = args.counts[0]
    cpus = machine.pin(threads)
    quieten()
    chosen = contenders.select(args.peers)
    inference: Any = contextlib.nullcontext()
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(threads)
        inference = torch.inference_mode()
    todo = shapes.load(args.lists, args.filter)
    settings = measure.Settings(args.repeats, args.seconds_per_row, args.min_sample_ms * 1e-3)
    limit = peak.Peak(cpus)
    if args.no_peak:
        limit.reason = "--no-peak"
    with inference:
        kept, dropped = measure.usable(chosen, threads)
        described = [
            {"name": c.name, "library": c.library, "output": c.output, "ours": c.ours, "missing": dropped.get(c.name)} for c in chosen
        ]
        partial = {"threads": threads, "cpus": cpus, "machine": machine.describe(), "contenders": described, "rows": []}
        names = summary.Names(described)
        progress = present.Progress(len(todo), f"{threads} thr.")
        for shape in todo:
            row = measure.measure_row(shape, kept, threads, settings, limit, progress.note)
            partial["rows"].append(row)
            partial["peak_not_measured"] = limit.reason
            args.worker.write_text(json.dumps(partial))
            progress.row(present.line(present.cells(row, names, args.statistic)))
        progress.close()


def run(args: argparse.Namespace, forwarded: list[str]) -> dict[str, Any]:
    """A process for each number of threads; their rows in one report."""
    # Before the processes that measure bind themselves and load the machine.
    idle = {"physical_cores": len(machine.cores()), "load": round(os.getloadavg()[0], 2)}
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        for threads in args.counts:
            part = Path(folder) / f"{threads}.json"
            command = [sys.executable, __file__, *forwarded, "--threads", str(threads), "--worker", str(part)]
            interrupted = False
            try:
                code = subprocess.run(command, env=machine.environment(threads)).returncode
            except KeyboardInterrupt:
                code, interrupted = 0, True
            if part.is_file():
                parts.append(json.loads(part.read_text()))
            if code:
                print(f"the process for {threads} threads ended with {code}", file=sys.stderr)
            if interrupted:
                print("interrupted: the report has the rows measured so far", file=sys.stderr)
                break
    if not parts:
        raise SystemExit("nothing was measured")
    rows = [row for part in parts for row in part["rows"]]
    described = parts[0]["contenders"]
    for part in parts[1:]:
        for c, other in zip(described, part["contenders"], strict=True):
            c["missing"] = c["missing"] or other["missing"]
    return {
        "schema": SCHEMA,
        "benchmark": "gemm",
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": parts[0]["machine"] | idle,
        "settings": {
            "repeats": args.repeats,
            "seconds_per_row": args.seconds_per_row,
            "min_sample": args.min_sample_ms * 1e-3,
            "lists": args.lists,
            "filter": args.filter,
        },
        "cpus": {str(p["threads"]): p["cpus"] for p in parts},
        "peak_not_measured": {str(p["threads"]): p["peak_not_measured"] for p in parts},
        "contenders": described,
        "rows": rows,
        "summary": summary.summarize(rows, described, args.statistic),
    }


def list_all(args: argparse.Namespace) -> None:
    quieten()
    for c in contenders.select(args.peers):
        reason = c.missing()
        print(f"{c.name:<28} {c.library:<12} {c.output:<8} {'missing: ' + reason if reason else 'installed'}")
    print()
    for name in shapes.available():
        about = json.loads((shapes.FOLDER / f"{name}.json").read_text())["about"]
        print(f"{name:<12} {len(shapes.load([name])):>3} shapes  {about}")


def main(argv: list[str] | None = None) -> int:
    forwarded = sys.argv[1:] if argv is None else list(argv)
    args = parse(argv)
    if args.list:
        list_all(args)
        return 0
    if args.worker:
        work(args)
        return 0
    contenders.select(args.peers)  # a wrong name ends here, before anything is built or measured
    if not shapes.load(args.lists, args.filter):
        raise SystemExit(f"no shape matches --filter '{args.filter}'")
    if not args.no_peak and not peak.executable().is_file():
        print("building the native peak loop ...", flush=True)
        reason = peak.build()
        if reason:
            print(f"peak not measured: {reason}")
    print(present.heading(), flush=True)
    report = run(args, forwarded)
    print()
    print("\n".join([*present.conditions(report), "", *present.summary_lines(report), *present.absences(report)]))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(present.markdown(report))
    if args.plot:
        present.plot(report, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
