"""Samples of several contenders, taken in turns.

A round gives every contender one turn and starts with another one each time, so that a change of clock or a busy neighbour meets all
alike. A turn: wait until the threads of the one before have gone to sleep (the pools of several libraries live in this process and
spin for a while after their work), calls that are not timed, then one sample: as many calls as fill the minimum sample time.
"""

from __future__ import annotations

import gc
import math
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

NOISY = 0.15
_clock = time.perf_counter


@dataclass
class Series:
    """Seconds a call, one entry a sample; a sample is the mean of ``inner`` calls."""

    inner: int
    samples: list[float] = field(default_factory=list)

    @property
    def minimum(self) -> float:
        return min(self.samples)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def iqr(self) -> float:
        """Interquartile range; 0 for a single sample."""
        if len(self.samples) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return high - low

    @property
    def noisy(self) -> bool:
        return self.iqr > NOISY * self.median


def quiet(timeout: float = 0.1) -> None:
    """Wait until no other thread of this process runs, at most ``timeout`` seconds."""
    own = threading.get_native_id()
    deadline = _clock() + timeout
    while _clock() < deadline and any(t != own and s == "R" for t, s in _threads()):
        time.sleep(2e-4)


def _threads() -> list[tuple[int, str]]:
    states = []
    for stat in Path("/proc/self/task").glob("*/stat"):
        try:
            text = stat.read_text()
        except OSError:  # ended meanwhile
            continue
        states.append((int(stat.parent.name), text[text.rindex(")") + 2]))
    return states


Uncounted = Callable[[float], float]  # of the seconds that the last call took, those that are no part of the measurement


def _sample(call: Callable[[], object], inner: int, uncounted: Uncounted | None = None) -> float:
    if uncounted is None:
        start = _clock()
        for _ in range(inner):
            call()
        return (_clock() - start) / inner
    total = 0.0
    for _ in range(inner):
        start = _clock()
        call()
        taken = _clock() - start
        total += taken - uncounted(taken)
    return max(total / inner, 1e-9)


def estimate(call: Callable[[], object], at_least: float, uncounted: Uncounted | None = None) -> tuple[float, int]:
    """Seconds a call when warm, and the number of calls that takes ``at_least`` seconds."""
    call()
    inner = 1
    while True:
        seconds = _sample(call, inner, uncounted)
        if seconds * inner >= at_least / 2:
            return seconds, max(1, math.ceil(at_least / seconds))
        inner = min(inner * 8, max(inner + 1, math.ceil(at_least / max(seconds, 1e-9))))


def interleave(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    seconds: float,
    at_least: float = 1e-3,
    min_rounds: int = 5,
    uncounted: Mapping[str, Uncounted] | None = None,
) -> dict[str, Series]:
    """Time ``calls`` for ``repeats`` rounds, or fewer (never below ``min_rounds``) when ``seconds`` have passed."""
    uncounted = uncounted or {}
    series, cost = {}, {}
    for name, call in calls.items():
        quiet()
        each, inner = estimate(call, at_least, uncounted.get(name))
        series[name] = Series(inner)
        cost[name] = each * (inner + max(1, inner // 2))
    # Where the time does not suffice for all rounds, contenders far slower than the rest sit out every second one, or all but a few.
    stride = dict.fromkeys(calls, 1)
    if calls and repeats > min_rounds and repeats * sum(cost.values()) > seconds:
        usual = 3 * statistics.median(cost.values())
        stride = {name: 1 if c <= usual else 2 if c <= 5 * usual else min_rounds for name, c in cost.items()}
    names = list(calls)
    start = _clock()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for i in range(repeats):
            if i >= min_rounds and _clock() - start > seconds:
                break
            turn = i % max(1, len(names))
            for name in names[turn:] + names[:turn]:
                if i % stride[name]:
                    continue
                call, s = calls[name], series[name]
                quiet()
                for _ in range(max(1, s.inner // 2)):
                    call()
                s.samples.append(_sample(call, s.inner, uncounted.get(name)))
    finally:
        if collecting:
            gc.enable()
    return series
