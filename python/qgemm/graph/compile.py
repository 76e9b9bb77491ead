"""Steps + the shapes of one call -> a native program.

The steps run once, in order, on the call's own inputs: that tells every tensor's shape, memory order and type, whatever the
operators are (``slots.watch``). Then each step's native form is emitted. Results that are views of other tensors cost nothing; values
that depend on shapes alone are constants of the program; inputs of a concatenation are computed where it wants them (``slots``); a
step without a native form becomes an island that runs in Python, on views of the program's memory. Stretches of steps that treat every
image of a batch alike run an image at a time where that keeps what they pass on in the cache (``stretches``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np

from .. import _core
from ..errors import ModelFormatError, QgemmError
from .grids import real
from .guard import DAMAGE
from .ir import Graph
from .layout import memory_order
from .native import Grid, NotNative
from .slots import Layout, Places, Seen, Tensor, watch
from .step import Env, Step
from .stretches import Stretch, by_image, stretches


@dataclass(frozen=True)
class Value:
    """Where a tensor lies in the program's memory. at: (buffer, byte offset). strides in bytes."""

    at: tuple[int, int]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def dense_as(self, order) -> bool:
        """True when the elements lie without gaps, C-contiguous with the axes in this order."""
        step = self.dtype.itemsize
        for i in reversed(tuple(order)):
            if self.shape[i] != 1 and self.strides[i] != step:
                return False
            step *= self.shape[i]
        return True

    def dense(self) -> tuple[int, ...]:
        """The order of axes in which the elements lie without gaps; NotNative when there is none."""
        order = memory_order(self.shape, self.strides)
        if not self.dense_as(order):
            raise NotNative
        return order

    def same_order(self, other: Value) -> bool:
        """True when both are dense in one order of axes (of the same shape, whatever their types)."""
        return self.shape == other.shape and self.dense_as(order := other.dense()) and other.dense_as(order)

    def lies_at(self, other: Value) -> bool:
        """True when both are the same elements in the same memory."""
        return self.at == other.at and self.shape == other.shape and _same_strides(self.shape, self.strides, other.strides)

    def lines(self, order) -> tuple[int, int] | None:
        """(n, ld): the elements, with the axes in ``order``, are lines of n side by side, ld bytes from line to line; None when uneven."""
        axes = [i for i in reversed(tuple(order)) if self.shape[i] != 1]
        n, size = 1, self.dtype.itemsize
        while axes and self.strides[axes[0]] == n * size:
            n *= self.shape[axes.pop(0)]
        ld = step = self.strides[axes[0]] if axes else n * size
        for i in axes:
            if self.strides[i] != step:
                return None
            step *= self.shape[i]
        return n, ld

    def broadcast(self, shape) -> Value:
        strides = np.broadcast_to(np.lib.stride_tricks.as_strided(np.empty(0, self.dtype), self.shape, self.strides), shape).strides
        return Value(self.at, tuple(shape), strides, self.dtype)

    def order(self) -> tuple[int, ...]:
        """The axes as they lie in memory where they lie without gaps, else as they are."""
        order = memory_order(self.shape, self.strides)
        return order if self.dense_as(order) else tuple(range(len(self.shape)))

    def moved(self, at: tuple[int, int], order, dtype: np.dtype) -> Value:
        """A value of this shape at another place, without gaps, its axes in ``order``."""
        strides, step = [0] * len(self.shape), dtype.itemsize
        for i in reversed(order):
            strides[i] = step
            step *= self.shape[i]
        return Value(at, self.shape, tuple(strides), dtype)

    def reshaped_front(self) -> Value:
        return Value(self.at, (1, *self.shape), (0, *self.strides), self.dtype)

    def reshaped_back(self) -> Value:
        return Value(self.at, (*self.shape, 1), (*self.strides, 0), self.dtype)

    def addresses(self) -> np.ndarray:
        """int64 of ``shape``: the byte offset of every element in the buffer."""
        out = np.full(self.shape, self.at[1], np.int64)
        for axis, (n, step) in enumerate(zip(self.shape, self.strides, strict=True)):
            out += (np.arange(n, dtype=np.int64) * step).reshape([-1 if i == axis else 1 for i in range(len(self.shape))])
        return out


@dataclass
class Island:
    """A step in Python. imports: results that native steps read afterwards; exports: name -> Value of what it reads."""

    step: Step
    exports: dict[str, Value]
    copies: tuple[str, ...] = ()
    imports: dict[str, Value] = field(default_factory=dict)
    shapes: dict[str, tuple] = field(default_factory=dict)
    drop: list[str] = field(default_factory=list)  # names that no later island reads
    index: int = 0  # of its place in the program


@dataclass
class Compiled:
    """A native program for one set of input shapes. segments: (first op, end) of native runs and the Islands between them."""

    core: _core.ProgramBuilder
    segments: list
    statics: dict[str, np.ndarray]
    inputs: list[tuple[int, np.dtype]]
    outputs: list[tuple[int, np.dtype, tuple[int, ...], tuple[int, ...]]]  # buffer, type, shape in memory, order of axes
    idle: list[Workspace] = field(default_factory=list)

    def workspace(self) -> Workspace:
        """Memory for one run; append it to ``idle`` afterwards."""
        try:
            return self.idle.pop()
        except IndexError:
            return Workspace(self)

    @property
    def native(self) -> bool:
        """True when one call runs it all."""
        return not any(isinstance(s, Island) for s in self.segments)


class Compiler:
    """One compilation. Forms use value, constant, static, result, temporary, dense and core."""

    def __init__(self, graph: Graph, steps: Sequence[Step], run_step: Callable[[Step, Env], None]):
        self.graph, self.steps, self.run_step = graph, steps, run_step
        self._begin()

    def _begin(self) -> None:
        self.core = _core.ProgramBuilder()
        self.values: dict[str, Value] = {}
        self.made_by: dict[str, Island] = {}  # results that only Python has so far
        self.statics: dict[str, np.ndarray] = {}
        self.layouts: dict[str, Layout] = {}
        self.islands: list[tuple[int, Island]] = []
        self.current = -1
        self.wholes: dict[Tensor, Value] = {}  # results of concatenations whose parts are computed in place
        self.copied: set[tuple] = set()  # (place, place) of parts that an earlier concatenation has copied
        self.stretch: Stretch | None = None  # that the current step belongs to: then forms see one image of every tensor

    # ---- what forms use ----

    def value(self, name: str) -> Value:
        """Where a run-time tensor lies before the current step."""
        if name in self.values:
            return self._image(self.values[name])
        if name in self.made_by:
            island = self.made_by[name]
            v = self._allocate(self.layouts[name])
            island.imports[name] = v
            self.core.use(island.index, v.at[0])
            self.values[name] = v
            return self._image(v)
        if name in self.statics:
            return self.constant(self.statics[name])
        raise NotNative

    def constant(self, a: np.ndarray) -> Value:
        a = np.asarray(a, order="C")
        return Value((self.core.constant(a), 0), a.shape, a.strides, a.dtype)

    def static(self, name: str) -> np.ndarray:
        if name not in self.statics:
            raise NotNative
        return self.statics[name]

    def result(self, name: str, rows: bool = False, fits: Callable[[Value], bool] | None = None) -> Value:
        """Memory for a result of the current step, in its numpy result's memory order (rows: which must be C-contiguous).

        fits: given by a form that can also write with gaps, as where the result is part of a concatenation; whether it can write so.
        Asked again within a step, the place is the same.
        """
        v = self.pending.get(name) or self._part(name, fits) or self._image(self._allocate(self.results[name], (self.current, name)))
        if rows and not v.dense_as(range(len(v.shape))):
            raise NotNative
        self.pending[name] = v
        return v

    def _part(self, name: str, fits) -> Value | None:
        """A result's place in the concatenation that it belongs to."""
        slot = self.places.slots.get((self.current, name))
        if slot is None or (slot.strides is not None and fits is None):
            return None
        whole, layout = self._whole(slot.whole), self.results[name]
        shape = (whole.shape[0], *layout.shape[1:]) if self.stretch else layout.shape
        v = self._image(Value((whole.at[0], whole.at[1] + slot.offset), shape, slot.strides or _compact(layout), layout.dtype))
        return v if slot.strides is None or fits(v) else None

    def _whole(self, tensor: Tensor) -> Value:
        if tensor not in self.wholes:
            slot, layout = self.places.slots.get(tensor), self.places.layouts[tensor]
            if slot is None:
                self.wholes[tensor] = self._allocate(layout, tensor)
            else:
                within = self._whole(slot.whole)
                shape = (within.shape[0], *layout.shape[1:]) if self.stretch else layout.shape
                strides = slot.strides or _compact(layout)
                self.wholes[tensor] = Value((within.at[0], within.at[1] + slot.offset), shape, strides, layout.dtype)
        return self.wholes[tensor]

    def concatenation(self, name: str) -> Value:
        """The result of the current step, a concatenation: where its parts have been computed, or wherever the result may lie."""
        self.pending[name] = self._image(self._whole((self.current, name)))
        return self.pending[name]

    def put(self, v: Value, part: Value) -> bool:
        """Whether ``v`` has to be copied to ``part``: not where it lies there, or has been copied there before."""
        known = (v.at, part.at) in self.copied or v.lies_at(part)
        self.copied.add((v.at, part.at))
        return not known

    def temporary(self, count: int) -> tuple[int, int]:
        return self.core.arena(count), 0

    def dense(self, v: Value, order) -> tuple[int, int]:
        """The place of the elements of ``v``, C-contiguous with its axes in ``order``: where they are, or a copy."""
        order = tuple(order)
        if v.dense_as(order):
            return v.at
        to = self.temporary(v.size * v.dtype.itemsize)
        if len(v.shape) > 8 or v.dtype.itemsize > 8:
            raise NotNative
        self.core.copy(v.at, to, v.dtype.itemsize, [v.shape[i] for i in order], [v.strides[i] for i in order])
        return to

    def _allocate(self, a: Layout, tensor: Tensor = (-1, "")) -> Value:
        strides, name = _compact(a), tensor[1]
        if self.stretch is not None and tensor in self.stretch.inner:
            a = replace(a, shape=(1, *a.shape[1:]))
            return Value((self.core.arena(a.nbytes), 0), a.shape, strides, a.dtype)
        order = memory_order(a.shape, strides)
        # A result that leaves the program as it is goes straight to the caller's memory.
        index = self.direct.get(name, -1)
        if index >= 0 and index not in self.borders:
            buffer = self._output(index, a.dtype, a.shape, order)
        else:
            buffer = self.core.arena(a.nbytes)
        return Value((buffer, 0), a.shape, strides, a.dtype)

    def _image(self, v: Value) -> Value:
        """Within a stretch, one image of a tensor that holds the batch; the next one lies a stride further on."""
        if self.stretch is None or v.shape[0] == 1:
            return v
        if not self.core.advance(v.at[0], v.strides[0]):
            raise _NotByImage  # two views of one tensor whose images have different sizes
        return replace(v, shape=(1, *v.shape[1:]))

    # ---- compilation ----

    def compile(self, arrays: Sequence[np.ndarray]) -> Compiled:
        if any(a.size == 0 for a in arrays):
            raise NotNative  # no inference has an empty tensor for its hot path
        dead = _last_uses(self.graph, self.steps)
        seen = watch(self.steps, dict(zip(self.graph.inputs, arrays, strict=True)), self.run_step, dead)
        self.places = Places(self.graph, self.steps, seen, arrays)
        found = stretches(self.steps, seen, self.places)
        try:
            return self._build(arrays, seen, dead, found)
        except _NotByImage:
            self._begin()
            return self._build(arrays, seen, dead, [])

    def _build(self, arrays: Sequence[np.ndarray], seen: list[Seen], dead: list[list[str]], by_image: list[Stretch]) -> Compiled:
        graph = self.graph
        self.borders: dict[int, tuple] = {}
        self.direct = {o: k for k, o in enumerate(graph.outputs) if not _held_as_bytes(graph, o)}
        begins = {s.begin: s for s in by_image}
        inputs = []
        for name, a in zip(graph.inputs, arrays, strict=True):
            order = memory_order(a.shape, a.strides)
            buffer = self.core.input(a.dtype, [a.shape[i] for i in order], [order.index(i) for i in range(a.ndim)])
            self.values[name] = Value((buffer, 0), a.shape, a.strides, a.dtype)
            if not self.values[name].dense_as(order):
                raise NotNative
            self.layouts[name] = Layout.of(a)
            inputs.append((buffer, a.dtype))
        for k, step in enumerate(self.steps):
            if k in begins:
                self.stretch = begins[k]
                self.core.begin_loop(self.stretch.images)
            self._step(k, step, seen[k])
            if self.stretch is not None and self.stretch.end == k + 1:
                self.core.end_loop()
                self.stretch = None
            if self.islands:
                self.islands[-1][1].drop.extend(dead[k])
            for name in dead[k]:
                for table in (self.layouts, self.values, self.made_by):
                    table.pop(name, None)
        self.core.step(len(self.steps), "'output'")
        for k, o in enumerate(graph.outputs):
            self._finish_output(k, o)
        self.core.finish()
        return Compiled(self.core, self._segments(), self.statics, inputs, [self.borders[k] for k in range(len(graph.outputs))])

    def _step(self, k: int, step: Step, seen: Seen) -> None:
        self.core.step(k, f"'{step.name}' ({step.op})")
        self.current, self.results = k, seen.results
        if seen.values is not None:
            for o in step.outputs:
                self._forget(o)
            self.statics.update(seen.values)
        elif not self._views(seen):
            self._emit(step, seen)
        self.layouts.update(seen.results)

    def _emit(self, step: Step, seen: Seen) -> None:
        self.pending: dict[str, Value] = {}
        start, borders, wholes, copied = len(self.core), dict(self.borders), dict(self.wholes), set(self.copied)
        if self.stretch is not None:
            self._emit_image(step)
            return
        if step.native is not None:
            try:
                step.native.emit(self)
            except NotNative:
                self.core.truncate(start)
                self.borders, self.wholes, self.copied = borders, wholes, copied
            except QgemmError:
                raise
            except DAMAGE as e:  # attributes that the step got by with, such as a padding for too few dimensions
                raise ModelFormatError(
                    f"layer '{step.name}' ({step.op}): its attributes do not fit its inputs ({e}); export the model again"
                ) from e
            else:
                for o in step.outputs:
                    self._forget(o)
                    self.values[o] = self.pending[o]
                return
        self._island(step, seen)

    def _emit_image(self, step: Step) -> None:
        if not by_image(step):
            raise _NotByImage  # a view of bytes that lie otherwise than they did when the steps ran
        try:
            step.native.emit(self)
        except QgemmError:
            raise
        except (NotNative, *DAMAGE) as e:
            raise _NotByImage from e
        for o in step.outputs:
            v = self.pending[o]
            self._forget(o)
            # Steps behind the stretch see all images.
            self.values[o] = v if (self.current, o) in self.stretch.inner else replace(v, shape=(self.stretch.images, *v.shape[1:]))

    def _views(self, seen: Seen) -> bool:
        """Whether every result is a view of an input that lies in native memory; then nothing happens at run time."""
        found = {}
        for o, origins in seen.views.items():
            y = seen.results[o]
            for i, offset in origins:
                v = self.values.get(i)
                if v is not None and _same_strides(v.shape, v.strides, self.layouts[i].strides):
                    shape = (v.shape[0], *y.shape[1:]) if self.stretch else y.shape
                    found[o] = Value((v.at[0], v.at[1] + offset), shape, y.strides, y.dtype)
                    break
            else:
                return False
        for o, v in found.items():
            self._forget(o)
            self.values[o] = v
        return bool(found)

    def _forget(self, name: str) -> None:
        for table in (self.values, self.made_by, self.statics):
            table.pop(name, None)

    def _island(self, step: Step, seen: Seen) -> None:
        exports = {i: self.values[i] for i in step.inputs if i in self.values and i not in self.made_by}
        copies = tuple(o for o in step.outputs if o in seen.shared)
        island = Island(step, exports, copies, shapes={o: (a.shape, a.dtype) for o, a in seen.results.items()})
        index = self.core.island(sorted({v.at[0] for v in exports.values()}))
        island.index = index
        self.islands.append((index, island))
        for o in step.outputs:
            self._forget(o)
            self.made_by[o] = island

    def _output(self, index: int, dtype, shape, order) -> int:
        memory = tuple(shape[i] for i in order)
        axes = tuple(order.index(i) for i in range(len(shape)))
        buffer = self.core.output(index, np.dtype(dtype), memory, axes)
        self.borders[index] = (buffer, np.dtype(dtype), memory, axes)
        return buffer

    def _finish_output(self, index: int, name: str) -> None:
        if index in self.borders:
            return
        t = self.graph.tensors[name]
        v = self.constant(real(t)) if t.is_const else self.value(name)
        order = v.order()
        grid = _held_as_bytes(self.graph, name)
        out = Value((self._output(index, np.float32 if grid else v.dtype, v.shape, order), 0), v.shape, v.strides, v.dtype)
        if grid:
            self.core.dequantize(self.dense(v, order), out.at, v.size, grid.scale, grid.zero_point)
        elif len(v.shape) > 8 or v.dtype.itemsize > 8:
            raise NotNative
        else:
            self.core.copy(v.at, out.at, v.dtype.itemsize, [v.shape[i] for i in order], [v.strides[i] for i in order])

    def _segments(self) -> list:
        out, at = [], 0
        for index, island in self.islands:
            if index > at:
                out.append((at, index))
            out.append(island)
            at = index + 1
        if len(self.core) > at:
            out.append((at, len(self.core)))
        return out


def _compact(a: Layout) -> tuple[int, ...]:
    """Strides without gaps, in the memory order of ``a`` where it has none itself, else C-contiguous."""
    order = memory_order(a.shape, a.strides)
    if not Value((0, 0), a.shape, a.strides, a.dtype).dense_as(order):
        order = tuple(range(len(a.shape)))
    strides, step = [0] * len(a.shape), a.dtype.itemsize
    for i in reversed(order):
        strides[i] = step
        step *= a.shape[i]
    return tuple(strides)


def _held_as_bytes(graph: Graph, name: str) -> Grid | None:
    t = graph.tensors[name]
    return Grid.of(t.qparams) if not t.is_const and t.qparams is not None and t.qparams.u8 else None


def _last_uses(graph: Graph, steps: Sequence[Step]) -> list[list[str]]:
    """Names that nobody reads after each step."""
    last: dict[str, int] = {}
    for k, s in enumerate(steps):
        for name in (*s.inputs, *s.outputs):
            last[name] = k
    dead: list[list[str]] = [[] for _ in steps]
    for name, k in last.items():
        if name not in graph.outputs:
            dead[k].append(name)
    return dead


def _same_strides(shape, a, b) -> bool:
    return all(n == 1 or s == t for n, s, t in zip(shape, a, b, strict=True))


class _NotByImage(Exception):
    """A form that cannot be emitted for one image of a batch."""


class ShapesChanged(Exception):
    """An island's result has another shape than when the program was compiled: shapes depend on values here."""


class Workspace:
    """One frame of a compiled program, with numpy views of its memory for the islands."""

    def __init__(self, compiled: Compiled):
        self.compiled, self.frame = compiled, compiled.core.take()
        self.views: dict[tuple, np.ndarray] = {}
        self.outside = {b for b, *_ in (*compiled.inputs, *compiled.outputs)}

    def view(self, v: Value) -> np.ndarray:
        key = (v.at, v.shape, v.strides, v.dtype)
        found = self.views.get(key)
        if found is None:
            found = self.frame.view(v.at, v.shape, v.strides, v.dtype)
            if v.at[0] not in self.outside:
                self.views[key] = found
        return found

    def run(self, arrays: Sequence[np.ndarray], run_step, seconds: np.ndarray | None = None) -> list[np.ndarray]:
        """The program's outputs. run_step(step, env) runs a step in Python. seconds: float64, one an operation, added to."""
        c, frame = self.compiled, self.frame
        for (buffer, _), a in zip(c.inputs, arrays, strict=True):
            frame.bind(buffer, a)
        results = []
        for buffer, dtype, memory, axes in c.outputs:
            y = np.empty(memory, dtype)
            frame.bind(buffer, y)
            results.append(y.transpose(axes))
        env = dict(c.statics)
        for segment in c.segments:
            if isinstance(segment, Island):
                start = perf_counter()
                self._island(segment, env, run_step)
                if seconds is not None:
                    seconds[segment.index] += perf_counter() - start
            else:
                frame.run(*segment, seconds)
        return results

    def _island(self, island: Island, env, run_step) -> None:
        for name, v in island.exports.items():
            env[name] = self.view(v)
        step = island.step
        run_step(step, env)
        for name, (shape, dtype) in island.shapes.items():
            y = env[name]
            if y.shape != shape or y.dtype != dtype:
                raise ShapesChanged
            if name in island.copies:
                env[name] = y.copy(order="K")
            if name in island.imports:
                np.copyto(self.view(island.imports[name]), y)
        for name in island.drop:
            env.pop(name, None)
