"""ONNX layers in numpy float32: matrix products, convolutions, pooling, normalization, softmax, resize, einsum.

They run where the model gives no 8-bit encoding for an integer kernel to use (the report says which layers and why), and where
no integer kernel exists: softmax and the normalizations between two uint8 grids. Importing this module adds to floatops.OPS.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import ShapeError, UnsupportedOpError
from .floatops import op, simple

f32 = np.float32


# ---- matrix products --------------------------------------------------------------------------------------------------

simple("MatMul", np.matmul)


@op("Gemm")
def _gemm(attrs):
    alpha, beta = attrs.get("alpha", 1.0), attrs.get("beta", 1.0)
    ta, tb = attrs.get("transA", 0), attrs.get("transB", 0)

    def run(a, b, c=None):
        y = np.matmul(a.T if ta else a, b.T if tb else b)
        if alpha != 1.0:
            y *= f32(alpha)
        if c is not None:
            y = y + (c if beta == 1.0 else f32(beta) * c)
        return y

    return run


def bounded(y: np.ndarray, attrs: dict) -> np.ndarray:
    """Apply the bounds that ``passes.fuse_relu`` put on a node."""
    lo, hi = attrs.get("lo"), attrs.get("hi")
    if lo is not None:
        y = np.maximum(y, f32(lo))
    return y if hi is None else np.minimum(y, f32(hi))


@op("Linear")
def _linear(attrs):
    def run(x, w, b=None):
        y = np.matmul(x, w.T)
        return bounded(y if b is None else y + b, attrs)

    return run


@op("Einsum")
def _einsum(attrs):
    equation = attrs["equation"].replace(" ", "")
    return lambda *xs: np.ascontiguousarray(np.einsum(equation, *xs, optimize=True))


# ---- windows ----------------------------------------------------------------------------------------------------------


def two(values, fill) -> tuple:
    """Values of one or two spatial axes as (height, width); ``fill`` stands for a height that is not there."""
    values = tuple(values)
    return values if len(values) == 2 else (fill, *values)


def out_size(size: int, kernel: int, stride: int, before: int, after: int, dilation: int, ceil: bool = False) -> int:
    """Positions of a window along one axis; with ``ceil``, a last window may hang over the end but must start inside."""
    span = size + before + after - dilation * (kernel - 1) - 1
    if span < 0:
        raise ShapeError(f"a window of {dilation * (kernel - 1) + 1} does not fit an axis of {size} padded by {before} and {after}")
    n = (-(-span // stride) if ceil else span // stride) + 1
    if ceil and (n - 1) * stride >= size + before:
        n -= 1
    return n


class Window:
    """Kernel, stride, padding and dilation of a convolution or pool over ``dims`` spatial axes (1 or 2)."""

    def __init__(self, attrs: dict, kernel):
        self.kernel = tuple(int(k) for k in kernel)
        d = len(self.kernel)
        self.stride = tuple(attrs.get("strides") or [1] * d)
        self.dilation = tuple(attrs.get("dilations") or [1] * d)
        self.auto = attrs.get("auto_pad", "NOTSET")
        pads = attrs.get("pads") or [0] * (2 * d)
        self.pads = tuple(zip(pads[:d], pads[d:], strict=True))
        self.ceil = bool(attrs.get("ceil_mode", 0))
        # Runtime-independent form for the common case; SAME padding depends on the input's size.
        self.static = self.auto in ("NOTSET", "VALID") and not self.ceil
        if self.auto == "VALID":
            self.pads = ((0, 0),) * d

    @property
    def of_pixels(self) -> bool:
        """True when each position sees one pixel, its own."""
        return self.static and not any(map(any, self.pads)) and {*self.kernel, *self.stride} == {1}

    @property
    def padded(self) -> bool:
        """True when padding is declared; where ceil mode lets a window hang over the end, that is none."""
        return self.auto in ("SAME_UPPER", "SAME_LOWER") or any(map(any, self.pads))

    def resolve(self, sizes) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
        """(padding before and after, output size) of each axis. Ceil mode becomes extra padding at the end."""
        pads, outs = [], []
        for size, k, s, d, (b, a) in zip(sizes, self.kernel, self.stride, self.dilation, self.pads, strict=True):
            if self.auto in ("SAME_UPPER", "SAME_LOWER"):
                n = -(-size // s)
                total = max((n - 1) * s + d * (k - 1) + 1 - size, 0)
                b, a = (total // 2, total - total // 2) if self.auto == "SAME_UPPER" else (total - total // 2, total // 2)
            else:
                n = out_size(size, k, s, b, a, d, self.ceil)
                a = max(a, (n - 1) * s + d * (k - 1) + 1 - size - b) if self.ceil else a
            pads.append((b, a))
            outs.append(n)
        return tuple(pads), tuple(outs)


def _windows(x, win: Window, fill):
    """[B, C, *spatial] -> view [B, C, *out, *kernel] over a padded copy."""
    pads, outs = win.resolve(x.shape[2:])
    if any(p != (0, 0) for p in pads):
        x = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=fill)
    span = tuple(d * (k - 1) + 1 for d, k in zip(win.dilation, win.kernel, strict=True))
    axes = tuple(range(2, x.ndim))
    v = np.lib.stride_tricks.sliding_window_view(x, span, axis=axes)
    pick = tuple(slice(None, (n - 1) * s + 1, s) for n, s in zip(outs, win.stride, strict=True))
    taps = tuple(slice(None, None, d) for d in win.dilation)
    return v[(slice(None), slice(None), *pick, *taps)], pads


@op("Conv")
def _conv(attrs):
    groups = attrs.get("group", 1)

    def run(x, w, b=None):
        win = Window(attrs, w.shape[2:])
        v, _ = _windows(x, win, 0)
        d = len(win.kernel)
        batch, spatial = x.shape[0], v.shape[2 : 2 + d]
        n, cg = w.shape[0], w.shape[1]
        if x.shape[1] != cg * groups:
            raise ShapeError(f"a convolution for {cg * groups} input channels got an input with {x.shape[1]}")
        # [B, G, C/G, *out, *kernel] -> [B, G, out, C/G * kernel], one matrix product a group
        v = v.reshape(batch, groups, cg, *v.shape[2:])
        v = np.moveaxis(v, 2, 2 + d).reshape(batch, groups, math.prod(spatial), -1)
        y = np.matmul(v, w.reshape(groups, n // groups, -1).transpose(0, 2, 1))  # [B, G, out, N/G]
        y = y.transpose(0, 1, 3, 2).reshape(batch, n, *spatial)
        if b is not None:
            y = y + b.reshape(1, -1, *[1] * d)
        return bounded(y, attrs)

    return run


@op("ConvTranspose")
def _conv_transpose(attrs):
    groups = attrs.get("group", 1)
    if attrs.get("output_shape") or attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise UnsupportedOpError("ConvTranspose with output_shape or auto_pad; export it with explicit pads")

    def run(x, w, b=None):
        kernel = w.shape[2:]
        win = Window(attrs, kernel)
        d = len(kernel)
        batch, spatial = x.shape[0], x.shape[2:]
        cg, ng = w.shape[0] // groups, w.shape[1]
        extra = attrs.get("output_padding") or [0] * d
        full = [(s - 1) * st + dl * (k - 1) + 1 + e for s, st, dl, k, e in
                zip(spatial, win.stride, win.dilation, kernel, extra, strict=True)]  # fmt: skip
        # One product gives every tap's contribution; then taps are added where they land.
        xg = x.reshape(batch, groups, cg, -1)
        taps = np.matmul(w.reshape(groups, cg, -1).transpose(0, 2, 1), xg).reshape(batch, groups * ng, *kernel, *spatial)
        y = np.zeros((batch, groups * ng, *full), np.float32)
        for at in np.ndindex(*kernel):
            where = tuple(slice(k * dl, k * dl + (s - 1) * st + 1, st) for k, dl, s, st in
                          zip(at, win.dilation, spatial, win.stride, strict=True))  # fmt: skip
            y[(slice(None), slice(None), *where)] += taps[(slice(None), slice(None), *at)]
        crop = tuple(slice(b0, n - a0) for (b0, a0), n in zip(win.pads, full, strict=True))
        y = y[(slice(None), slice(None), *crop)]
        return y if b is None else y + b.reshape(1, -1, *[1] * d)

    return run


@op("MaxPool")
def _max_pool(attrs):
    win = Window(attrs, attrs["kernel_shape"])
    if attrs.get("storage_order"):
        raise UnsupportedOpError("MaxPool with storage_order")

    def run(x):
        v, _ = _windows(x, win, -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min)
        return v.max(axis=tuple(range(-len(win.kernel), 0)))

    return run


@op("AveragePool")
def _average_pool(attrs):
    win, with_pad = Window(attrs, attrs["kernel_shape"]), bool(attrs.get("count_include_pad", 0))

    def run(x):
        v, pads = _windows(x, win, 0)
        axes = tuple(range(-len(win.kernel), 0))
        total = v.sum(axis=axes, dtype=np.float64)
        # Elements that count: the input's, and with count_include_pad those of the declared padding (not ceil mode's overhang).
        ones = np.ones((1, 1, *x.shape[2:]), np.float32)
        if with_pad:
            ones = np.pad(ones, [(0, 0), (0, 0), *win.pads], constant_values=1)
            pads = tuple((b - b0, max(a - a0, 0)) for (b, a), (b0, a0) in zip(pads, win.pads, strict=True))
        span = tuple(d * (k - 1) + 1 for d, k in zip(win.dilation, win.kernel, strict=True))
        ones = np.pad(ones, [(0, 0), (0, 0), *pads])
        c = np.lib.stride_tricks.sliding_window_view(ones, span, axis=tuple(range(2, ones.ndim)))
        pick = tuple(slice(None, (n - 1) * s + 1, s) for n, s in zip(v.shape[2 : 2 + len(span)], win.stride, strict=True))
        c = c[(slice(None), slice(None), *pick, *(slice(None, None, d) for d in win.dilation))]
        return bounded((total / c.sum(axis=axes)).astype(np.float32), attrs)

    return run


@op("GlobalAveragePool")
def _global_average(attrs):
    return lambda x: bounded(x.mean(axis=tuple(range(2, x.ndim)), keepdims=True, dtype=np.float64).astype(np.float32), attrs)


simple("GlobalMaxPool", lambda x: x.max(axis=tuple(range(2, x.ndim)), keepdims=True))


# ---- normalization ----------------------------------------------------------------------------------------------------


@op("Softmax")
def _softmax(attrs):
    axis = attrs.get("axis", -1)

    def run(x, mask=None):
        x = x if mask is None else x + mask
        e = np.exp(x.astype(np.float64) - x.max(axis=axis, keepdims=True))
        return (e / e.sum(axis=axis, keepdims=True)).astype(np.float32)

    return run


@op("LogSoftmax")
def _log_softmax(attrs):
    axis = attrs.get("axis", -1)

    def run(x):
        z = x.astype(np.float64) - x.max(axis=axis, keepdims=True)
        return (z - np.log(np.exp(z).sum(axis=axis, keepdims=True))).astype(np.float32)

    return run


def _normalize(x, axes, eps):
    x = x.astype(np.float64)
    x = x - x.mean(axis=axes, keepdims=True)
    return x / np.sqrt(np.square(x).mean(axis=axes, keepdims=True) + eps)


@op("LayerNormalization")
def _layer_norm(attrs):
    axis, eps = attrs.get("axis", -1), attrs.get("epsilon", 1e-5)

    def run(x, scale=None, bias=None):
        y = _normalize(x, tuple(range(axis % x.ndim, x.ndim)), eps)
        if scale is not None:
            y = y * scale
        return (y if bias is None else y + bias).astype(np.float32)

    return run


@op("RMSNormalization")
def _rms_norm(attrs):
    axis, eps = attrs.get("axis", -1), attrs.get("epsilon", 1e-5)

    def run(x, scale=None):
        z = x.astype(np.float64)
        axes = tuple(range(axis % x.ndim, x.ndim))
        y = z / np.sqrt(np.square(z).mean(axis=axes, keepdims=True) + eps)
        return (y if scale is None else y * scale).astype(np.float32)

    return run


@op("InstanceNormalization")
def _instance_norm(attrs):
    eps = attrs.get("epsilon", 1e-5)

    def run(x, scale, bias):
        shape = (1, -1, *[1] * (x.ndim - 2))
        return (_normalize(x, tuple(range(2, x.ndim)), eps) * scale.reshape(shape) + bias.reshape(shape)).astype(np.float32)

    return run


@op("GroupNormalization")
def _group_norm(attrs):
    eps, groups = attrs.get("epsilon", 1e-5), attrs["num_groups"]

    def run(x, scale, bias):
        b, c = x.shape[:2]
        y = _normalize(x.reshape(b, groups, -1), (2,), eps).reshape(x.shape)
        per = c // scale.size  # opset 18 gives one scale a group, opset 21 one a channel
        shape = (1, -1, *[1] * (x.ndim - 2))
        return (y * np.repeat(scale, per).reshape(shape) + np.repeat(bias, per).reshape(shape)).astype(np.float32)

    return run


@op("BatchNormalization")
def _batch_norm(attrs):
    eps = attrs.get("epsilon", 1e-5)
    if attrs.get("training_mode"):
        raise UnsupportedOpError("BatchNormalization in training mode; export the model after .eval()")

    def run(x, scale, bias, mean, var):
        shape = (1, -1, *[1] * (x.ndim - 2))
        k = scale.astype(np.float64) / np.sqrt(var.astype(np.float64) + eps)
        return (x * k.reshape(shape) + (bias - mean * k).reshape(shape)).astype(np.float32)

    return run


# ---- resize -----------------------------------------------------------------------------------------------------------


def _source(n_out, n_in, scale, mode):
    """Where output positions lie on the input axis."""
    i = np.arange(n_out, dtype=np.float64)
    if mode == "asymmetric":
        return i / scale
    if mode == "align_corners":
        return i * (n_in - 1) / (n_out - 1) if n_out > 1 else np.zeros(n_out)
    if mode == "pytorch_half_pixel" and n_out == 1:
        return np.zeros(1)
    return (i + 0.5) / scale - 0.5


def linear_axis(n_out: int, n_in: int, scale: float, coord: str):
    """(lo, hi int32 [n_out], t float32 [n_out]): each output lies between inputs lo and hi, t of the way."""
    if n_out == n_in:
        same = np.arange(n_in, dtype=np.int32)
        return same, same, np.zeros(n_in, f32)
    at = np.clip(_source(n_out, n_in, scale, coord), 0, n_in - 1)
    lo = np.floor(at).astype(np.int32)
    return lo, np.minimum(lo + 1, n_in - 1).astype(np.int32), (at - lo).astype(f32)


def resized(shape, scales, sizes) -> tuple[list[int], list[float]]:
    """Output sizes and scales of a Resize, axis by axis."""
    if sizes is not None and sizes.size:
        return [int(n) for n in sizes], [int(n) / n_in for n, n_in in zip(sizes, shape, strict=True)]
    return [math.floor(n_in * float(s)) for n_in, s in zip(shape, scales, strict=True)], [float(s) for s in scales]


@op("Resize")
def _resize(attrs):
    mode, coord = attrs.get("mode", "nearest"), attrs.get("coordinate_transformation_mode", "half_pixel")
    rounding = attrs.get("nearest_mode", "round_prefer_floor")
    if mode not in ("nearest", "linear") or coord not in ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"):
        raise UnsupportedOpError(f"Resize with mode '{mode}' and coordinates '{coord}'; supported: nearest and linear without a roi")
    if attrs.get("antialias") or attrs.get("axes") or attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedOpError("Resize with antialias, axes or keep_aspect_ratio_policy")
    nearest = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda p: np.ceil(p - 0.5),
        "round_prefer_ceil": lambda p: np.floor(p + 0.5),
    }[rounding]

    def run(x, roi=None, scales=None, sizes=None):
        for axis, (n_in, n_out, scale) in enumerate(zip(x.shape, *resized(x.shape, scales, sizes), strict=True)):
            if n_out == n_in:
                continue
            if mode == "nearest":
                at = _source(n_out, n_in, scale, coord)
                x = x.take(np.clip(nearest(at), 0, n_in - 1).astype(np.int64), axis=axis)
                continue
            lo, hi, t = linear_axis(n_out, n_in, scale, coord)
            shape = [1] * x.ndim
            shape[axis] = -1
            t = t.reshape(shape)
            x = (x.take(lo, axis=axis) * (1 - t) + x.take(hi, axis=axis) * t).astype(np.float32)
        return x

    return run
