"""Latency, measured so that the ratio can be believed.

All contenders of a comparison run in one process, in rounds: each round runs every contender once, in a new random order, so that a
change of clock, a busy neighbour, or the caches that the one before left behind meet all of them alike. Minimum and median are given;
the minimum is what the machine can do, the median what it did.
"""

from __future__ import annotations

import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import _core
from .errors import ConfigError


@dataclass(frozen=True)
class Timing:
    """The durations of one contender, in seconds, a round each."""

    name: str
    seconds: tuple[float, ...]

    @property
    def minimum(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    seconds: float = 2.0,
    warmup: int = 3,
    min_rounds: int = 7,
    max_rounds: int = 2000,
    label: str = "",
) -> list[Timing]:
    """Time ``contenders`` (name: a call without arguments) against each other for about ``seconds`` in all.

    warmup: untimed rounds first. label: text of a progress bar on a terminal; none without it.
    """
    if not contenders:
        raise ConfigError("nothing to time: give at least one contender")
    if min_rounds < 1 or max_rounds < min_rounds:
        raise ConfigError(f"need 1 <= min_rounds <= max_rounds, got {min_rounds} and {max_rounds}")
    names, rng = list(contenders), random.Random(0)
    taken: dict[str, list[float]] = {n: [] for n in names}
    for _ in range(warmup):
        for call in contenders.values():
            call()
    clock, start = time.perf_counter, time.perf_counter()
    bar = _progress(label, seconds)
    for i in range(max_rounds):
        elapsed = clock() - start
        bar(elapsed)
        if i >= min_rounds and elapsed > seconds:
            break
        rng.shuffle(names)
        for name in names:
            call = contenders[name]
            t = clock()
            call()
            taken[name].append(clock() - t)
    bar(None)
    return [Timing(n, tuple(taken[n])) for n in contenders]


def _progress(label: str, seconds: float) -> Callable[[float | None], None]:
    if not (label and sys.stderr.isatty()):
        return lambda elapsed: None
    try:
        from tqdm import tqdm
    except ImportError:
        return lambda elapsed: None
    bar = tqdm(total=100, desc=label, leave=False, bar_format="{desc} {bar} {percentage:3.0f}%")

    def show(elapsed: float | None) -> None:
        if elapsed is None:
            bar.close()
        else:
            bar.update(int(min(100, 100 * elapsed / seconds)) - bar.n)

    return show


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def conditions(threads: int | None = None) -> str:
    """One line that says where a figure was taken: CPU, instruction set, threads."""
    n = _core.max_threads() if threads is None else threads
    return f"{cpu_name()}, {_core.active_isa()}, {n} thread{'' if n == 1 else 's'}"


def table(columns: Mapping[str, Sequence[Timing]], baseline: str) -> str:
    """Timings as text: a group of columns for each key of ``columns`` (say, a batch size), a row for each contender.

    The ratio is the baseline's median over the contender's: above 1 is faster than the baseline.
    """
    first = next(iter(columns.values()))
    width = max(12, *(len(t.name) for t in first))
    head = " " * width + "".join(f"  {title + ' (ms)':^26}" for title in columns)
    names = " " * width + f"  {'min':>8}{'median':>9}{'ratio':>9}" * len(columns)
    lines = [head.rstrip(), names]
    for i, row in enumerate(first):
        cells = ""
        for timings in columns.values():
            t, base = timings[i], next(x for x in timings if x.name == baseline)
            cells += f"  {1e3 * t.minimum:>8.3f}{1e3 * t.median:>9.3f}{base.median / t.median:>8.2f}x"
        lines.append(f"{row.name:<{width}}{cells}")
    return "\n".join(lines)
