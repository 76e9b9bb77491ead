"""Does a program compute what its reference computes? Layer by layer on the same input, and end to end.

A layer is compared on *the simulation's own* input: the fake-quantized tensor that the simulation feeds to the layer is converted
exactly to integers by its encoding, our step runs on those integers, and its integers are compared with the simulation's
quantized output of the same chain (convolution and ReLU are one step here; their quantizer sits behind the ReLU).

Which tensor of the simulation that is, is decided by neither's name (``aimet/compare.py`` says how). What has no counterpart is in
``unmapped`` with the reason.

One LSB is one step of the output's grid. A float output has no grid: there one LSB is 1/255 of the range that the reference's
output spans, what an 8-bit grid over that output would have, and two values differ where they are at least half of that apart.
"""

from __future__ import annotations

import contextlib
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .aimet.acceleration import refuse_accelerated
from .aimet.export import as_inputs, as_modules, evaluating
from .aimet.live import is_simulation, uncalibrated
from .comparison import Layer, arrays, steps_apart
from .errors import ConfigError, EncodingError, ShapeError, UnsupportedOpError, require
from .graph.ir import QParams

_REORDERED = 16  # samples of the first batch that the reference repeats with other kernels, which are slow
_ALONE = 64  # samples that the reference repeats one by one; beyond, in half batches


@dataclass
class Validation:
    """What :func:`validate` found; prints as a table.

    layers: the compared steps. unmapped: step name -> why it could not be compared. Steps that compute shapes and indices are in neither.
    equal, max_lsb, sqnr_db, cosine, top1_agreement: end to end, program against reference (equal: share of equal outputs).
    self_equal, self_max_lsb, self_top1_agreement: the reference against itself with the batch split differently.
    reordered_equal, reordered_sqnr_db, reordered_top1_agreement: the reference against itself with other convolution kernels (oneDNN off),
    which sum in another order. In a deep network a handful of values at a rounding boundary grows to this much: a program cannot
    be nearer to the reference than the reference is to itself.
    """

    layers: list[Layer] = field(default_factory=list)
    unmapped: dict[str, str] = field(default_factory=dict)
    samples: int = 0
    outputs: int = 0
    equal: float = 1.0
    max_lsb: int = 0
    sqnr_db: float = math.inf
    cosine: float = 1.0
    top1_agreement: float = 1.0
    self_equal: float = 1.0
    self_max_lsb: int = 0
    self_top1_agreement: float = 1.0
    reordered_equal: float = 1.0
    reordered_sqnr_db: float = math.inf
    reordered_top1_agreement: float = 1.0

    @property
    def layer_outputs(self) -> int:
        return sum(x.outputs for x in self.layers if not x.moves)

    @property
    def differing(self) -> int:
        return sum(x.differing for x in self.layers if not x.moves)

    @property
    def differing_per_million(self) -> float:
        """Differing outputs of all layers that compute, per million."""
        return 1e6 * self.differing / self.layer_outputs if self.layer_outputs else 0.0

    @property
    def max_layer_lsb(self) -> int:
        return max((x.max_lsb for x in self.layers), default=0)

    def __str__(self) -> str:
        lines = []
        if self.layers:
            w = max(len("layer"), *(len(x.name) for x in self.layers))
            o = max(len("op"), *(len(x.op) for x in self.layers))
            lines.append(f"{'layer':<{w}}  {'op':<{o}}  {'scheme':<8} {'outputs':>11} {'differing':>9} {'max LSB':>7}  off a tie")
            for x in self.layers:
                tie = "" if x.off_tie is None else f"  {x.off_tie:.1e} LSB"
                lines.append(f"{x.name:<{w}}  {x.op:<{o}}  {x.scheme:<8} {x.outputs:>11,} {x.differing:>9,} {x.max_lsb:>7}{tie}")
            lines.append(
                f"{len(self.layers)} layers on the reference's own inputs: {self.differing} of {self.layer_outputs:,} outputs differ "
                f"({self.differing_per_million:.1f} per million), at most {self.max_layer_lsb} LSB"
            )
        for name, reason in self.unmapped.items():
            lines.append(f"not compared: {name}: {reason}")
        lines.append(
            f"end to end, {self.samples} samples: {100 * self.equal:.3f}% equal, at most {self.max_lsb} LSB, SQNR {self.sqnr_db:.1f} dB, "
            f"cosine {self.cosine:.6f}, top-1 agreement {self.top1_agreement:.4f}"
        )
        lines.append(
            f"the reference with itself in other batch sizes: {100 * self.self_equal:.3f}% equal, at most {self.self_max_lsb} LSB, "
            f"top-1 agreement {self.self_top1_agreement:.4f}"
        )
        lines.append(
            f"the reference with itself in another order of summation: {100 * self.reordered_equal:.3f}% equal, "
            f"SQNR {self.reordered_sqnr_db:.1f} dB, top-1 agreement {self.reordered_top1_agreement:.4f}"
        )
        return "\n".join(lines)


# ---- numbers ----------------------------------------------------------------------------------------------------------


class _EndToEnd:
    """Running sums of one comparison of outputs."""

    def __init__(self):
        self.outputs = self.differing = self.max_lsb = self.rows = self.agree = 0
        self.signal = self.noise = self.dot = self.norm_a = self.norm_b = 0.0

    def add(self, got: list[np.ndarray], want: list[np.ndarray], grids: list[QParams | None]):
        if len(got) != len(want):
            raise ShapeError(f"the program has {len(got)} outputs and the reference {len(want)}: they are not the same network")
        for a, b, grid in zip(got, want, grids, strict=True):
            if a.shape != b.shape:
                raise ShapeError(
                    f"the program's output has shape {a.shape} and the reference's {b.shape}: "
                    "validate a program with the network it was made from"
                )
            lsb = steps_apart(a, b, grid)
            self.outputs += a.size
            self.differing += int(np.count_nonzero(lsb))
            self.max_lsb = max(self.max_lsb, int(lsb.max(initial=0)))
            x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
            self.signal += float(y @ y)
            self.noise += float((x - y) @ (x - y))
            self.dot += float(x @ y)
            self.norm_a += float(x @ x)
            self.norm_b += float(y @ y)
        # Classes: the last axis of [N, C] and [N, L, C], axis 1 of [N, C, H, W].
        a, b = got[0], want[0]
        if a.ndim >= 2 and a.size:
            axis = 1 if a.ndim == 4 else -1
            same = a.argmax(axis) == b.argmax(axis)
            self.rows += same.size
            self.agree += int(np.count_nonzero(same))

    @property
    def equal(self) -> float:
        return 1 - self.differing / self.outputs if self.outputs else 1.0

    @property
    def top1(self) -> float:
        return self.agree / self.rows if self.rows else 1.0

    @property
    def sqnr_db(self) -> float:
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf

    @property
    def cosine(self) -> float:
        norm = math.sqrt(self.norm_a * self.norm_b)
        return self.dot / norm if norm else 1.0 if self.norm_a == self.norm_b else 0.0


# ---- the reference ----------------------------------------------------------------------------------------------------


def _batches(batches: Any, n_inputs: int | None) -> list[tuple]:
    """Tuples of input tensors. A batch with more parts than the network has inputs (labels, say) is cut to the inputs."""
    torch = require("torch", "qgemm.validate")
    if isinstance(batches, (torch.Tensor, np.ndarray)):
        batches = [batches]
    out = []
    for b in batches:
        if n_inputs is not None and isinstance(b, (tuple, list)):
            b = tuple(b)[:n_inputs]
        out.append(as_inputs(b))
    if not out:
        raise ConfigError("validate needs at least one batch of inputs")
    return out


def _resplit(batch: tuple, size: int) -> Iterator[tuple]:
    n = batch[0].shape[0]
    for i in range(0, n, size):
        yield tuple(x[i : i + size] if x.ndim and x.shape[0] == n else x for x in batch)


def _with_itself(run: Callable[[tuple], list[np.ndarray]], batch: tuple, want: list[np.ndarray], done: int) -> list[np.ndarray] | None:
    """The reference on the same samples in another batch size; None when it cannot be asked for one."""
    n = batch[0].shape[0] if batch[0].ndim else 0
    if not n or any(y.ndim == 0 or y.shape[0] != n for y in want):
        return None
    if n == 1:
        torch = require("torch", "qgemm.validate")
        twice = tuple(torch.cat([x, x]) if x.ndim and x.shape[0] == 1 else x for x in batch)
        return [y[:1] for y in run(twice)]
    size = 1 if done + n <= _ALONE else (n + 1) // 2
    parts = [run(part) for part in _resplit(batch, size)]
    return [np.concatenate(ys) for ys in zip(*parts, strict=True)]


def _reordered(run: Callable[[tuple], list[np.ndarray]], batch: tuple, want: list[np.ndarray]):
    """(outputs by other kernels, outputs as they were) for the first samples of a batch."""
    torch = require("torch", "qgemm.validate")
    n = batch[0].shape[0] if batch[0].ndim else 0
    if n > _REORDERED and all(y.ndim and y.shape[0] == n for y in want):
        batch, want = next(_resplit(batch, _REORDERED)), [y[:_REORDERED] for y in want]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration")  # said of Intel GPUs whenever oneDNN is switched
        with torch.backends.mkldnn.flags(enabled=False):
            return run(batch), want


@contextlib.contextmanager
def _inference(model):
    torch = require("torch", "qgemm.validate")
    as_eval = evaluating(model) if isinstance(model, torch.nn.Module) else contextlib.nullcontext()
    with torch.no_grad(), as_modules(), as_eval, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # AIMET's simulation gives one a layer and call
        yield


def _progress(items: Iterable, what: str) -> Iterable:
    if not sys.stderr.isatty():
        return items
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, desc=what, leave=False)


# ---- both -------------------------------------------------------------------------------------------------------------


def _few(batch: tuple) -> tuple:
    """The first two samples, by which counterparts are found."""
    return next(_resplit(batch, 2)) if batch[0].ndim and batch[0].shape[0] > 2 else batch


def _batch_is_free(program) -> bool:
    shapes = [program.graph.tensors[n].shape for n in program.graph.inputs]
    return all(s is not None and s and s[0] is None for s in shapes)


def validate(fast, reference, batches) -> Validation:
    """Compare a program with the AIMET simulation it came from, or with any callable.

    fast: a :class:`qgemm.Program` (or another callable, for end to end only). reference: a QuantizationSimModel, which is also
    compared layer by layer, or a callable that takes the same inputs. batches: an iterable of inputs (a tensor or a tuple of tensors each;
    parts beyond the network's inputs, such as labels, are ignored), or one batch.

    Everything runs under ``torch.no_grad()`` and in eval mode, where AIMET quantizes by the reciprocal of the scale. Raises
    EncodingError for a simulation without encodings, ConfigError for one that runs on our own kernels (``qgemm.aimet.accelerate``), and
    ShapeError when the outputs' shapes differ.
    """
    from .aimet.compare import LayerComparison

    graph = getattr(fast, "graph", None)
    sim = reference if is_simulation(reference) else None
    model = sim.model if sim is not None else reference
    if not callable(model):
        raise UnsupportedOpError(f"the reference must be a QuantizationSimModel or a callable, got {type(reference).__name__}")
    if sim is not None:
        refuse_accelerated(sim, "qgemm.validate")
    data = _batches(batches, len(graph.inputs) if graph is not None else None)
    if sim is not None and (missing := uncalibrated(sim)):
        try:
            with _inference(model):
                model(*_few(data[0]))
        except Exception as e:
            raise EncodingError(
                f"the simulation has no encodings for {len(missing)} quantizers ({', '.join(missing[:3])}): "
                "run sim.compute_encodings(...) first"
            ) from e
    grids = [graph.tensors[n].qparams for n in graph.outputs] if graph is not None else None
    run = lambda batch: arrays(model(*batch))  # noqa: E731
    layers = LayerComparison(fast, sim) if sim is not None and hasattr(fast, "steps") else None
    total, itself, reordered, samples = _EndToEnd(), _EndToEnd(), _EndToEnd(), 0
    with _inference(model):
        if layers is not None:
            layers.find(_few(data[0]) if _batch_is_free(fast) else data[0])
        for batch in _progress(data, "validate"):
            want = layers.compare(batch) if layers is not None else run(batch)
            got = arrays(fast(*batch))
            each = grids if grids is not None else [None] * len(want)
            total.add(got, want, each)
            again = _with_itself(run, batch, want, samples)
            if again is not None:
                itself.add(again, want, each)
            if not samples:
                reordered.add(*_reordered(run, batch, want), each)
            samples += batch[0].shape[0] if batch[0].ndim else 1
    return Validation(
        list(layers.layers.values()) if layers is not None else [],
        layers.unmapped if layers is not None else {},
        samples,
        total.outputs,
        total.equal,
        total.max_lsb,
        total.sqnr_db,
        total.cosine,
        total.top1,
        itself.equal,
        itself.max_lsb,
        itself.top1,
        reordered.equal,
        reordered.sqnr_db,
        reordered.top1,
    )
