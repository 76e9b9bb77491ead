"""Native forms of steps: what a step becomes in a compiled program.

A form is emitted once it is known how the step's numpy result lies in memory, which tells every shape and memory order; it adds
operations to the builder and leaves the result in exactly that memory order, or with gaps where it is part of a concatenation and
the form can write so. A form that does not fit the arrays it meets raises NotNative, and the step then runs in Python between two
native segments. ``strided`` forms read tensors with gaps as they are; for the others a copy is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .. import _core
from .floatnn import Window, two
from .ir import QParams
from .layout import memory_order

if TYPE_CHECKING:
    from .compile import Compiler, Value
    from .convops import LinearAxes
    from .executors import Result
    from .step import Native


class NotNative(Exception):
    """This form cannot express the step on these arrays."""


_NHWC = (0, 2, 3, 1)


@dataclass(frozen=True)
class Grid:
    """Scale and zero point of a per-tensor uint8 grid."""

    scale: float
    zero_point: int
    qmax: int = 255

    @classmethod
    def of(cls, qp: QParams) -> Grid:
        return cls(qp.scale.item(), qp.zero_point.item(), qp.qmax)


def bounds(result: Result) -> tuple:
    """(floats, scale, zero point, lo, hi) as the builder takes them."""
    return (result.dtype is np.float32, *result.bounds)


@dataclass(frozen=True)
class Rounded:
    """A form whose float32 result is rounded where it lies, to a grid that is not held as bytes. grid: the rounding."""

    form: Native
    y: str
    grid: _core.Expression

    def emit(self, c: Compiler) -> None:
        y = c.result(self.y)  # without gaps, where ``form`` will find it
        self.form.emit(c)
        order = y.dense()
        steps = [y.strides[i] // y.dtype.itemsize for i in order]
        c.core.expression(self.grid, [(y.at, y.dtype, steps)], y.at, y.dtype, [y.shape[i] for i in order], 0)


@dataclass(frozen=True)
class Quantize:
    """float32 -> bytes; an image becomes channels-last on the way."""

    x: str
    y: str
    grid: Grid

    def emit(self, c: Compiler) -> None:
        x = c.value(self.x)
        y = c.result(self.y)
        g = self.grid
        grid = (g.scale, g.zero_point, g.qmax)
        if x.same_order(y):
            c.core.quantize(x.at, y.at, x.size, *grid)
        elif len(x.shape) == 4 and x.dense() == tuple(range(4)) and y.dense() == _NHWC:
            b, ch, h, w = x.shape
            c.core.quantize_planes(x.at, y.at, b, ch, h * w, *grid)
        else:
            bytes_ = c.temporary(x.size)
            c.core.quantize(c.dense(x, range(len(x.shape))), bytes_, x.size, *grid)
            c.core.copy(bytes_, y.at, 1, *_in_order(x.shape, y.dense(), 1))


@dataclass(frozen=True)
class Dequantize:
    """bytes -> float32 in the same memory order."""

    x: str
    y: str
    grid: Grid

    def emit(self, c: Compiler) -> None:
        x, y = c.value(self.x), c.result(self.y)
        c.core.dequantize(c.dense(x, y.dense()), y.at, x.size, self.grid.scale, self.grid.zero_point)


@dataclass(frozen=True)
class Linear:
    x: str
    y: str
    packed: np.ndarray
    k: int
    result: Result

    def emit(self, c: Compiler) -> None:
        x, y = c.value(self.x), c.result(self.y, rows=True)
        c.core.linear(c.dense(x, range(len(x.shape))), y.at, self.packed, x.size // self.k, *bounds(self.result))


@dataclass(frozen=True)
class Linear16:
    x: str
    y: str
    packed: np.ndarray
    k: int
    grid: Grid
    result: Result

    def emit(self, c: Compiler) -> None:
        x, y = c.value(self.x), c.result(self.y, rows=True)
        g, q = self.grid, c.temporary(2 * x.size)
        c.core.quantize(c.dense(x, range(len(x.shape))), q, x.size, g.scale, g.zero_point, g.qmax, 2)
        c.core.linear16(q, y.at, self.packed, x.size // self.k, g.scale, g.zero_point, *bounds(self.result))


class Image:
    """A [B, C, H, W] or [B, C, W] value as the channels-last image that the engine's windows walk over."""

    def __init__(self, c: Compiler, x: str | Value, strided: bool = False):
        """strided: the pixels may lie further apart than a pixel's bytes; then ``stride`` says how far."""
        x = c.value(x) if isinstance(x, str) else x
        if len(x.shape) == 4:
            b, ch, h, w = x.shape
            order, self.shape = _NHWC, (b, h, w, ch)
        elif len(x.shape) == 3:
            b, ch, w = x.shape
            order, self.shape = (0, 2, 1), (b, 1, w, ch)
        else:
            raise NotNative
        self.stride = (strided and pixel_stride(x)) or 0
        self.at = x.at if self.stride else c.dense(x, order)
        self.spatial = x.shape[2:]

    def window(self, win: Window | None):
        """(kernel, stride, padding, dilation) in two dimensions; None: the whole image."""
        if win is None:
            return self.shape[1:3], (1, 1), (0, 0, 0, 0), (1, 1)
        return two(win.kernel, 1), two(win.stride, 1), padding(win, self.spatial), two(win.dilation, 1)


def image_result(c: Compiler, name: str):
    """Memory for a channels-last image, and the bytes from one of its pixels to the next (0: it has no gaps)."""
    y = c.result(name, fits=lambda v: pixel_stride(v) is not None)
    stride = pixel_stride(y)
    if stride is None:
        raise NotNative
    return y, stride


def pixel_stride(v) -> int | None:
    """Bytes from pixel to pixel of a [B, C, H, W] or [B, C, W] value in channels-last memory, 0 without gaps; None for other memory."""
    order = _NHWC if len(v.shape) == 4 else (0, 2, 1)
    if v.dense_as(order):
        return 0
    size, channels = v.dtype.itemsize, v.shape[1]
    if channels != 1 and v.strides[1] != size:
        return None
    step = stride = 0
    for i in reversed(order[:-1]):
        if v.shape[i] == 1:
            continue
        stride, step = stride or v.strides[i], step or v.strides[i]
        if v.strides[i] != step or stride < channels * size:
            return None
        step *= v.shape[i]
    return stride


def padding(win: Window, spatial) -> tuple[int, int, int, int]:
    pads, _ = win.resolve(spatial)
    (t, b), (le, r) = ((0, 0), pads[0]) if len(pads) == 1 else pads
    return t, le, b, r


@dataclass(frozen=True)
class Conv:
    """strided: the window reads pixels that lie further apart than their channels."""

    x: str
    y: str
    packed: np.ndarray
    win: Window
    result: Result
    strided: bool = False

    def emit(self, c: Compiler) -> None:
        image, (y, stride) = Image(c, self.x, self.strided), image_result(c, self.y)
        c.core.conv2d(
            image.at, y.at, self.packed, image.shape, two(self.win.stride, 1), padding(self.win, image.spatial),
            two(self.win.dilation, 1), *bounds(self.result), image.stride, stride,
        )  # fmt: skip


@dataclass(frozen=True)
class ConvTranspose:
    """extra: ONNX's output_padding."""

    x: str
    y: str
    packed: np.ndarray
    win: Window
    extra: tuple[int, ...]
    result: Result

    def emit(self, c: Compiler) -> None:
        image, (y, stride) = Image(c, self.x), image_result(c, self.y)
        (t, b), (le, r) = ((0, 0), *self.win.pads)[-2:]
        extra = two(self.extra, 0)
        c.core.conv_transpose2d(image.at, y.at, self.packed, image.shape, (t, le, b, r), extra, *bounds(self.result), stride)


@dataclass(frozen=True)
class Conv3d:
    x: str
    y: str
    packed: np.ndarray
    win: Window
    result: Result

    def emit(self, c: Compiler) -> None:
        x, y, win, order = c.value(self.x), c.result(self.y), self.win, (0, 2, 3, 4, 1)
        if not y.dense_as(order):
            raise NotNative
        pads, _ = win.resolve(x.shape[2:])
        c.core.conv3d(
            c.dense(x, order), y.at, self.packed, [x.shape[i] for i in order], win.kernel, win.stride,
            [p[k] for k in range(2) for p in pads], win.dilation, *bounds(self.result),
        )  # fmt: skip


@dataclass(frozen=True)
class ResizeLinear:
    x: str
    y: str
    axes: LinearAxes
    grid: Grid
    result: Result

    def emit(self, c: Compiler) -> None:
        image, y = Image(c, self.x), c.result(self.y)
        if pixel_stride(y) != 0:
            raise NotNative
        axes = self.axes(c.value(self.x).shape, self.axes.wanted(c.static))
        c.core.resize_linear(image.at, y.at, image.shape, *axes, self.grid.scale, self.grid.zero_point, *self.result.bounds)


@dataclass(frozen=True)
class MaxPool:
    """win None: over the whole image."""

    x: str
    y: str
    win: Window | None
    strided: ClassVar[bool] = True

    def emit(self, c: Compiler) -> None:
        image, (y, stride) = Image(c, self.x, True), image_result(c, self.y)
        c.core.max_pool2d(image.at, y.at, image.shape, *image.window(self.win), image.stride, stride)


@dataclass(frozen=True)
class AvgPool:
    """win None: over the whole image."""

    x: str
    y: str
    win: Window | None
    with_pad: bool
    grid: Grid
    result: Result
    strided: ClassVar[bool] = True

    def emit(self, c: Compiler) -> None:
        image, (y, stride) = Image(c, self.x, True), image_result(c, self.y)
        kernel, step, pads, _ = image.window(self.win)
        c.core.avg_pool2d(
            image.at, y.at, image.shape, kernel, step, pads, self.with_pad, self.grid.scale, self.grid.zero_point, *bounds(self.result),
            image.stride, stride,
        )  # fmt: skip


@dataclass(frozen=True)
class PermuteChannels:
    x: str
    y: str
    index: np.ndarray  # int32

    def emit(self, c: Compiler) -> None:
        image, y = Image(c, self.x), c.result(self.y)
        if pixel_stride(y) != 0:
            raise NotNative
        b, h, w, _ = image.shape
        c.core.permute_channels(image.at, y.at, self.index, b * h * w)


@dataclass(frozen=True)
class Operand:
    """One side of a product or sum: a run-time tensor, or a constant's bytes."""

    name: str
    grid: Grid
    constant: np.ndarray | None = None

    def value(self, c: Compiler):
        return c.value(self.name) if self.constant is None else c.constant(self.constant)


@dataclass(frozen=True)
class Binary:
    """op: "add" or "mul". A term or factor a channel is not spread out."""

    op: str
    a: Operand
    b: Operand
    y: str
    result: Result
    strided: ClassVar[bool] = True

    def emit(self, c: Compiler) -> None:
        y = c.result(self.y, fits=_in_lines)
        order = memory_order(y.shape, y.strides)
        (v, a), (w, b) = [(s.value(c).broadcast(y.shape), s) for s in (self.a, self.b)]
        if _repeats(w, order) is None and _repeats(v, order) is not None:
            (v, a), (w, b) = (w, b), (v, a)
        repeat, n = _repeats(w, order) or (1, y.size)
        if n != _line((y,), order, n):  # the result's lines are not those that an operand repeats
            repeat = 1
        if repeat == 1:
            n = _line((y, v, w), order, y.size)
        (at_a, lda), (at_y, ldy) = _lined(c, v, order, n), _lined(c, y, order, n)
        at_b, ldb = (w.at, n) if repeat != 1 else _lined(c, w, order, n)
        # The result may overwrite an operand that nobody needs any more; rather the second one, which a residual branch has just made.
        over_b = repeat == 1 and at_b == w.at and b.constant is None
        grids = (a.grid.scale, a.grid.zero_point, b.grid.scale, b.grid.zero_point)
        add = getattr(c.core, self.op)
        add(at_a, at_b, at_y, y.size // n, n, repeat, (lda, ldb, ldy), *grids, *self.result.bounds, over_b)


def _in_lines(v) -> bool:
    return v.lines(memory_order(v.shape, v.strides)) is not None


def _line(values, order, most: int) -> int:
    """Elements a line of the first value that has gaps between its lines; ``most`` when none has."""
    for v in values:
        lines = None if v.dense_as(order) else v.lines(order)
        if lines and lines[1] > 0:
            return lines[0]
    return most


def _lined(c: Compiler, v, order, n: int):
    """(place, bytes from line to line) of the elements of ``v`` as lines of n, its axes in ``order``: where they are, or a copy."""
    lines = v.lines(order)
    if not v.dense_as(order) and lines and lines[0] == n and lines[1] > 0:
        return v.at, lines[1]
    return c.dense(v, order), n * v.dtype.itemsize


def _repeats(v, order) -> tuple[int, int] | None:
    """(repeat, n) when ``v``, broadcast, is dense rows of n elements of which each is read ``repeat`` > 1 times in turn; else None."""
    axes = [i for i in reversed(order) if v.shape[i] != 1]
    n = repeat = 1
    while axes and v.strides[axes[0]] == n * v.dtype.itemsize:
        n *= v.shape[axes.pop(0)]
    while axes and v.strides[axes[0]] == 0:
        repeat *= v.shape[axes.pop(0)]
    step = n * v.dtype.itemsize
    for i in axes:
        if v.strides[i] != step:
            return None
        step *= v.shape[i]
    return (repeat, n) if repeat > 1 and n > 1 else None


@dataclass(frozen=True)
class Lut:
    x: str
    y: str
    table: np.ndarray
    strided: ClassVar[bool] = True

    def emit(self, c: Compiler) -> None:
        x, y = c.value(self.x), c.result(self.y, fits=_in_lines)
        order = memory_order(y.shape, y.strides)
        n = _line((y, x), order, y.size)
        (at, ldx), (to, ldy) = _lined(c, x, order, n), _lined(c, y, order, n)
        c.core.lut(at, to, self.table, y.size // n, n, ldx, ldy)


@dataclass(frozen=True)
class MatMul:
    a: Operand
    b: Operand
    y: str
    result: Result
    most_k: int  # of the integer kernel

    def emit(self, c: Compiler) -> None:
        p, q = self.a.value(c), self.b.value(c)
        p, q = p.reshaped_front() if len(p.shape) == 1 else p, q.reshaped_back() if len(q.shape) == 1 else q
        (m, k), n = p.shape[-2:], q.shape[-1]
        if k > self.most_k:
            raise NotNative
        lead = np.broadcast_shapes(p.shape[:-2], q.shape[:-2])
        sides = [
            matrix(c, v.broadcast((*lead, *v.shape[-2:])), scale=s.grid.scale, zero_point=s.grid.zero_point)
            for v, s in ((p, self.a), (q, self.b))
        ]
        c.core.matmul(int(np.prod(lead, dtype=np.int64)), m, n, k, *sides, product_result(c, self.y, m, n), *bounds(self.result))


def product_result(c: Compiler, name: str, m: int, n: int) -> _core.ProgramMatrix:
    """Where a product of [..., m, n] goes: C-contiguous, or with its heads side by side."""
    y = c.result(name)
    if y.dense_as(range(len(y.shape))):
        return _core.ProgramMatrix(y.at, (m * n, 0, 0), n)
    laid = _laid_out(y, (m, n)) if y.shape[-2:] == (m, n) else None
    if laid is None or laid[2]:
        raise NotNative
    return _core.ProgramMatrix(y.at, *laid)


def matrix(c: Compiler, v: Value, transposable: bool = True, **grid) -> _core.ProgramMatrix:
    """An operand [..., rows, columns] where it lies, when its strides allow, else a copy of it."""
    laid = _laid_out(v, v.shape[-2:])
    if laid is not None and (transposable or not laid[2]):
        return _core.ProgramMatrix(v.at, *laid, **grid)
    rows, columns = v.shape[-2:]
    return _core.ProgramMatrix(c.dense(v, range(len(v.shape))), (rows * columns, 0, 0), columns, **grid)


def _laid_out(v: Value, shape: tuple[int, ...]) -> tuple[tuple[int, int, int], int, bool] | None:
    """(batches, ld, transposed) in elements: rows or columns without gaps, and at most two axes before them that step evenly."""
    (rows, columns), (down, across) = shape, (s // v.dtype.itemsize for s in v.strides[-2:])
    transposed = not (across == 1 or columns == 1)
    if transposed and not (down == 1 or rows == 1):
        return None
    width, ld = (rows, across) if transposed else (columns, down)
    if (columns if transposed else rows) == 1:
        ld = width
    axes = _folded(v, 2)
    if len(axes) > 2 or ld < width:
        return None
    (_, far), (count, near) = ([(1, 0), (0, 0)] + axes)[-2:] if len(axes) > 1 else ((1, 0), (0, axes[0][1] if axes else 0))
    return (near, count, far), ld, transposed


def _folded(v: Value, inner: int = 1) -> list[tuple[int, int]]:
    """(size, step in elements) of the axes before the last ``inner``, those that follow each other evenly joined."""
    axes: list[tuple[int, int]] = []
    for n, step in zip(v.shape[:-inner], v.strides[:-inner], strict=True):
        step //= v.dtype.itemsize
        if n == 1:
            continue
        if axes and axes[-1][1] == step * n:
            axes[-1] = (axes[-1][0] * n, step)
        else:
            axes.append((n, step))
    return axes


def _rows(c: Compiler, name: str, axis: int):
    """(place of C-contiguous rows from ``axis`` on, rows, elements of one, whether they are bytes)."""
    x = c.value(name)
    if x.dtype not in (np.uint8, np.float32):
        raise NotNative
    n = int(np.prod(x.shape[axis % len(x.shape) :], dtype=np.int64))
    return c.dense(x, range(len(x.shape))), x.size // n, n, x.dtype == np.uint8


@dataclass(frozen=True)
class Softmax:
    x: str
    y: str
    axis: int
    grid: tuple[float, int]
    result: Result
    mask: str | np.ndarray | None = None  # floats that are added to x

    def emit(self, c: Compiler) -> None:
        x = c.value(self.x)
        if self.axis not in (-1, len(x.shape) - 1):
            return self._across(c, x)
        y = c.result(self.y, rows=True)
        if y.shape != x.shape:
            raise NotNative
        added = () if self.mask is None else _mask(c, self.mask, y.shape)
        c.core.softmax(*_take(_rows(c, self.x, -1), y), *self.grid, *_plain_bounds(self.result), *added)

    def _across(self, c: Compiler, x: Value) -> None:
        """Along another axis than the last: rows in memory of the input or of a copy, and of the result or of one that is copied there."""
        if x.dtype not in (np.uint8, np.float32) or self.mask is not None:
            raise NotNative
        y, axis = c.result(self.y), self.axis % len(x.shape)
        order, lies = (*(i for i in range(len(x.shape)) if i != axis), axis), y.dense()
        rows = y.moved(y.at if y.dense_as(order) else c.temporary(y.size * y.dtype.itemsize), order, y.dtype)
        n = x.shape[axis]
        c.core.softmax(c.dense(x, order), rows.at, x.size // n, n, x.dtype == np.uint8, *self.grid, *_plain_bounds(self.result))
        if rows.at != y.at:
            c.core.copy(rows.at, y.at, y.dtype.itemsize, [y.shape[i] for i in lies], [rows.strides[i] for i in lies])


def _mask(c: Compiler, mask: str | np.ndarray, shape: tuple[int, ...]):
    """(place, sizes, strides in elements) of a float mask over the rows of ``shape``, their axes folded into three."""
    v = (c.value(mask) if isinstance(mask, str) else c.constant(mask)).broadcast(shape)
    if v.dtype != np.float32:
        raise NotNative
    axes = _folded(v)
    if len(axes) > 3 or (shape[-1] > 1 and v.strides[-1] != 4):
        return c.dense(v, range(len(shape))), (1, 1, v.size // shape[-1]), (0, 0, shape[-1])
    axes = [(1, 0)] * (3 - len(axes)) + axes
    return v.at, tuple(n for n, _ in axes), tuple(step for _, step in axes)


@dataclass(frozen=True)
class Norm:
    """gamma, beta: constants of the normalized axes, or None."""

    x: str
    y: str
    gamma: np.ndarray | None
    beta: np.ndarray | None
    axis: int
    epsilon: float
    center: bool
    grid: tuple[float, int]
    result: Result

    def emit(self, c: Compiler) -> None:
        y = c.result(self.y, rows=True)
        shape = y.shape[self.axis % len(y.shape) :]
        gamma, beta = (None if p is None else np.array(np.broadcast_to(p, shape), np.float32).reshape(-1) for p in (self.gamma, self.beta))
        rows = _take(_rows(c, self.x, self.axis), y)
        c.core.norm(*rows, *self.grid, self.center, self.epsilon, gamma, beta, *_plain_bounds(self.result))


def _take(rows, y) -> tuple:
    at, count, n, is_bytes = rows
    return at, y.at, count, n, is_bytes


def _plain_bounds(result: Result) -> tuple:
    """Operations on rows take no bounds in float32."""
    return bounds(result) if result.dtype is np.uint8 else (True, 1.0, 0, None, None)


@dataclass(frozen=True)
class Move:
    """Elements of the inputs at other places: the operator itself, run once on addresses instead of values, says which."""

    inputs: tuple  # a tensor's name, or an array that is no run-time data (indices, constants of the data's type), or None
    outputs: tuple[str, ...]
    fn: object

    def emit(self, c: Compiler) -> None:
        # Address of an element: source in the upper bits, byte offset in the lower 40; constants of a fill are negative.
        sources, arguments = [], []
        itemsize = 0
        for i in self.inputs:
            if isinstance(i, str):
                v = c.value(i)
            elif isinstance(i, MovedConstant):
                v = c.constant(i.data)
            else:
                arguments.append(None if i is None else i.read(c) if isinstance(i, Static) else i)
                continue
            itemsize = v.dtype.itemsize
            arguments.append((len(sources) << 40) + v.addresses())
            sources.append(v)
        results = self.fn(*arguments)
        for name, found in zip(self.outputs, results if isinstance(results, tuple) else (results,), strict=False):
            if name:
                self._copy(c, sources, found, c.result(name), itemsize)

    @staticmethod
    def _copy(c: Compiler, sources: Sequence, found: np.ndarray, y, itemsize: int) -> None:
        flat, to = (a.transpose(memory_order(y.shape, y.strides)).ravel() for a in (found, y.addresses()))
        filled = flat < 0
        gaps = (np.diff(flat) != np.where(filled[1:], 0, itemsize)) | (filled[1:] != filled[:-1]) | (np.diff(to) != itemsize)
        starts = np.flatnonzero(np.concatenate(([True], gaps)))
        ends = np.append(starts[1:], flat.size)
        first = flat[starts]
        for k in range(-1, len(sources)):
            mine = (first >> 40 == k) if k >= 0 else first < 0
            if not mine.any():
                continue
            at = first[mine] & ((1 << 40) - 1) if k >= 0 else np.zeros(mine.sum(), np.int64)
            runs = np.stack([at, to[starts[mine]], (ends - starts)[mine] * itemsize], 1)
            if k >= 0:
                c.core.runs((sources[k].at[0], 0), (y.at[0], 0), _loops(runs))
                continue
            for value in np.unique(first[mine]):
                c.core.fill((y.at[0], 0), -int(value) - 1, _loops(runs[first[mine] == value]))


@dataclass(frozen=True)
class Concat:
    """inputs: names of tensors, or constants. Those that have been computed in their part of the result are not copied."""

    inputs: tuple[str | MovedConstant, ...]
    y: str
    axis: int

    def emit(self, c: Compiler) -> None:
        y = c.concatenation(self.y)
        axis, offset = self.axis % len(y.shape), 0
        for i in self.inputs:
            v = c.value(i) if isinstance(i, str) else c.constant(i.data)
            part = replace(y, at=(y.at[0], y.at[1] + offset * y.strides[axis]), shape=v.shape)
            offset += v.shape[axis]
            if c.put(v, part):
                Move._copy(c, [v], v.addresses(), part, v.dtype.itemsize)


@dataclass(frozen=True)
class Static:
    """An input of a Move that holds indices or sizes: known when the shapes are."""

    name: str

    def read(self, c: Compiler) -> np.ndarray:
        return c.static(self.name)


@dataclass(frozen=True)
class MovedConstant:
    data: np.ndarray


def _loops(runs: np.ndarray) -> np.ndarray:
    """int64 [N, 3] of (from, to, bytes) -> [M, 6]: neighbours of one length and one step become a loop."""
    out = []
    same = (np.diff(runs[1:], axis=0) == np.diff(runs[:-1], axis=0)).all(1) if len(runs) > 2 else np.zeros(0, bool)
    i = 0
    breaks = np.flatnonzero(~same)
    while i < len(runs):
        if i + 1 >= len(runs) or runs[i + 1, 2] != runs[i, 2]:
            out.append((*runs[i], 1, 0, 0))
            i += 1
            continue
        at = np.searchsorted(breaks, i)
        end = breaks[at] + 1 if at < len(breaks) else len(runs) - 1  # the last run with the step of i -> i + 1
        step = runs[i + 1] - runs[i]
        out.append((*runs[i], end - i + 1, step[0], step[1]))
        i = end + 1
    return np.array(out, np.int64).reshape(-1, 6)


def _in_order(shape, order, itemsize: int) -> tuple[list[int], list[int]]:
    """Shape and byte strides of a C-contiguous array of ``shape``, its axes taken in ``order``."""
    strides, step = [0] * len(shape), itemsize
    for i in range(len(shape) - 1, -1, -1):
        strides[i] = step
        step *= shape[i]
    return [shape[i] for i in order], [strides[i] for i in order]
