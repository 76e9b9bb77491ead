"""Closures that call the engine's less common operations on images; as in ``executors``, bound to all that does not depend on the input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import _core
from ..errors import ShapeError
from .executors import Result, _channels_last, _logical, _same_order
from .floatnn import Window, linear_axis, resized
from .ir import QParams
from .layout import like


def conv_transpose(x: str, y: str, packed: np.ndarray, win: Window, extra, channels: int, n: int, result: Result, label: str):
    """One or two spatial axes. extra: ONNX's output_padding."""
    core, bounds, dtype = _core.conv_transpose2d, result.bounds, result.dtype
    flat = (1,) * (2 - len(win.kernel))
    kernel, stride, dilation = (*flat, *win.kernel), (*flat, *win.stride), (*flat, *win.dilation)
    pads = ((0, 0),) * len(flat) + win.pads
    extra = (0,) * len(flat) + tuple(extra)
    padding = (pads[0][0], pads[1][0], pads[0][1], pads[1][1])
    ndim = 2 + len(win.kernel)

    def run(env):
        a = env[x]
        if a.ndim != ndim or a.shape[1] != channels:
            raise ShapeError(
                f"layer '{label}' takes {ndim} dimensions with {channels} channels in axis 1; its input '{x}' has shape {a.shape}"
            )
        t = _channels_last(a)
        sizes = [
            (size - 1) * s - b0 - a0 + d * (k - 1) + e + 1
            for size, s, (b0, a0), d, k, e in zip(t.shape[1:3], stride, pads, dilation, kernel, extra, strict=True)
        ]
        if min(sizes) < 1:
            raise ShapeError(f"layer '{label}': its pads {padding} leave nothing of the result for its input '{x}' of shape {a.shape}")
        out = np.empty((t.shape[0], *sizes, n), dtype)
        core(t, packed, out, stride, padding, extra, dilation, *bounds)
        env[y] = _logical(out, ndim)

    return result.finish(run, y)


def product(y: str, read_a, read_b, ga: QParams, gb: QParams, result: Result):
    """A product of two tensors on grids; a factor [B, C, 1, 1] beside [B, C, H, W] is not spread out."""
    core, bounds = _core.mul, result.bounds
    grids_of = [(g.scale.item(), g.zero_point.item()) for g in (ga, gb)]

    def run(env):
        (p, q), (first, second) = (read_a(env), read_b(env)), grids_of
        if p.ndim == q.ndim == 4 and p.shape[2:] == (1, 1) != q.shape[2:]:
            (p, q), (first, second) = (q, p), (second, first)
        grids = (*first, *second)
        if p.ndim == q.ndim == 4 and q.shape[2:] == (1, 1) != p.shape[2:] and q.shape[1] == p.shape[1] and q.shape[0] in (1, p.shape[0]):
            t = _channels_last(p)
            factors = np.ascontiguousarray(np.broadcast_to(q[:, :, 0, 0], p.shape[:2]))
            out = np.empty(t.shape, np.uint8)
            core(t, factors, out, *grids, *bounds)
            env[y] = _logical(out, 4)
            return
        p, q, back = _same_order(p, q)
        out = np.empty(p.shape, np.uint8)
        core(p, q, out, *grids, *bounds)
        env[y] = like(out, back)

    return run


class LinearAxes:
    """What a linear Resize of height and width reads for each output position. scales, sizes: ONNX's constants, one of them None; or
    sizes is the name of a tensor that holds them at run time."""

    def __init__(self, scales, sizes: np.ndarray | str | None, coord: str):
        self.scales, self.sizes, self.coord = scales, sizes, coord

    def wanted(self, find: Callable[[str], np.ndarray]) -> np.ndarray | None:
        """The sizes. find(name): the tensor that holds them, where they are no constant."""
        return find(self.sizes) if isinstance(self.sizes, str) else self.sizes

    def __call__(self, shape, sizes: np.ndarray | None) -> tuple[np.ndarray, ...] | None:
        """For images (batch, channels, height, width): lower and upper input (int32) and the way between them (float32), of height and
        then of width. None: scales or sizes would change the batch or the channels, or leave nothing."""
        if sizes is not None and (sizes.size != 4 or sizes[0] != shape[0]):
            return None
        shape, scales, sizes = (None if v is None else v[1:] for v in (shape, self.scales, sizes))
        wanted, factors = resized(shape, scales, sizes)
        if wanted[0] != shape[0] or min(wanted) < 1:
            return None
        y, x = [linear_axis(n, m, f, self.coord) for n, m, f in zip(wanted, shape, factors, strict=True)][1:]
        return (*y, *x)


def resize_linear(x: str, y: str, find: LinearAxes, grid: QParams, result: Result, label: str):
    core, bounds, source = _core.resize_linear, result.bounds, (grid.scale.item(), grid.zero_point.item())
    axes: dict = {}  # by the input's shape and the result's

    def run(env):
        a = env[x]
        if a.ndim != 4:
            raise ShapeError(f"layer '{label}' resizes 4 dimensions; its input '{x}' has shape {a.shape}")
        sizes = find.wanted(env.__getitem__)
        wanted = None if sizes is None else tuple(int(v) for v in sizes)
        key = a.shape, wanted
        at = axes.get(key)
        if at is None:
            at = find(a.shape, sizes)
            if at is None:
                raise ShapeError(f"layer '{label}' cannot make {wanted or find.scales} of its input '{x}' of shape {a.shape}: "
                                 "it resizes height and width only")  # fmt: skip
            if len(axes) >= 16:
                axes.clear()
            axes[key] = at
        t = _channels_last(a)
        out = np.empty((t.shape[0], at[0].size, at[3].size, t.shape[3]), np.uint8)
        core(t, out, *at, *source, *bounds)
        env[y] = _logical(out, 4)

    return run


def conv3d(x: str, y: str, packed: np.ndarray, win: Window, channels: int, n: int, result: Result, label: str):
    core, bounds, dtype = _core.conv3d, result.bounds, result.dtype

    def run(env):
        a = env[x]
        if a.ndim != 5 or a.shape[1] != channels:
            raise ShapeError(f"layer '{label}' takes 5 dimensions with {channels} channels in axis 1; its input '{x}' has shape {a.shape}")
        t = np.ascontiguousarray(a.transpose(0, 2, 3, 4, 1))
        pads, sizes = win.resolve(t.shape[1:4])
        out = np.empty((t.shape[0], *sizes, n), dtype)
        core(t, packed, out, win.kernel, win.stride, (*(p[0] for p in pads), *(p[1] for p in pads)), win.dilation, *bounds)
        env[y] = out.transpose(0, 4, 1, 2, 3)

    return result.finish(run, y)
