"""Where the time of a program goes: one row an operation, as a table and as a picture."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import _core
from .bench import conditions
from .errors import ConfigError, require

# One colour a kind of work; the same in every picture.
_COLOURS = {
    "convolution": "#3b6fb6",
    "matrix product": "#2a9d8f",
    "8-bit elementwise": "#e9a23b",
    "bytes moved": "#b7b7b7",
    "float": "#c8553d",
}
_PRODUCTS = ("Conv", "ConvTranspose", "Linear", "MatMul", "Gemm")


@dataclass(frozen=True)
class Row:
    """One operation of a profile, in order of execution.

    name, op, kernel, scheme: as in ``qgemm.report``. microseconds: the median of its times. share: of the time of all rows, 0..1.
    gops: billions of multiplications and additions a second, 0 for what is no product. peak: ``gops`` over the machine's, 0..1.
    output: shape of what it computes.
    """

    name: str
    op: str
    kernel: str
    microseconds: float
    gops: float
    share: float
    scheme: str = ""
    peak: float = 0.0
    output: tuple[int, ...] = ()

    @property
    def kind(self) -> str:
        """The colour of its bar: one of convolution, matrix product, 8-bit elementwise, bytes moved, float."""
        if self.scheme == "float":
            return "float"
        if self.op in ("Conv", "ConvTranspose"):
            return "convolution"
        if self.op in _PRODUCTS:
            return "matrix product"
        return "bytes moved" if self.scheme in ("bytes", "index") else "8-bit elementwise"


class Profile(Sequence):
    """What :meth:`qgemm.Program.profile` measured: rows in order of execution; prints as a table, :meth:`plot` draws it.

    total: microseconds of one inference, the rows together. calls: how often the program ran. peak_gops: what the best 8-bit product of
    this machine reached just before, with as many threads. where: CPU, instruction set, threads.
    """

    def __init__(self, rows: Sequence[Row], calls: int, peak_gops: float, where: str, name: str = ""):
        self.rows = tuple(rows)
        self.calls, self.peak_gops, self.where, self.name = calls, peak_gops, where, name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]

    @property
    def total(self) -> float:
        return sum(r.microseconds for r in self.rows)

    @property
    def kinds(self) -> dict[str, float]:
        """Microseconds a kind of work, the longest first."""
        sums: Counter[str] = Counter()
        for r in self.rows:
            sums[r.kind] += r.microseconds
        return dict(sums.most_common())

    def slowest(self, n: int) -> list[Row]:
        return sorted(self.rows, key=lambda r: r.microseconds, reverse=True)[:n]

    def __str__(self) -> str:
        head = ("layer", "op", "kernel", "output", "us", "share", "GOPS", "of peak")
        body = [
            (
                r.name,
                r.op,
                r.kernel,
                " x ".join(map(str, r.output)),
                f"{r.microseconds:.1f}",
                f"{100 * r.share:.1f}%",
                f"{r.gops:.1f}" if r.gops else "",
                f"{100 * r.peak:.0f}%" if r.gops else "",
            )
            for r in self.rows
        ]
        width = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
        lines = [
            "  ".join(c.ljust(w) if i < 4 else c.rjust(w) for i, (c, w) in enumerate(zip(row, width, strict=True))).rstrip()
            for row in (head, tuple("-" * w for w in width), *body)
        ]
        kinds = ", ".join(f"{kind} {100 * t / self.total:.0f}%" for kind, t in self.kinds.items()) if self.total else ""
        lines.append(f"{self.total / 1e3:.3f} ms in {len(self.rows)} operations, median of {self.calls} calls: {kinds}")
        lines.append(f"{self.where}; peak: {self.peak_gops:.0f} GOPS, an 8-bit product of 512 x 1024 x 1024 just before")
        return "\n".join(lines)

    __repr__ = __str__

    def plot(self, path, top: int = 40) -> None:
        """Draw the profile as a horizontal bar chart, a bar an operation, into a file (.png, .svg, .pdf: as the name ends).

        A bar is as long as the operation's time and coloured by its kind; beside products stands how near they came to the machine's peak.
        top: how many operations have a bar of their own; the shorter ones share the last.

        Raises ConfigError for an ending that matplotlib does not write, MissingDependencyError without matplotlib.
        """
        require("matplotlib", "Profile.plot")
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch

        if top < 1:
            raise ConfigError(f"top is {top}; at least one operation must have a bar")
        shown = set(map(id, self.slowest(top)))
        rows = [r for r in self.rows if id(r) in shown]
        rest = [r for r in self.rows if id(r) not in shown]
        bars = [(r.name, r.microseconds, r.kind, f"{100 * r.peak:.0f}% of peak" if r.gops else "") for r in rows]
        if rest:
            bars.append((f"{len(rest)} others", sum(r.microseconds for r in rest), "", ""))

        figure = Figure(figsize=(9, 1.7 + 0.24 * len(bars)), layout="constrained")
        FigureCanvasAgg(figure)  # no window, no global state of pyplot
        axes = figure.subplots()
        y = range(len(bars))
        axes.barh(y, [b[1] for b in bars], color=[_COLOURS.get(b[2], "#dddddd") for b in bars], height=0.74)
        longest = max((b[1] for b in bars), default=1.0) or 1.0
        for i, (_, us, _, note) in enumerate(bars):
            share = f"{100 * us / self.total:.1f}%" if self.total else ""
            axes.text(us + 0.01 * longest, i, f"{share}   {note}".rstrip(), va="center", fontsize=7.5, color="#333333")
        axes.set_yticks(list(y), [_short(b[0]) for b in bars], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.22 * longest)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_xlabel("microseconds")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        name = f"{self.name}: " if self.name not in ("", "main_graph") else ""  # the latter is what exporters call every graph
        axes.set_title(f"{name}{self.total / 1e3:.2f} ms in {len(self.rows)} operations", loc="left", fontsize=11)
        figure.text(0.995, 0.005, f"{self.where}; peak {self.peak_gops:.0f} GOPS", ha="right", fontsize=7, color="#666666")
        legend = [Patch(color=_COLOURS[kind], label=f"{kind} {100 * t / self.total:.0f}%") for kind, t in self.kinds.items() if self.total]
        if legend:
            figure.legend(handles=legend, loc="outside upper left", ncols=len(legend), fontsize=8, frameon=False, handlelength=1.2)
        try:
            figure.savefig(path, dpi=150)
        except ValueError as e:
            raise ConfigError(f"cannot draw {path}: {e}") from None


def _short(name: str, width: int = 44) -> str:
    return name if len(name) <= width else f"{name[: width // 2 - 1]}…{name[-width // 2 :]}"


def profile(program, inputs: tuple, seconds: float = 1.0) -> Profile:
    """Time every operation of ``program`` on ``inputs`` for about ``seconds``; what :meth:`qgemm.Program.profile` calls."""
    if not (isinstance(seconds, (int, float)) and 0 < seconds <= 3600):
        raise ConfigError(f"seconds is {seconds!r}; it must be above 0 and at most 3600")
    env = program.trace(*inputs)  # checks the inputs, gives the shapes, and warms up
    producers = program.graph.producers()
    peak = peak_gops()
    taken = step_times(program, inputs, seconds)
    total = sum(statistics.median(t) for t in taken) or 1.0
    rows = []
    for step, times in zip(program.steps, taken, strict=True):
        t = statistics.median(times)
        node = producers.get(step.outputs[0])
        gops = 2e-9 * _multiplications(program.graph, node, env) / t if node is not None and t else 0.0
        shape = tuple(env[step.outputs[0]].shape)
        rows.append(Row(step.name, step.op, step.kernel, 1e6 * t, gops, t / total, step.scheme, gops / peak, shape))
    return Profile(rows, len(taken[0]) if taken else 0, peak, conditions(), program.graph.name)


def step_times(program, inputs: tuple, seconds: float) -> list[list[float]]:
    """Seconds of every step, a list of all calls each: at least 5 of them, and as many as fit into ``seconds``.

    They are taken inside the compiled program, where a call spends them: a step that costs nothing there (a view, or an operation that
    another one's kernel does on the way) has 0, and the conversion of the outputs counts as the last step's.
    """
    taken: list[list[float]] = [[] for _ in program.steps]
    clock, start, calls = time.perf_counter, time.perf_counter(), 0
    for each in program._timed_calls(inputs):
        for times, t in zip(taken, each, strict=True):
            times.append(t)
        calls += 1
        if calls >= 5 and clock() - start >= seconds:
            break
    return taken


def _multiplications(graph, node, env: dict[str, np.ndarray]) -> int:
    """Multiplications of a product (a convolution, a matrix product) on the shapes in ``env``; 0 for anything else."""
    if node.op not in _PRODUCTS:
        return 0

    def shape(name):
        return env[name].shape if name in env else np.shape(graph.tensors[name].data)

    out, a, b = shape(node.outputs[0]), shape(node.inputs[0]), shape(node.inputs[1])
    if node.op == "Conv":
        return math.prod(out) * math.prod(b[1:])
    if node.op == "ConvTranspose":  # every input element meets a kernel
        return math.prod(a) * math.prod(b[1:])
    return math.prod(out) * (a[-1] if a else 1)


def peak_gops() -> float:
    """Billions of operations a second of a large 8-bit product, the best of 8 runs with the threads that a program would have."""
    m, n, k = 512, 1024, 1024
    packed = _core.pack_linear(np.ones((n, k), np.int8), np.ones(1, np.float32), x_scale=1.0, x_zero_point=0)
    x, y = np.ones((m, k), np.uint8), np.empty((m, n), np.uint8)
    best = math.inf
    for _ in range(8):
        t = time.perf_counter()
        _core.linear(x, packed, y, 1.0, 0)
        best = min(best, time.perf_counter() - t)
    return 2e-9 * m * n * k / best
