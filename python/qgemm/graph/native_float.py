"""Native forms of what computes in float32, of reductions, and of rows taken by an index that comes with the call: see graph.native."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .. import _core
from .floatlayers import Phase, transposed_size
from .floatnn import two
from .layout import memory_order, parts, reduction_order
from .native import Grid, Image, Move, NotNative, bounds, image_result, matrix, pixel_stride, product_result

if TYPE_CHECKING:
    from .compile import Compiler
    from .executors import Result
    from .floatnn import Window
    from .step import Native

_MOST_DIMENSIONS = 8
_NEGATED = np.arange(255, -1, -1, dtype=np.uint8)  # a table that turns the least byte into the greatest
_SQRT = 3  # of the engine's functions of one operand
_ROOT = _core.Expression([(1.0, 0)], [(0, _SQRT, 0, -1, -1)], [(0.0,) * 4], [1], [(1.0, 0, 0, 255)])


@dataclass(frozen=True)
class Expression:
    """inputs: names of tensors, or constants of a type that expressions read."""

    core: _core.Expression
    inputs: tuple[str | np.ndarray, ...]
    y: str
    strided: ClassVar[bool] = True

    def emit(self, c: Compiler) -> None:
        given = [c.value(i) if isinstance(i, str) else c.constant(i) for i in self.inputs]
        y = c.result(self.y)
        order = y.dense()
        if len(order) > _MOST_DIMENSIONS or any(v.dtype.kind not in "fub" and v.dtype.name not in ("int32", "int64") for v in given):
            raise NotNative
        spread = [v.broadcast(y.shape) for v in given]
        inputs = [(v.at, v.dtype, [v.strides[i] // v.dtype.itemsize for i in order]) for v in spread]
        c.core.expression(self.core, inputs, y.at, y.dtype, [y.shape[i] for i in order], _overwritten(spread, y))


def _overwritten(inputs, y) -> int:
    """Which input's bytes the result may take over: the last that lies just like it, in memory that no other input reads."""
    buffers = [v.at[0] for v in inputs]
    for k in reversed(range(len(inputs))):
        v = inputs[k]
        if v.dtype.itemsize == y.dtype.itemsize and v.at[1] == y.at[1] == 0 and v.same_order(y) and buffers.count(v.at[0]) == 1:
            return k
    return -1


@dataclass(frozen=True)
class Take:
    """ONNX's Gather. x: a tensor's name, or an array; known: the form for an index that is known once the shapes are."""

    x: str | np.ndarray
    index: str
    y: str
    axis: int
    known: Move

    def emit(self, c: Compiler) -> None:
        if self.index in c.statics:
            self.known.emit(c)
            return
        x = c.value(self.x) if isinstance(self.x, str) else c.constant(self.x)
        index, y = c.value(self.index), c.result(self.y, rows=True)
        if index.dtype not in (np.int32, np.int64):
            raise NotNative
        axis = self.axis % len(x.shape)
        outer, inner = (int(np.prod(s, dtype=np.int64)) for s in (x.shape[:axis], x.shape[axis + 1 :]))
        at, where = c.dense(x, range(len(x.shape))), c.dense(index, range(len(index.shape)))
        c.core.take_rows(at, where, index.dtype == np.int64, y.at, outer, x.shape[axis], index.size, inner * x.dtype.itemsize)


@dataclass(frozen=True)
class Dequantized:
    """A form whose inputs, as far as ``grids`` names them, it reads as the real numbers that their bytes stand for."""

    grids: dict[str, Grid]
    form: Native

    def emit(self, c: Compiler) -> None:
        bytes_ = {name: c.value(name) for name in self.grids}
        try:
            for name, grid in self.grids.items():
                c.values[name] = dequantized(c, bytes_[name], grid)
            self.form.emit(c)
        finally:
            c.values.update(bytes_)


def dequantized(c: Compiler, x, grid: Grid):
    """A float32 copy of bytes, in their memory order; C-contiguous where some are read several times."""
    spread = any(step == 0 for n, step in zip(x.shape, x.strides, strict=True) if n > 1)
    order = tuple(range(len(x.shape))) if spread else memory_order(x.shape, x.strides)
    at = c.temporary(4 * x.size)
    c.core.dequantize(c.dense(x, order), at, x.size, grid.scale, grid.zero_point)
    return x.moved(at, order, np.dtype(np.float32))


@dataclass(frozen=True)
class Operand:
    """One side of a product of real numbers: a tensor's name, with its grid when it is held as bytes, or a constant."""

    source: str | np.ndarray
    grid: Grid | None

    def value(self, c: Compiler):
        if not isinstance(self.source, str):
            return c.constant(self.source)
        x = c.value(self.source)
        return x if self.grid is None else dequantized(c, x, self.grid)


@dataclass(frozen=True)
class Product:
    """A layer on real numbers. packed: its [n, k] weight as _core.pack_floats leaves it."""

    x: Operand
    y: str
    packed: np.ndarray
    bias: np.ndarray | None
    k: int
    n: int
    result: Result

    def emit(self, c: Compiler) -> None:
        x, y = self.x.value(c), c.result(self.y, rows=True)
        rows = c.dense(x, range(len(x.shape)))
        c.core.product(rows, y.at, self.packed, self.bias, x.size // self.k, self.k, self.n, *bounds(self.result))


@dataclass(frozen=True)
class Conv:
    x: Operand
    y: str
    packed: np.ndarray
    bias: np.ndarray | None
    win: Window
    n: int
    groups: int
    result: Result

    @property
    def strided(self) -> bool:
        return self.x.grid is None

    def emit(self, c: Compiler) -> None:
        image, (y, stride) = Image(c, self.x.value(c), True), image_result(c, self.y)
        c.core.conv2d_f32(
            image.at, y.at, self.packed, self.bias, image.shape, self.n, self.groups, *image.window(self.win), *bounds(self.result),
            image.stride, stride,
        )  # fmt: skip


@dataclass(frozen=True)
class ConvTranspose:
    """extra: ONNX's output_padding."""

    x: Operand
    y: str
    phases: list[Phase]
    bias: np.ndarray | None
    win: Window
    extra: tuple[int, ...]
    n: int
    groups: int
    result: Result

    def emit(self, c: Compiler) -> None:
        image, y, stride = Image(c, self.x.value(c), True), c.result(self.y), two(self.win.stride, 1)
        if pixel_stride(y) != 0:
            raise NotNative
        b, h, w, _ = image.shape
        outs = transposed_size((h, w), self.win, self.extra)
        whole = replace(y, shape=(b, *outs, self.n), strides=_strides((b, *outs, self.n), y.dtype.itemsize))
        for p in self.phases:
            placed = p.place((h, w), outs, stride)
            if placed is None:
                continue
            padding, computed, skip, count = placed
            shape = (b, *computed, self.n)
            direct = stride == (1, 1) and computed == outs
            at = y.at if direct else c.temporary(int(np.prod(shape)) * y.dtype.itemsize)
            c.core.conv2d_f32(
                image.at, at, p.packed, self.bias, image.shape, self.n, self.groups, p.kernel, (1, 1), padding,
                p.dilation, *bounds(self.result), image.stride, 0,
            )  # fmt: skip
            if direct:
                continue
            part = replace(whole, at=at, shape=shape, strides=_strides(shape, y.dtype.itemsize))
            kept = _window(part, skip, count, (1, 1))
            Move._copy(c, [kept], kept.addresses(), _window(whole, p.first, count, stride), y.dtype.itemsize)


def _strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) * itemsize for i in range(len(shape)))


def _window(v, first, count, stride):
    """Of a [B, H, W, N] value: ``count`` rows and columns from ``first`` on, ``stride`` apart."""
    offset = sum(f * step for f, step in zip(first, v.strides[1:3], strict=True))
    steps = tuple(s * step for s, step in zip(stride, v.strides[1:3], strict=True))
    shape = (v.shape[0], *count, v.shape[3])
    return replace(v, at=(v.at[0], v.at[1] + offset), shape=shape, strides=(v.strides[0], *steps, v.strides[3]))


@dataclass(frozen=True)
class Pool:
    """win None: over the whole image. average: whether padding counts; None: the maximum."""

    x: Operand
    y: str
    win: Window | None
    average: bool | None
    result: Result

    @property
    def strided(self) -> bool:
        return self.x.grid is None

    def emit(self, c: Compiler) -> None:
        image, (y, stride) = Image(c, self.x.value(c), True), image_result(c, self.y)
        c.core.pool2d_f32(image.at, y.at, image.shape, *image.window(self.win), self.average, *bounds(self.result), image.stride, stride)


@dataclass(frozen=True)
class Reduce:
    """A sum, mean or maximum over ``axes``, or the root of one. grid: of a result that is bytes."""

    x: Operand
    y: str
    axes: tuple[int, ...]
    keep: bool
    kind: int
    root: bool
    grid: Grid | None

    def emit(self, c: Compiler) -> None:
        x, y = self.x.value(c), c.result(self.y)
        where = tuple(sorted({axis % len(x.shape) for axis in self.axes}))
        order, before = reduction_order(x.shape, memory_order(x.shape, x.strides), where)
        kept = [i for i in order if i not in where]
        if not y.dense_as([*kept, *where] if self.keep else [sorted(kept).index(i) for i in kept]):
            raise NotNative
        outer, n, inner = parts([x.shape[i] for i in order], before, len(where))
        to = y.at if self.grid is None else c.temporary(4 * y.size)
        c.core.reduce_f32(c.dense(x, order), to, outer, n, inner, self.kind)
        if self.root:
            c.core.expression(_ROOT, [(to, np.dtype(np.float32), [1])], to, np.dtype(np.float32), [y.size], -1)
        if self.grid is not None:
            c.core.quantize(to, y.at, y.size, self.grid.scale, self.grid.zero_point, self.grid.qmax)


@dataclass(frozen=True)
class Select:
    """The greatest or least byte along ``axes``."""

    x: str
    y: str
    axes: tuple[int, ...]
    keep: bool
    least: bool

    def emit(self, c: Compiler) -> None:
        x, y = c.value(self.x), c.result(self.y)
        where = tuple(sorted({axis % len(x.shape) for axis in self.axes}))
        order, before = reduction_order(x.shape, memory_order(x.shape, x.strides), where)
        kept = [i for i in order if i not in where]
        found = [*kept, *where] if self.keep else [sorted(kept).index(i) for i in kept]
        outer, n, inner = parts([x.shape[i] for i in order], before, len(where))
        at, best = c.dense(x, order), y.moved(y.at if y.dense_as(found) and not self.least else c.temporary(y.size), found, y.dtype)
        if self.least:
            negated = c.temporary(x.size)
            c.core.lut(at, negated, _NEGATED, 1, x.size, x.size, x.size)
            at = negated
        c.core.max_pool2d(at, best.at, (outer, n, 1, inner), (n, 1), (1, 1), (0, 0, 0, 0), (1, 1), 0, 0)
        if self.least:
            c.core.lut(best.at, best.at, _NEGATED, 1, y.size, y.size, y.size)
        if best.at != y.at:
            lies = y.dense()
            c.core.copy(best.at, y.at, 1, [y.shape[i] for i in lies], [best.strides[i] for i in lies])


@dataclass(frozen=True)
class MatMul:
    """Two activations as real numbers."""

    a: Operand
    b: Operand
    y: str
    result: Result

    def emit(self, c: Compiler) -> None:
        p, q = self.a.value(c), self.b.value(c)
        p, q = p.reshaped_front() if len(p.shape) == 1 else p, q.reshaped_back() if len(q.shape) == 1 else q
        (m, k), n = p.shape[-2:], q.shape[-1]
        lead = np.broadcast_shapes(p.shape[:-2], q.shape[:-2])
        a = matrix(c, p.broadcast((*lead, *p.shape[-2:])), transposable=False)
        b = matrix(c, q.broadcast((*lead, *q.shape[-2:])))
        y = product_result(c, self.y, m, n)
        c.core.matmul_floats(int(np.prod(lead, dtype=np.int64)), m, n, k, a, b, y, *bounds(self.result))
