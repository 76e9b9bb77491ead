"""Closures that call the engine. Everything that does not depend on the input is bound when the plan is lowered.

Each maker returns ``run(env)``. Convolutions and pools see [B, H, W, C] memory; a one-dimensional network is H = 1.
"""

from __future__ import annotations

import numpy as np

from .. import _core
from ..errors import ShapeError
from .floatnn import Window, two
from .grids import fake_quantize, quantize
from .ir import QParams
from .layout import dense, like, nhwc
from .values import grid_arrays, quantize_array

f32 = np.float32


class Result:
    """How a kernel writes its output: bytes on the output's grid, or float32 that may be rounded to a wider grid afterwards."""

    def __init__(self, qp: QParams | None, attrs: dict):
        lo, hi = attrs.get("lo"), attrs.get("hi")
        self.after = None
        if qp is not None and qp.u8:
            self.dtype = np.uint8
            self.scale, self.zero_point = qp.scale.item(), qp.zero_point.item()
            at = [None if v is None else int(quantize(np.asarray(v, f32), qp)) for v in (lo, hi)]
            self.lo, self.hi = at[0], at[1]
            if qp.bits < 8:
                self.lo = 0 if self.lo is None else self.lo
                self.hi = qp.qmax if self.hi is None else self.hi
        else:
            self.dtype = np.float32
            self.scale, self.zero_point = 1.0, 0
            self.lo, self.hi = lo, hi
            if qp is not None:
                self.after = qp

    @property
    def bounds(self) -> tuple:
        return self.scale, self.zero_point, self.lo, self.hi

    def finish(self, run, name: str):
        """``run`` followed by the rounding to a grid that is not held as bytes (16-bit activations)."""
        qp = self.after
        if qp is None:
            return run

        def rounded(env):
            run(env)
            env[name] = fake_quantize(env[name], qp)

        return rounded


def linear(x: str, y: str, packed: np.ndarray, n: int, k: int, result: Result, label: str):
    core, bounds, dtype = _core.linear, result.bounds, result.dtype

    def run(env):
        a = env[x]
        if a.shape[-1] != k:
            raise ShapeError(f"layer '{label}' takes {k} features; its input '{x}' has shape {a.shape}")
        if a.ndim != 2:
            a = a.reshape(-1, k)
        if not a.flags.c_contiguous:
            a = np.ascontiguousarray(a)
        out = np.empty((a.shape[0], n), dtype)
        core(a, packed, out, *bounds)
        env[y] = out if env[x].ndim == 2 else out.reshape(*env[x].shape[:-1], n)

    return result.finish(run, y)


def _geometry(win: Window):
    """(static padding or None, stride, dilation) in two dimensions."""
    one = len(win.kernel) == 1
    stride, dilation = two(win.stride, 1), two(win.dilation, 1)
    if not win.static:
        return None, stride, dilation
    (t, b), (le, r) = ((0, 0), win.pads[0]) if one else win.pads
    return (t, le, b, r), stride, dilation


def _padding(win: Window, h: int, w: int):
    if len(win.kernel) == 1:
        pads, outs = win.resolve((w,))
        return (0, pads[0][0], 0, pads[0][1]), (1, outs[0])
    pads, outs = win.resolve((h, w))
    return (pads[0][0], pads[1][0], pads[0][1], pads[1][1]), outs


def _channels_last(a: np.ndarray) -> np.ndarray:
    if a.ndim == 4:
        t = a.transpose(0, 2, 3, 1)
        return t if t.flags.c_contiguous else nhwc(a)
    t = a.transpose(0, 2, 1)
    if not t.flags.c_contiguous:
        t = np.ascontiguousarray(t)
    return t[:, None]


def _logical(t: np.ndarray, ndim: int) -> np.ndarray:
    return t.transpose(0, 3, 1, 2) if ndim == 4 else t[:, 0].transpose(0, 2, 1)


def windowed(x: str, y: str, win: Window, channels: int | None, n: int | None, call, dtype, label: str, read=None):
    """A kernel over [B, H, W, C] windows. call(t, out, stride, padding, dilation); n: output channels, None keeps the input's.

    read(env): the input, where that is not ``x`` as it is held.
    """
    fixed, stride, dilation = _geometry(win)
    kh, kw = two(win.kernel, 1)
    ekh, ekw = dilation[0] * (kh - 1) + 1, dilation[1] * (kw - 1) + 1
    ndim = 2 + len(win.kernel)

    def run(env):
        a = env[x] if read is None else read(env)
        if a.ndim != ndim or (channels is not None and a.shape[1] != channels):
            raise ShapeError(f"layer '{label}' takes {ndim} dimensions with {channels or 'any number of'} channels in axis 1; "
                             f"its input '{x}' has shape {a.shape}")  # fmt: skip
        t = _channels_last(a)
        b, h, w, c = t.shape
        if fixed is None:
            padding, (ho, wo) = _padding(win, h, w)
        else:
            padding = fixed
            ho = (h + fixed[0] + fixed[2] - ekh) // stride[0] + 1
            wo = (w + fixed[1] + fixed[3] - ekw) // stride[1] + 1
            if ho < 1 or wo < 1:
                raise ShapeError(f"layer '{label}': a window of {ekh}x{ekw} does not fit its input '{x}' of shape {a.shape}")
        out = np.empty((b, ho, wo, c if n is None else n), dtype)
        call(t, out, stride, padding, dilation)
        env[y] = _logical(out, ndim)

    return run


def conv(x: str, y: str, packed: np.ndarray, win: Window, channels: int, n: int, result: Result, label: str):
    core, bounds = _core.conv2d, result.bounds

    def call(t, out, stride, padding, dilation):
        core(t, packed, out, stride, padding, dilation, *bounds)

    return result.finish(windowed(x, y, win, channels, n, call, result.dtype, label), y)


def max_pool(x: str, y: str, win: Window, label: str):
    core, kernel = _core.max_pool2d, two(win.kernel, 1)

    def call(t, out, stride, padding, dilation):
        core(t, out, kernel, stride, padding, dilation)

    return windowed(x, y, win, None, None, call, np.uint8, label)


def avg_pool(x: str, y: str, win: Window, with_pad: bool, grid: QParams, result: Result, label: str):
    core, kernel, bounds = _core.avg_pool2d, two(win.kernel, 1), result.bounds
    sx, zx = grid.scale.item(), grid.zero_point.item()

    def call(t, out, stride, padding, dilation):
        core(t, out, kernel, stride, padding, with_pad, sx, zx, *bounds)

    return result.finish(windowed(x, y, win, None, None, call, result.dtype, label), y)


def whole_images(x: str, y: str, call, dtype, label: str, read=None):
    """A pool over whole images: call(t, out, kernel, stride, padding, dilation). read: as in windowed."""

    def run(env):
        a = env[x] if read is None else read(env)
        if a.ndim not in (3, 4) or 0 in a.shape[2:]:
            raise ShapeError(f"layer '{label}' pools over one or two non-empty spatial axes; its input '{x}' has shape {a.shape}")
        t = _channels_last(a)
        b, h, w, c = t.shape
        out = np.empty((b, 1, 1, c), dtype)
        call(t, out, (h, w), (1, 1), (0, 0, 0, 0), (1, 1))
        env[y] = _logical(out, a.ndim)

    return run


def global_avg_pool(x: str, y: str, grid: QParams, result: Result, label: str):
    core, bounds = _core.avg_pool2d, result.bounds
    sx, zx = grid.scale.item(), grid.zero_point.item()

    def call(t, out, kernel, stride, padding, dilation):
        core(t, out, kernel, stride, padding, False, sx, zx, *bounds)

    return result.finish(whole_images(x, y, call, result.dtype, label), y)


def global_max_pool(x: str, y: str, label: str):
    return whole_images(x, y, _core.max_pool2d, np.uint8, label)


def permute_channels(x: str, y: str, index: np.ndarray, label: str):
    """The channels of an image of bytes in another order."""
    order = np.ascontiguousarray(index, np.int32)

    def run(env):
        a = env[x]
        if a.ndim != 4 or a.shape[1] != order.size:
            raise ShapeError(f"layer '{label}' orders the {order.size} channels of an image; its input '{x}' has shape {a.shape}")
        t = _channels_last(a)
        out = np.empty(t.shape, np.uint8)
        _core.permute_channels(t, out, order)
        env[y] = _logical(out, 4)

    return run


def _same_order(a: np.ndarray, b: np.ndarray):
    """Both broadcast to one shape, in the memory order of a, C-contiguous, with the way back."""
    if a.shape != b.shape:
        a, b = np.broadcast_arrays(a, b)
    d, back = dense(a)
    e = b if back is None else b.transpose(tuple(np.argsort(back)))
    return d, (e if e.flags.c_contiguous else np.ascontiguousarray(e)), back


def add(a: str, b: str, y: str, read_a, read_b, ga: QParams, gb: QParams, result: Result):
    core = _core.add
    grids = (ga.scale.item(), ga.zero_point.item(), gb.scale.item(), gb.zero_point.item())
    bounds = result.bounds

    def run(env):
        p, q = read_a(env), read_b(env)
        if p.shape == q.shape and p.ndim == 4:
            s, t = p.transpose(0, 2, 3, 1), q.transpose(0, 2, 3, 1)
            if s.flags.c_contiguous and t.flags.c_contiguous:
                out = np.empty(s.shape, np.uint8)
                core(s, t, out, *grids, *bounds)
                env[y] = out.transpose(0, 3, 1, 2)
                return
        p, q, back = _same_order(p, q)
        out = np.empty(p.shape, np.uint8)
        core(p, q, out, *grids, *bounds)
        env[y] = like(out, back)

    return run


def lut(x: str, y: str, table: np.ndarray):
    core = _core.lut

    def run(env):
        d, back = dense(env[x])
        out = np.empty(d.shape, np.uint8)
        core(d, table, out)
        env[y] = like(out, back)

    return run


def alias(x: str, y: str):
    def run(env):
        env[y] = env[x]

    return run


def _matrix(a: np.ndarray) -> tuple[np.ndarray, bool]:
    """(C-contiguous array, whether its last two axes are swapped)."""
    if a.flags.c_contiguous:
        return a, False
    t = a.swapaxes(-1, -2)
    return (t, True) if t.flags.c_contiguous else (np.ascontiguousarray(a), False)


# Largest K of a product of two uint8 activations whose exact sum always fits int32: 255 * 255 * K < 2^31.
MATMUL_K = 33_025


def matmul(y: str, read_a, read_b, ga: QParams, gb: QParams, result: Result, store, label: str, heads: bool = False):
    """Two activations. One-dimensional operands and broadcast leading axes are brought to the engine's [..., M, K] x [..., K, N].

    Beyond the K that int32 can hold, float64 sums the same integers exactly; ``store`` rounds that result. heads: the result lies
    side_by_side in memory.
    """
    core, bounds, dtype = _core.matmul, result.bounds, result.dtype
    grids = (ga.scale.item(), ga.zero_point.item(), gb.scale.item(), gb.zero_point.item())

    def run(env):
        p, q, row, column = _operands(read_a(env), read_b(env), label)
        if p.shape[-1] > MATMUL_K:
            acc = np.matmul(p.astype(np.float64) - grids[1], q.astype(np.float64) - grids[3]).astype(f32) * f32(grids[0] * grids[2])
            store(env, _without_vectors(acc, row, column))
            return
        out = np.empty((*p.shape[:-1], q.shape[-1]), dtype)
        (p, ta), (q, tb) = _matrix(p), _matrix(q)
        core(p, q, out, *grids, *bounds, ta, tb)
        env[y] = side_by_side(out) if heads else _without_vectors(out, row, column)

    return result.finish(run, y)


def _operands(p: np.ndarray, q: np.ndarray, label: str):
    """Both as [..., M, K] and [..., K, N] over the same leading axes; whether each was a vector."""
    row, column = p.ndim == 1, q.ndim == 1
    p, q = p[None] if row else p, q[:, None] if column else q
    if p.shape[-1] != q.shape[-2]:
        raise ShapeError(f"layer '{label}' multiplies shapes {p.shape} and {q.shape}: {p.shape[-1]} columns against {q.shape[-2]} rows")
    if p.shape[:-2] != q.shape[:-2]:
        lead = np.broadcast_shapes(p.shape[:-2], q.shape[:-2])
        p, q = np.broadcast_to(p, (*lead, *p.shape[-2:])), np.broadcast_to(q, (*lead, *q.shape[-2:]))
    return p, q, row, column


def side_by_side(out: np.ndarray) -> np.ndarray:
    """[B, heads, M, N] with the heads beside each other in memory, as the transposition behind attention wants them."""
    return np.ascontiguousarray(out.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)


def _without_vectors(out: np.ndarray, row: bool, column: bool) -> np.ndarray:
    out = out[..., 0, :] if row else out
    return out[..., 0] if column else out


def product(read, y: str, packed: np.ndarray, bias: np.ndarray | None, n: int, k: int, result: Result, label: str):
    """A layer whose weight or input is on no 8-bit grid, on real numbers."""
    core, bounds, dtype = _core.product, result.bounds, result.dtype

    def run(env):
        a = read(env)
        if a.shape[-1] != k:
            raise ShapeError(f"layer '{label}' takes {k} features; its input has shape {a.shape}")
        rows = np.ascontiguousarray(a.reshape(-1, k))
        out = np.empty((rows.shape[0], n), dtype)
        core(rows, packed, bias, out, *bounds)
        env[y] = out.reshape(*a.shape[:-1], n)

    return result.finish(run, y)


def matmul_floats(y: str, read_a, read_b, result: Result, label: str, heads: bool = False):
    """Two activations of which one is on no 8-bit grid, on real numbers."""
    core, bounds, dtype = _core.matmul_floats, result.bounds, result.dtype

    def run(env):
        p, q, row, column = _operands(read_a(env), read_b(env), label)
        out = np.empty((*p.shape[:-1], q.shape[-1]), dtype)
        q, transposed = _matrix(q)
        core(np.ascontiguousarray(p), q, out, *bounds, transposed)
        env[y] = side_by_side(out) if heads else _without_vectors(out, row, column)

    return result.finish(run, y)


def linear16(x: str, y: str, packed: np.ndarray, n: int, k: int, grid: QParams, result: Result, label: str):
    """9 to 16-bit activations: the float32 values lie on the grid, so quantizing them recovers their integers exactly."""
    core, bounds, dtype = _core.linear16, result.bounds, result.dtype
    scale, zero = grid_arrays(grid)
    sx, zx, qmax = grid.scale.item(), grid.zero_point.item(), grid.qmax

    def run(env):
        a = env[x]
        if a.shape[-1] != k:
            raise ShapeError(f"layer '{label}' takes {k} features; its input '{x}' has shape {a.shape}")
        shape = a.shape
        a = np.ascontiguousarray(a.reshape(-1, k))
        q = np.empty(a.shape, np.uint16)
        _core.quantize(a, scale, zero, 0, qmax, q, -1)
        out = np.empty((q.shape[0], n), dtype)
        core(q, packed, out, sx, zx, *bounds)
        env[y] = out.reshape(*shape[:-1], n)

    return result.finish(run, y)


def quantize_step(x: str, y: str, qp: QParams):
    scale, zero = grid_arrays(qp)
    qmax = qp.qmax

    def run(env):
        env[y] = quantize_array(env[x], scale, zero, qmax)

    return run
