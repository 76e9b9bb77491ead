"""Convolutions, pools and reductions that compute in float32, by the engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .. import _core
from ..errors import ShapeError
from .executors import Result, _channels_last, _logical, whole_images, windowed
from .floatnn import Window, two
from .layout import memory_order, parts, reduction_order
from .step import Env

MEAN, SUM, SUM_OF_SQUARES, MAX = range(4)  # kinds of reduction, as the engine numbers them


def is_depthwise(w: np.ndarray, groups: int) -> bool:
    return groups > 1 and w.shape[0] == groups and w.shape[1] == 1


def pack(w: np.ndarray, groups: int = 1) -> np.ndarray:
    """float32 [N, C / groups, KH, KW] -> the engine's panels of every group, one after the other; depthwise, [KH * KW, C].

    A filter's rows are its taps and, within a tap, the channels.
    """
    if is_depthwise(w, groups):
        return np.ascontiguousarray(w.reshape(groups, -1).T).reshape(-1)
    rows = np.ascontiguousarray(w.transpose(0, 2, 3, 1)).reshape(groups, w.shape[0] // groups, -1)
    return np.concatenate([_core.pack_floats(r, True) for r in rows])


Read = Callable[[Env], np.ndarray]  # a layer's input as real numbers


def conv(read: Read, x: str, y: str, packed: np.ndarray, bias: np.ndarray | None, win: Window, channels: int, n: int, groups: int,
         result: Result, label: str):  # fmt: skip
    kernel, bounds = two(win.kernel, 1), result.bounds

    def call(t, out, stride, padding, dilation):
        _core.conv2d_f32(t, packed, bias, out, kernel, groups, stride, padding, dilation, *bounds)

    return result.finish(windowed(x, y, win, channels, n, call, result.dtype, label, read), y)


@dataclass(frozen=True)
class Phase:
    """One of the convolutions of stride 1 that a transposed convolution consists of: it gives every ``stride``-th row and column of the
    result, from ``first`` on. Pairs are (height, width).

    start: the input's row and column under the first tap of the first position; where it is above 0, that many positions are computed in
    front of those that count.
    """

    first: tuple[int, ...]
    start: tuple[int, ...]
    kernel: tuple[int, ...]
    dilation: tuple[int, ...]
    packed: np.ndarray

    def place(self, sizes: Sequence[int], outs: Sequence[int], stride: Sequence[int]):
        """(padding, positions that are computed, those to skip, those that count) on an input of ``sizes``; None when none count."""
        before, after, computed, counts = [], [], [], []
        for size, out, s, first, start, k, d in zip(sizes, outs, stride, self.first, self.start, self.kernel, self.dilation, strict=True):
            counts.append(-(-(out - first) // s))
            before.append(max(0, -start))
            after.append(max(0, counts[-1] - 1 + start + d * (k - 1) - (size - 1)))
            computed.append(size + before[-1] + after[-1] - d * (k - 1))
        if min(counts) < 1:
            return None
        return (*before, *after), tuple(computed), tuple(max(0, s) for s in self.start), tuple(counts)


def phases(w: np.ndarray, win: Window, groups: int) -> list[Phase] | None:
    """Of a transposed convolution with float32 weights [C, N / groups, KH, KW]; None where a phase has no tap."""
    c, n, *kernel = w.shape
    stride, dilation, (top, left) = two(win.stride, 1), two(win.dilation, 1), ((0, 0), *win.pads)[-2:]
    filters = w.reshape(groups, c // groups, n, *kernel).transpose(0, 2, 1, 3, 4).reshape(groups * n, c // groups, *kernel)
    found = []
    for first in itertools.product(*map(range, stride)):
        # Position q of the phase is row s q + first of the result; tap k reaches it from input row q + (first + pad - k d) / s.
        taps, start, step = [], [], []
        for k, s, d, r, (pad, _) in zip(kernel, stride, dilation, first, (top, left), strict=True):
            mine = [t for t in reversed(range(k)) if (r + pad - t * d) % s == 0]
            if not mine:
                return None
            taps.append(mine)
            start.append((r + pad - mine[0] * d) // s)
            step.append((mine[0] - mine[1]) * d // s if len(mine) > 1 else 1)
        part = filters[:, :, taps[0]][:, :, :, taps[1]]
        found.append(Phase(first, tuple(start), part.shape[2:], tuple(step), pack(np.ascontiguousarray(part), groups)))
    return found


def transposed(read: Read, x: str, y: str, parts: list[Phase], bias: np.ndarray | None, win: Window, extra: tuple[int, ...], channels: int,
               n: int, groups: int, result: Result, label: str):  # fmt: skip
    """extra: ONNX's output_padding."""
    bounds, stride, ndim = result.bounds, two(win.stride, 1), 2 + len(win.kernel)

    def run(env):
        a = read(env)
        if a.ndim != ndim or a.shape[1] != channels:
            raise ShapeError(
                f"layer '{label}' takes {ndim} dimensions with {channels} channels in axis 1; its input '{x}' has shape {a.shape}"
            )
        t = _channels_last(a)
        outs = transposed_size(t.shape[1:3], win, extra)
        if min(outs) < 1:
            raise ShapeError(f"layer '{label}' crops more than its input '{x}' of shape {a.shape} gives")
        out = np.empty((len(t), *outs, n), result.dtype)
        for p in parts:
            placed = p.place(t.shape[1:3], outs, stride)
            if placed is None:
                continue
            padding, computed, skip, count = placed
            part = np.empty((len(t), *computed, n), result.dtype)
            _core.conv2d_f32(t, p.packed, bias, part, p.kernel, groups, (1, 1), padding, p.dilation, *bounds)
            kept = part[:, skip[0] : skip[0] + count[0], skip[1] : skip[1] + count[1]]
            out[:, p.first[0] :: stride[0], p.first[1] :: stride[1]] = kept
        env[y] = _logical(out, ndim)

    return result.finish(run, y)


def transposed_size(sizes: Sequence[int], win: Window, extra: tuple[int, ...]) -> tuple[int, ...]:
    """Height and width of the result."""
    pads = ((0, 0), *win.pads)[-2:]
    return tuple(
        (size - 1) * s + d * (k - 1) + 1 + e - before - after
        for size, s, d, k, e, (before, after) in zip(
            sizes, two(win.stride, 1), two(win.dilation, 1), two(win.kernel, 1), two(extra, 0), pads, strict=True
        )
    )


def pool(read: Read, x: str, y: str, win: Window | None, average: bool | None, result: Result, label: str):
    """average: whether padding counts; None: the maximum. win None: over the whole image."""
    bounds = result.bounds

    def call(t, out, kernel, stride, padding, dilation):
        if average is None:
            _core.max_pool2d_f32(t, out, kernel, stride, padding, dilation, *bounds)
        else:
            _core.avg_pool2d_f32(t, out, kernel, stride, padding, dilation, average, *bounds)

    if win is None:
        return result.finish(whole_images(x, y, call, result.dtype, label, read), y)
    kernel = two(win.kernel, 1)
    return result.finish(windowed(x, y, win, None, None, lambda t, out, *where: call(t, out, kernel, *where), result.dtype, label, read), y)


def reduction(read: Read, axes: tuple[int, ...], keep: bool, kind: int, root: bool, store, label: str):
    """store(env, result): rounds the result where it has an encoding. root: of the result."""

    def run(env):
        a = read(env)
        if any(not -a.ndim <= axis < a.ndim for axis in axes):
            raise ShapeError(f"layer '{label}' reduces the axes {axes} of an input of shape {a.shape}")
        where = tuple(sorted({axis % a.ndim for axis in axes}))
        order, before = reduction_order(a.shape, memory_order(a.shape, a.strides), where)
        t = np.ascontiguousarray(a.transpose(order))
        outer, n, inner = parts(t.shape, before, len(where))
        out = np.empty((outer, inner), np.float32)
        _core.reduce_f32(t.reshape(outer, n, inner), out, kind)
        if root:
            out = np.sqrt(out)
        kept = [i for i in order if i not in where]
        out = out.reshape([a.shape[i] for i in kept]).transpose(np.argsort(kept))
        store(env, out.reshape([1 if i in where else n for i, n in enumerate(a.shape)]) if keep else out)

    return run
