"""Rows: one shape, one number of threads, every contender checked and timed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import timing
from .contenders import Contender, Variant
from .lists import AnyShape
from .peak import Peak


@dataclass(frozen=True)
class Settings:
    repeats: int
    seconds_per_row: float
    min_sample: float
    min_rounds: int = 5


def first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"[:200]


def usable(contenders: Sequence[Contender], threads: int, trials: Sequence[AnyShape]) -> tuple[list[Contender], dict[str, str]]:
    """Those that are installed and compute the right result on the ``trials`` that they take, small shapes; and the reasons of the
    others, by name."""
    problems = [(trial, trial.problem()) for trial in trials]
    kept, dropped = [], {}
    for c in contenders:
        reasons = [c.missing()]
        if reasons[0] is None:
            reasons += [_prepare(c, problem, threads, 1e-5)[1] for trial, problem in problems if c.takes(trial)]
        reason = next((r for r in reasons if r is not None), None)
        if reason is None:
            kept.append(c)
        else:
            dropped[c.name] = reason
    return kept, dropped


def _prepare(contender: Contender, problem: Any, threads: int, at_least: float) -> tuple[Variant | None, str | None]:
    """The fastest variant whose result is right, or why there is none."""
    try:
        variants = contender.prepare(problem, threads)
        reason, right = None, []
        for v in variants:
            v.call()
            wrong = problem.check(v.result(), contender.output, contender.adds_bias, contender.subtracts_zero_point)
            if wrong is None:
                right.append(v)
            else:
                reason = wrong
        if len(right) < 2:
            return (right[0], None) if right else (None, reason)
        times = []
        for v in right:
            timing.quiet()
            times.append(timing.estimate(v.call, at_least, v.uncounted)[0])
        return right[times.index(min(times))], None
    except Exception as e:  # a peer may raise anything; the row says what
        return None, first_line(e)


def measure_row(
    shape: AnyShape,
    contenders: Sequence[Contender],
    threads: int,
    settings: Settings,
    peak: Peak,
    note: Callable[[str, str | None], None],
    ended: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """One row of the JSON file. ``note`` is told the shape and the contender that is being prepared, None while they take turns.
    ``ended``: contenders that ended an earlier process in this row, and how; they take no part."""
    problem = shape.problem()
    ready: dict[str, Variant] = {}
    failed = dict(ended or {})
    for c in (c for c in contenders if c.takes(shape) and c.name not in failed):
        note(shape.label, c.name)
        variant, reason = _prepare(c, problem, threads, settings.min_sample)
        if variant is None:
            failed[c.name] = reason or "no variant"
        else:
            ready[c.name] = variant
    note(shape.label, None)
    gops = peak.gops()
    calls = {name: v.call for name, v in ready.items()}
    uncounted = {name: v.uncounted for name, v in ready.items() if v.uncounted}
    budget = (settings.repeats, settings.seconds_per_row, settings.min_sample, settings.min_rounds)
    series = timing.interleave(calls, *budget, uncounted=uncounted)
    describe = getattr(problem, "describe", lambda result: {})
    by_name = {c.name: c for c in contenders}
    last = {name: ready[name].result() for name in series}
    for name, result in last.items():
        c = by_name[name]
        wrong = problem.check(result, c.output, c.adds_bias, c.subtracts_zero_point)
        if wrong is not None:
            failed[name] = f"right at first, but not after its turns: {wrong}"
            del series[name]
    results = [
        {
            "contender": name,
            "variant": ready[name].name,
            "seconds": {"min": s.minimum, "median": s.median, "iqr": s.iqr},
            "samples": len(s.samples),
            "inner": s.inner,
            **describe(last[name]),
            **ready[name].facts,
            "gops": shape.ops / s.median * 1e-9,
            "noisy": s.noisy,
        }
        for name, s in series.items()
    ]
    del problem, ready, calls, uncounted, last
    gc.collect()
    return {
        "shape": shape.label,
        **shape.fields(),
        "ops": shape.ops,
        "uses": list(shape.uses),
        "threads": threads,
        "peak_gops": gops,
        "results": results,
        "failed": failed,
    }
