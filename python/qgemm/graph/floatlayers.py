"""Convolutions, pools and reductions that compute in float32, by the engine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import _core
from ..errors import ShapeError
from .executors import Result, _two, whole_images, windowed
from .floatnn import Window
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
    kernel, bounds = _two(win.kernel, 1), result.bounds

    def call(t, out, stride, padding, dilation):
        _core.conv2d_f32(t, packed, bias, out, kernel, groups, stride, padding, dilation, *bounds)

    return result.finish(windowed(x, y, win, channels, n, call, result.dtype, label, read), y)


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
    kernel = _two(win.kernel, 1)
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
