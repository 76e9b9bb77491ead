"""A program's steps against the tensors of the simulation it came from.

Each step runs on *the simulation's own* inputs, converted exactly to the integers they stand for, and its output is compared with the
simulation's. Which tensor of the simulation belongs to a step's output is found on a few samples, in order:

1. Steps are walked in order, each on the counterparts found so far. The counterpart of its output has the same shape (but for axes of
   size 1), lies on the very same grid, scale and zero point to the last bit, and is nearest to what the step computed, and near.
   An operation that only moves values must be equal, unless what it moves has no counterpart itself: then the two are compared as one.
2. What is left may be a step that computes something else than the simulation. If just one tensor on its grid and of its shape
   belongs to nobody, it is that one, however far off; then the walk is repeated, because the steps behind it now get the right input.

Names play no part: AIMET's change with the exporter, the version and the model preparer.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..comparison import MOVES, Layer, arrays, steps_apart
from ..errors import ShapeError
from ..graph.ir import QParams
from .recording import Recorder, Sighting

# Relative L2 distance up to which a tensor of the simulation is taken for the one a step computed: on the same grid, and in float,
# where the tensor before a quantizer must not be taken for the one behind it.
_NEAR, _NEAR_FLOAT = 0.2, 1e-3
_SAMPLE = 8192  # elements by which tensors are compared

_HIDDEN = "it is computed inside a function of the simulation, out of hooks' sight"


def _to_grid(values: np.ndarray, grid: QParams) -> np.ndarray:
    """Integers of values that lie on ``grid``."""
    q = np.rint(values.astype(np.float64) / float(grid.scale)) + int(grid.zero_point)
    return np.clip(q, grid.qmin, grid.qmax)


def _on_grid(values: np.ndarray, grid: QParams) -> bool:
    steps = values.astype(np.float64) / float(grid.scale) + int(grid.zero_point)
    with np.errstate(invalid="ignore"):
        return bool((np.abs(steps - np.rint(steps)) < 0.01).all() and (steps > grid.qmin - 0.01).all() and (steps < grid.qmax + 0.01).all())


def _sample(a: np.ndarray) -> np.ndarray:
    """The same few thousand elements of any array of this shape, in logical order."""
    if a.size <= _SAMPLE:
        return a.ravel()
    return a[np.unravel_index(np.linspace(0, a.size - 1, _SAMPLE).astype(np.int64), a.shape)]


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


class _Tensor:
    """One tensor of the simulation, seen at one or more places."""

    def __init__(self, key: Sighting, values: np.ndarray):
        self.key, self.values, self.sample = key, values, _sample(values).astype(np.float64)


class LayerComparison:
    """``find`` the counterparts once, then ``compare`` batch after batch; results in ``layers`` and ``unmapped``."""

    def __init__(self, program, sim):
        self.program, self.sim = program, sim
        self.seen: dict[str, Sighting] = {}  # tensor name -> where the simulation shows its counterpart
        self.integer: dict[str, bool] = {}  # tensor name -> held as uint8 at run time
        self.order: dict[str, tuple[int, ...]] = {}  # tensor name -> axes from the outermost in memory to the innermost
        self.squeezed: dict[str, tuple[int, ...]] = {}  # tensor name -> its shape in ``find`` without axes of size 1
        self.layers: dict[str, Layer] = {}
        self.unmapped: dict[str, str] = {}
        self.computes: set[str] = set()  # steps that do more than move values, alone or with those before them

    def _grid(self, name: str) -> QParams | None:
        t = self.program.graph.tensors.get(name)
        return t.qparams if t is not None and t.qparams is not None and t.qparams.per_tensor else None

    def _runtime(self, name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A tensor of the simulation as the program holds it: integers where it does, in its shape and memory order."""
        grid = self._grid(name)
        if self.integer[name]:
            a = _to_grid(values, grid).astype(np.uint8)
        elif grid is not None:
            # Held as float: the values of the grid as the program itself writes them.
            a = ((_to_grid(values, grid) - int(grid.zero_point)).astype(np.float32) * grid.scale).astype(np.float32)
        else:
            a = np.asarray(values, np.float32)
        if a.size != math.prod(shape):
            raise ShapeError(f"the program computes '{name}' of shape {shape}, the simulation of shape {values.shape}")
        order = self.order[name]
        return np.ascontiguousarray(a.reshape(shape).transpose(order)).transpose(np.argsort(order))

    def _env(self, batch: tuple) -> dict[str, np.ndarray]:
        return {n: x.detach().numpy() for n, x in zip(self.program.graph.inputs, batch, strict=True)}

    # ---- counterparts ----

    def find(self, batch: tuple):
        """Find the counterpart of every step's outputs on ``batch``, a few samples."""
        tensors: dict[tuple, _Tensor] = {}
        by_shape: dict[tuple[int, ...], list[_Tensor]] = {}

        def see(key: Sighting, a: np.ndarray):
            t = _Tensor(key, a)
            same = (_squeezed(a.shape), t.sample.tobytes())
            if same not in tensors:
                tensors[same] = t
                by_shape.setdefault(_squeezed(a.shape), []).append(t)
            elif key.side == "quantizer" and tensors[same].key.side != "quantizer":
                tensors[same].key = key  # seen at a module first: the quantizer is the better witness

        with Recorder(self.sim.model, see):
            self.sim.model(*batch)
        found: dict[str, _Tensor] = {}
        while True:
            reasons = self._walk(batch, by_shape, found)
            more = self._unclaimed(by_shape, found, reasons)
            if not more:
                break
            found.update(more)
        self.seen = {name: t.key for name, t in found.items()}
        for step in self.program.steps:
            for out in step.outputs:
                if out in reasons:
                    self.unmapped[step.name] = reasons[out] + self._compared_with(out)

    def _compared_with(self, name: str) -> str:
        """Names the first step behind ``name`` that has a counterpart: a difference made before shows there."""
        behind = {name}
        for step in self.program.steps:
            if behind.intersection(step.inputs):
                if any(out in self.seen for out in step.outputs):
                    return f"; compared together with '{step.name}', which reads it"
                behind.update(step.outputs)
        return ""

    def _walk(self, batch: tuple, by_shape: dict, found: dict[str, _Tensor]) -> dict[str, str]:
        """Step by step on the counterparts so far; adds to ``found``; returns tensor name -> reason for those without."""
        env, reasons = self._env(batch), {}
        self.computes.clear()
        loose: set[str] = set()  # computed by us, without counterpart
        for step in self.program.steps:
            step.run(env)
            moves = step.op in MOVES and not loose.intersection(step.inputs)
            for out in step.outputs:
                value = env.get(out)
                if not out or value is None or value.dtype.kind not in "fu" or (value.dtype.kind == "u" and self._grid(out) is None):
                    continue  # a shape or an index, not an activation
                self.integer[out] = value.dtype == np.uint8
                self.squeezed[out] = _squeezed(value.shape)
                self.order[out] = tuple(int(i) for i in np.argsort([-s for s in value.strides], kind="stable"))
                if out not in found:
                    match = self._nearest(out, value, by_shape.get(_squeezed(value.shape), []), moves)
                    if isinstance(match, str):
                        reasons[out] = match
                        if not moves:
                            loose.add(out)
                        continue
                    found[out] = match
                if not moves:
                    self.computes.add(step.name)
                env[out] = self._runtime(out, found[out].values, value.shape)
        return reasons

    def _nearest(self, name: str, value: np.ndarray, candidates: list[_Tensor], moves: bool) -> _Tensor | str:
        grid = self._grid(name)
        ours = _sample(value).astype(np.float64)
        if self.integer[name]:
            ours = (ours - int(grid.zero_point)) * float(grid.scale)
        norm = float(np.linalg.norm(ours))
        best, best_error = None, math.inf
        for t in candidates:
            if grid is not None and not _on_grid(t.sample, grid):
                continue
            d = float(np.linalg.norm(t.sample - ours))
            error = d / norm if norm else math.inf if d else 0.0
            if error < best_error:
                best, best_error = t, error
        if moves:
            if best is None or best_error > 1e-5:
                return "it only moves values, inside a function of the simulation"
        elif best is None:
            return f"the simulation shows no tensor {'on its grid' if grid is not None else f'of its shape {value.shape}'}: {_HIDDEN}"
        elif best_error > (_NEAR_FLOAT if grid is None else _NEAR):
            away = f"the nearest, at '{best.key.layer}', is {best_error:.2g} away in relative norm"
            return f"no tensor of the simulation resembles it ({away}): {_HIDDEN}"
        return best

    def _unclaimed(self, by_shape: dict, found: dict[str, _Tensor], reasons: dict[str, str]) -> dict[str, _Tensor]:
        """The first step left without counterpart for which exactly one tensor on its grid belongs to nobody."""
        claimed = {id(t) for t in found.values()}
        for step in self.program.steps:
            for out in step.outputs:
                grid = self._grid(out)
                if out not in reasons or grid is None or step.op in MOVES:
                    continue
                free = [
                    t
                    for t in by_shape.get(self.squeezed[out], [])
                    if id(t) not in claimed
                    and np.unique(t.sample).size > 2  # one or two levels lie on many grids
                    and _on_grid(t.sample, grid)
                ]
                if len(free) == 1:
                    return {out: free[0]}
        return {}

    # ---- counting ----

    def compare(self, batch: tuple) -> list[np.ndarray]:
        """Run every step on the simulation's tensors of this batch, and count. Returns the simulation's outputs."""
        by_key: dict[Sighting, list[str]] = {}
        for name, key in self.seen.items():
            by_key.setdefault(key, []).append(name)
        theirs: dict[str, np.ndarray] = {}

        def see(key: Sighting, a: np.ndarray):
            for name in by_key[key]:
                # The program's shape is known once its step has run; until then keep the bytes, not the floats.
                theirs[name] = _to_grid(a, self._grid(name)).astype(np.uint8) if self.integer[name] else a

        with Recorder(self.sim.model, see, set(by_key)):
            outputs = arrays(self.sim.model(*batch))
        env = self._env(batch)
        left: dict[str, int] = {}
        for step in self.program.steps:
            for i in step.inputs:
                left[i] = left.get(i, 0) + 1
        differ: dict[str, tuple[Layer, np.ndarray]] = {}
        for step in self.program.steps:
            step.run(env)
            for out in step.outputs:
                if out in theirs:
                    want = self._given(out, theirs.pop(out), env[out].shape)
                    layer, where = self._count(step, out, env[out], want)
                    if where.size:
                        differ[out] = layer, where
                    env[out] = want
            for i in step.inputs:
                left[i] -= 1
                if not left[i]:
                    env.pop(i, None)
        self._measure_ties(batch, differ)
        return outputs

    def _given(self, name: str, a: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        if not self.integer[name]:
            return self._runtime(name, a, shape)
        if a.size != math.prod(shape):
            raise ShapeError(f"the program computes '{name}' of shape {shape}, the simulation of shape {a.shape}")
        order = self.order[name]
        return np.ascontiguousarray(a.reshape(shape).transpose(order)).transpose(np.argsort(order))

    def _count(self, step, out: str, got: np.ndarray, want: np.ndarray) -> tuple[Layer, np.ndarray]:
        lsb = steps_apart(got, want, self._grid(out))
        layer = self.layers.get(step.name)
        if layer is None:
            layer = Layer(step.name, step.op, step.scheme, self.seen[out].layer, moves=step.name not in self.computes)
            self.layers[step.name] = layer
        where = np.flatnonzero(lsb)
        layer.outputs += lsb.size
        layer.differing += where.size
        layer.max_lsb = max(layer.max_lsb, int(lsb.max(initial=0)))
        return layer, where

    def _measure_ties(self, batch: tuple, differ: dict[str, tuple[Layer, Any]]):
        """How far from a tie the simulation's float values were that came out differently: a second run that looks at those alone."""
        before = {
            self.seen[out]._replace(side="unquantized"): (out, *entry)
            for out, entry in differ.items()
            if self.seen[out].side == "quantizer" and self._grid(out) is not None
        }
        if not before:
            return

        def see(key: Sighting, a: np.ndarray):
            out, layer, where = before[key]
            steps = a.ravel()[where].astype(np.float64) / float(self._grid(out).scale)
            off = float(np.abs(np.abs(steps - np.rint(steps)) - 0.5).max())
            layer.off_tie = off if layer.off_tie is None else max(layer.off_tie, off)

        with Recorder(self.sim.model, see, set(before)):
            self.sim.model(*batch)
