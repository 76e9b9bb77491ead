"""The arithmetic of qgemm, written a second time in numpy: slow, plain, and exact.

The engine's reference kernels (C++) and this module are two readings of one specification, docs/numerics.md; the tests hold them
against each other byte by byte. Nothing here is used to run a model. Use it to check a result, to explain one, or to learn what
an integer network computes.

Conventions. ``real = scale * (q - zero_point)``. Scales are float32, zero points integers on the grid of q. Integers come back as
int32 unless a function says otherwise; ``quantize(...).astype(np.uint8)`` is how one gets bytes. A ``weight`` is a signed integer
array with the output channel first: [N, K] for a linear layer, [Cout, Cin / groups, KH, KW] for a convolution. Activations of
convolutions and pools are NHWC, as in the engine.
"""

from __future__ import annotations

import numpy as np

from .errors import AccumulatorOverflowError, QuantizationError, ShapeError

__all__ = [
    "accumulator_range",
    "activation_encoding",
    "add",
    "avg_pool2d",
    "conv2d",
    "conv2d_accumulate",
    "dequantize",
    "dynamic_encoding",
    "expand_lpbq",
    "fmaf",
    "gemm",
    "grid",
    "linear",
    "linear16",
    "linear_dynamic",
    "linear_grouped",
    "max_pool2d",
    "minimum_scale",
    "norm",
    "norm_quantized",
    "output_scale",
    "pack_int4",
    "prove_int32",
    "quantize",
    "requantize",
    "softmax",
    "softmax_exp",
    "to_float",
    "unpack_int4",
    "weight_encoding",
]

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


# ---- grids ------------------------------------------------------------------------------------------------------------


def grid(bits: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest integer of a grid: ``grid(8, False) == (0, 255)``, ``grid(4, True) == (-8, 7)``."""
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def _along(values, ndim: int, axis: int | None, dtype) -> np.ndarray:
    """Per-tensor or per-channel parameters, shaped to broadcast along ``axis`` of an array of ``ndim`` dimensions."""
    v = np.asarray(values, dtype)
    if v.size == 1:
        return v.reshape(())
    if axis is None:
        raise ShapeError(f"a scale or zero point of shape {v.shape} needs an axis")
    shape = [1] * ndim
    shape[axis] = v.size
    return v.reshape(shape)


def _check_scale(scale: np.ndarray) -> None:
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise QuantizationError(f"a scale must be finite and > 0, got {scale.ravel()[:4]}; recalibrate the quantizer")


def quantize(x, scale, zero_point, qmin: int, qmax: int, axis: int | None = None) -> np.ndarray:
    """Real numbers to the grid: ``clamp(rint(x * (1 / scale)) + zero_point, qmin, qmax)``.

    x: float32, any shape. scale, zero_point: one value, or one a channel of ``axis``. Ties go to even; the reciprocal is rounded
    to float32 once and multiplied, which is what ``torch.fake_quantize_per_tensor_affine`` computes and therefore what AIMET's
    simulation computes under ``torch.no_grad()``. NaN becomes the zero point; infinities clamp. Raises QuantizationError.
    """
    x = np.asarray(x, np.float32)
    scale = _along(scale, x.ndim, axis, np.float32)
    _check_scale(scale)
    zero_point = _along(zero_point, x.ndim, axis, np.int64)
    with np.errstate(all="ignore"):
        t = x * (np.float32(1) / scale)
    # Whatever lies beyond 2^40 steps clamps on every grid; float64 adds the zero point without rounding.
    t = np.rint(np.where(np.isnan(t), np.float32(0), np.clip(t, np.float32(-(2.0**40)), np.float32(2.0**40))))
    return np.clip(t.astype(np.float64) + zero_point, qmin, qmax).astype(np.int32)


def dequantize(q, scale, zero_point, axis: int | None = None) -> np.ndarray:
    """The grid to real numbers: ``float32(q - zero_point) * scale``, rounded once."""
    q = np.asarray(q)
    scale = _along(scale, q.ndim, axis, np.float32)
    return (q.astype(np.int64) - _along(zero_point, q.ndim, axis, np.int64)).astype(np.float32) * scale


def requantize(y, out_scale: float, out_zero_point: int, lo: int = 0, hi: int = 255) -> np.ndarray:
    """A layer's float output to its output grid. It is ``quantize``, by definition: the integer output of a layer is the
    quantization of its float output, bit for bit. ReLU is ``lo = out_zero_point``; ReLU6 adds ``hi = quantize(6.0)``."""
    return quantize(y, out_scale, out_zero_point, lo, hi)


# ---- float32 arithmetic that must not depend on the machine ---------------------------------------------------------------


def fmaf(a, b, c) -> np.ndarray:
    """``a * b + c`` in float32 with a single rounding, elementwise: C's ``fmaf``, exactly.

    The product of two float32 has at most 48 significant bits, so float64 holds it exactly. The float64 sum may round; rounding that
    again to float32 could then go the wrong way. Knuth's TwoSum gives the error of the sum, and with it the sum is rounded *to odd*:
    if inexact, to the neighbour whose last bit is 1. A number rounded to odd with at least two spare bits rounds on to float32 as the
    exact number would (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd",
    IEEE Transactions on Computers 57(4), 2008); float64 has 29 to spare.
    """
    a, b, c = (np.asarray(v, np.float32).astype(np.float64) for v in (a, b, c))
    with np.errstate(all="ignore"):
        p = a * b
        s = np.asarray(p + c)
        part = s - p
        error = (p - (s - part)) + (c - part)
        even = (s.view(np.int64) & 1) == 0
        step = np.isfinite(s) & (error != 0) & even
        s = np.where(step, np.nextafter(s, np.where(error > 0, np.inf, -np.inf)), s)
        return s.astype(np.float32)


def output_scale(x_scale, w_scale) -> np.ndarray:
    """``S[n] = float32(x_scale * w_scale[n])``. The float64 product of two float32 is exact, so this is one rounding."""
    return (np.float64(np.float32(x_scale)) * np.asarray(w_scale, np.float32).astype(np.float64)).astype(np.float32)


def _clamp(y: np.ndarray, lo: float, hi: float) -> np.ndarray:
    """``min(max(y, lo), hi)`` with the engine's choice where both are zero: the bound, so that ReLU gives +0."""
    y = np.where(y > np.float32(lo), y, np.float32(lo))
    return np.where(y < np.float32(hi), y, np.float32(hi))


def to_float(acc, scale, bias=None, lo: float = -np.inf, hi: float = np.inf) -> np.ndarray:
    """Exact accumulator to the layer's float output: ``clamp(fmaf(float32(acc), scale[n], bias[n]), lo, hi)``, n the last axis."""
    bias = np.float32(0) if bias is None else np.asarray(bias, np.float32)
    y = fmaf(np.asarray(acc).astype(np.float32), np.asarray(scale, np.float32), bias)
    return _clamp(y, lo, hi)


# ---- integer products ---------------------------------------------------------------------------------------------------


def _wrap_int32(acc: np.ndarray) -> np.ndarray:
    return (np.asarray(acc, np.int64) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


def _exact_matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Integer matrix product. float64 holds every partial sum exactly: 16-bit by 16-bit terms stay below 2^53 up to K = 2^21."""
    return np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int64)


def gemm(x, weight, x_zero_point=0, w_zero_point=0, bias_int32=None) -> np.ndarray:
    """``acc[m, n] = sum_k (x[m, k] - zx) * (weight[n, k] - zw[n]) + bias[n]``, int32 with two's-complement wrap.

    x: integers [M, K]. weight: integers [N, K]. x_zero_point: one, or one a row. w_zero_point: one, or one a channel.
    The sum is exact before the wrap, so it does not depend on any order. K = 0 gives the bias.
    """
    x, weight = np.asarray(x), np.asarray(weight)
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise ShapeError(f"gemm wants x [M, K] and weight [N, K] with one K, got {x.shape} and {weight.shape}")
    zx = np.asarray(x_zero_point, np.int64).reshape(-1, 1)
    zw = np.asarray(w_zero_point, np.int64).reshape(-1, 1)
    acc = _exact_matmul(x.astype(np.int64) - zx, (weight.astype(np.int64) - zw).T)
    if bias_int32 is not None:
        acc = acc + np.asarray(bias_int32, np.int64)
    return _wrap_int32(acc)


def accumulator_range(weight, x_zero_point: int = 0, w_zero_point=0, bias_int32=None, x_max: int = 255) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and largest value that each output channel's accumulator can take, int64 [N], over every input in 0..x_max.

    weight: [N, ...]. A term is (q - zx) * w: it is largest at q = x_max when w > 0 and at q = 0 when w < 0. Both ends are
    attained, so the range is exact, not an estimate.
    """
    w = np.asarray(weight).astype(np.int64)
    w = w.reshape(w.shape[0], -1) - np.asarray(w_zero_point, np.int64).reshape(-1, 1)
    top, bottom = x_max - int(x_zero_point), -int(x_zero_point)
    up, down = np.where(w > 0, w, 0).sum(1), np.where(w < 0, w, 0).sum(1)
    bias = np.int64(0) if bias_int32 is None else np.asarray(bias_int32, np.int64)
    return top * down + bottom * up + bias, top * up + bottom * down + bias


def prove_int32(weight, x_zero_point: int = 0, w_zero_point=0, bias_int32=None, x_max: int = 255, name: str = "layer") -> None:
    """Raise AccumulatorOverflowError, naming the first channel whose accumulator does not fit int32 for every possible input."""
    lo, hi = accumulator_range(weight, x_zero_point, w_zero_point, bias_int32, x_max)
    bad = np.flatnonzero((lo < INT32_MIN) | (hi > INT32_MAX))
    if bad.size:
        n = int(bad[0])
        raise AccumulatorOverflowError(
            f"{name}: the accumulator of output channel {n} can reach [{lo[n]}, {hi[n]}], beyond int32; "
            "split the layer along its input channels, or lower the weights' bit width"
        )


# ---- layers -------------------------------------------------------------------------------------------------------------


def linear(x, weight, x_scale, x_zero_point, w_scale, w_zero_point=0, bias=None, bias_int32=None, lo=-np.inf, hi=np.inf) -> np.ndarray:
    """A quantized linear layer up to its float output, float32 [M, N]; ``requantize`` it for integer output.

    x: uint8 [M, K]. weight: signed integers [N, K]. w_scale: one, or [N]. bias: float32 [N]. bias_int32: int32 [N], joins the
    accumulator (for files that carry one).
    """
    acc = gemm(x, weight, x_zero_point, w_zero_point, bias_int32)
    return to_float(acc, output_scale(x_scale, w_scale), bias, lo, hi)


def linear16(x, weight, x_scale, x_zero_point, w_scale, w_zero_point=0, bias=None, lo=-np.inf, hi=np.inf) -> np.ndarray:
    """A linear layer over uint16 or int16 x [M, K] up to its float output, float32 [M, N].

    65535 * 128 leaves int32 after 256 products, so the accumulator is not int32 here but exact: below 2^53 for any K in use. It rounds to
    float32 once, where an 8-bit accumulator below 2^24 does not round at all.
    """
    x, weight = np.asarray(x), np.asarray(weight)
    zw = np.asarray(w_zero_point, np.int64).reshape(-1, 1)
    acc = _exact_matmul(x.astype(np.int64) - int(x_zero_point), (weight.astype(np.int64) - zw).T)
    return to_float(acc, output_scale(x_scale, w_scale), bias, lo, hi)


def linear_grouped(x, weight, group_size: int, x_scale, x_zero_point, w_scale, w_zero_point=0, bias=None, lo=-np.inf, hi=np.inf):
    """A linear layer whose weight has one scale per ``group_size`` consecutive input channels, float32 [M, N].

    w_scale: [N, ceil(K / group_size)]. x_scale, x_zero_point: one, or one a row. Each group's sum is an exact int32; the groups meet in
    float32, in ascending order, ``f = fmaf(float32(partial), w_scale[n, g], f)`` from 0, and end in ``fmaf(f, x_scale, bias[n])``.
    """
    x, weight = np.asarray(x), np.asarray(weight)
    w_scale = np.asarray(w_scale, np.float32)
    k = weight.shape[1]
    groups = -(-k // group_size)
    if w_scale.shape != (weight.shape[0], groups):
        raise ShapeError(f"a weight {weight.shape} in groups of {group_size} wants scales {(weight.shape[0], groups)}, got {w_scale.shape}")
    f = np.zeros((x.shape[0], weight.shape[0]), np.float32)
    for g in range(groups):
        cols = slice(g * group_size, (g + 1) * group_size)
        f = fmaf(gemm(x[:, cols], weight[:, cols], x_zero_point, w_zero_point).astype(np.float32), w_scale[:, g], f)
    bias = np.float32(0) if bias is None else np.asarray(bias, np.float32)
    y = fmaf(f, np.asarray(x_scale, np.float32).reshape(-1, 1), bias)
    return _clamp(y, lo, hi)


PRODUCT_BLOCK = 256


def product(a, b, bias=None) -> np.ndarray:
    """A product of floats, float32 [..., M, N]: what a network leaves without integers.

    Along K, blocks of 256: in a block a chain of ``fmaf(a[m, k], b[k, n], sum)`` from 0, k ascending; the sums of blocks are added in
    ascending order, and the bias last. A NaN is the positive quiet one.
    """
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    k = a.shape[-1]
    y = np.zeros((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), np.float32)
    with np.errstate(all="ignore"):
        for k0 in range(0, k, PRODUCT_BLOCK):
            total = np.zeros_like(y)
            for i in range(k0, min(k, k0 + PRODUCT_BLOCK)):
                total = fmaf(a[..., :, i, None], b[..., None, i, :], total)
            y = y + total if k0 else total
        y = y + np.float32(0) if bias is None else y + np.asarray(bias, np.float32)
    return np.where(np.isnan(y), np.float32(np.nan), y)


def dynamic_encoding(x, per_row: bool = True, symmetric: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Scale (float32) and zero point (int32) of float32 x [M, K], from its own range: [M] each, or [1] for the whole tensor.

    Asymmetric: ``lo = min(x, 0)``, ``hi = max(x, 0)``, ``scale = (hi - lo) / 255``, ``zero_point = rint(-lo / scale)`` clamped to
    [0, 255]. Symmetric: ``scale = max|x| / 127`` and zero point 128. All in float32. Rows of zeros (and empty ones) have scale 1.
    A scale below the smallest normal float32 is raised to it, so that its reciprocal is finite; where ``hi - lo`` overflows, the
    scale is ``hi / 255 - lo / 255``. Raises QuantizationError on NaN or infinity.
    """
    x = np.asarray(x, np.float32)
    if not np.isfinite(x).all():
        raise QuantizationError("dynamic quantization met NaN or infinity in its input; clean the input, or find the layer that made it")
    rows = x if per_row else x.reshape(1, -1)
    lo, hi = rows.min(1, initial=np.float32(0)), rows.max(1, initial=np.float32(0))
    empty = (lo == 0) & (hi == 0)
    if symmetric:
        scale = np.maximum(-lo, hi) / np.float32(127)
    else:
        with np.errstate(over="ignore"):
            scale = (hi - lo) / np.float32(255)
        scale = np.where(np.isfinite(scale), scale, hi / np.float32(255) - lo / np.float32(255))
    scale = np.where(empty, np.float32(1), np.maximum(scale, np.finfo(np.float32).tiny))
    if symmetric:
        return scale, np.full(scale.shape, 128, np.int32)
    return scale, np.clip(np.rint(-lo / scale), 0, 255).astype(np.int32)


def linear_dynamic(
    x, weight, w_scale, w_zero_point=0, bias=None, group_size: int = 0, per_row=True, symmetric=False, lo=-np.inf, hi=np.inf
) -> np.ndarray:
    """A linear layer over float32 x [M, K], quantized on the fly by ``dynamic_encoding``; float32 [M, N].

    The scale of a term is ``w_scale[n] * row_scale[m]``, multiplied in float32.
    """
    x = np.asarray(x, np.float32)
    scale, zero_point = dynamic_encoding(x, per_row, symmetric)
    q = quantize(x, scale if per_row else scale[0], zero_point if per_row else zero_point[0], 0, 255, axis=0)
    if group_size:
        return linear_grouped(q, weight, group_size, scale, zero_point, w_scale, w_zero_point, bias, lo, hi)
    acc = gemm(q, weight, zero_point, w_zero_point)
    return to_float(acc, np.asarray(w_scale, np.float32).reshape(1, -1) * scale.reshape(-1, 1), bias, lo, hi)


def _windows(x: np.ndarray, kernel, stride, padding, dilation, fill) -> np.ndarray:
    """x [B, H, W, C] -> [B, HO, WO, KH, KW, C], padded by (top, left, bottom, right) with ``fill``."""
    top, left, bottom, right = padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    size = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if x.shape[1] < size[0] or x.shape[2] < size[1]:
        raise ShapeError(f"a window of {size} does not fit the padded input {x.shape[1:3]}")
    v = np.lib.stride_tricks.sliding_window_view(x, tuple(size), axis=(1, 2))
    v = v[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]
    return v.transpose(0, 1, 2, 4, 5, 3)


def conv2d_accumulate(
    x, weight, x_zero_point=0, w_zero_point=0, bias_int32=None, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups: int = 1
) -> np.ndarray:
    """The exact accumulator of a convolution, int32 [B, HO, WO, Cout].

    x: uint8 [B, H, W, Cin]. weight: signed integers [Cout, Cin / groups, KH, KW]. padding: (top, left, bottom, right). Padding is real
    zero, which on the input's grid is its zero point; so a padded tap adds nothing.
    """
    x, weight = np.asarray(x), np.asarray(weight)
    cout, per_group, kh, kw = weight.shape
    if x.ndim != 4 or x.shape[3] != per_group * groups or cout % groups:
        raise ShapeError(f"a weight {weight.shape} in {groups} groups does not fit an input {x.shape} (NHWC)")
    v = _windows(x.astype(np.int64) - int(x_zero_point), (kh, kw), stride, padding, dilation, 0)
    w = weight.astype(np.int64) - np.asarray(w_zero_point, np.int64).reshape(-1, 1, 1, 1)
    b, ho, wo = v.shape[:3]
    acc = np.empty((b, ho, wo, cout), np.int64)
    step = cout // groups
    for g in range(groups):
        a = v[..., g * per_group : (g + 1) * per_group].reshape(b * ho * wo, kh * kw * per_group)
        k = w[g * step : (g + 1) * step].transpose(0, 2, 3, 1).reshape(step, kh * kw * per_group)
        acc[..., g * step : (g + 1) * step] = _exact_matmul(a, k.T).reshape(b, ho, wo, step)
    if bias_int32 is not None:
        acc = acc + np.asarray(bias_int32, np.int64)
    return _wrap_int32(acc)


def conv2d(
    x,
    weight,
    x_scale,
    x_zero_point,
    w_scale,
    w_zero_point=0,
    bias=None,
    bias_int32=None,
    stride=(1, 1),
    padding=(0, 0, 0, 0),
    dilation=(1, 1),
    groups: int = 1,
    lo=-np.inf,
    hi=np.inf,
) -> np.ndarray:
    """A quantized convolution up to its float output, float32 [B, HO, WO, Cout]. Arguments as ``conv2d_accumulate`` and ``linear``."""
    acc = conv2d_accumulate(x, weight, x_zero_point, w_zero_point, bias_int32, stride, padding, dilation, groups)
    return to_float(acc, output_scale(x_scale, w_scale), bias, lo, hi)


def conv_transpose2d_accumulate(
    x,
    weight,
    x_zero_point=0,
    w_zero_point=0,
    bias_int32=None,
    stride=(1, 1),
    padding=(0, 0, 0, 0),
    output_padding=(0, 0),
    dilation=(1, 1),
    groups: int = 1,
) -> np.ndarray:
    """The exact accumulator of a transposed convolution, int32 [B, HO, WO, Cout].

    x: uint8 [B, H, W, Cin]. weight: signed integers [Cin, Cout / groups, KH, KW]. Each input pixel adds its product with tap (ky, kx) to
    output ``(iy * stride + ky * dilation - top, ...)``. padding: (top, left, bottom, right), cut from the result; output_padding lengthens
    it at the bottom and right. ``HO = (H - 1) * stride - top - bottom + dilation * (KH - 1) + output_padding + 1``.
    """
    x, weight = np.asarray(x), np.asarray(weight)
    cin, per_group, kh, kw = weight.shape
    if x.ndim != 4 or x.shape[3] != cin or cin % groups:
        raise ShapeError(f"a weight {weight.shape} in {groups} groups does not fit an input {x.shape} (NHWC)")
    b, h, w = x.shape[:3]
    top, left, bottom, right = padding
    full = [
        (size - 1) * s + d * (k - 1) + 1 + extra
        for size, s, d, k, extra in zip((h, w), stride, dilation, (kh, kw), output_padding, strict=True)
    ]
    if full[0] <= top + bottom or full[1] <= left + right:
        raise ShapeError(f"padding {padding} cuts away all of a result of {full}")
    v = x.astype(np.int64) - int(x_zero_point)
    zero = np.broadcast_to(np.asarray(w_zero_point, np.int64).reshape(-1), (per_group * groups,))
    acc = np.zeros((b, *full, per_group * groups), np.int64)
    step = cin // groups
    for g in range(groups):
        channels = slice(g * per_group, (g + 1) * per_group)
        pixels = v[..., g * step : (g + 1) * step].reshape(b * h * w, step)
        wg = weight[g * step : (g + 1) * step].astype(np.int64) - zero[channels].reshape(1, -1, 1, 1)
        for ky in range(kh):
            for kx in range(kw):
                rows = slice(ky * dilation[0], ky * dilation[0] + (h - 1) * stride[0] + 1, stride[0])
                columns = slice(kx * dilation[1], kx * dilation[1] + (w - 1) * stride[1] + 1, stride[1])
                acc[:, rows, columns, channels] += _exact_matmul(pixels, wg[:, :, ky, kx]).reshape(b, h, w, per_group)
    acc = acc[:, top : full[0] - bottom, left : full[1] - right]
    if bias_int32 is not None:
        acc = acc + np.asarray(bias_int32, np.int64)
    return _wrap_int32(acc)


def conv_transpose2d(
    x,
    weight,
    x_scale,
    x_zero_point,
    w_scale,
    w_zero_point=0,
    bias=None,
    bias_int32=None,
    stride=(1, 1),
    padding=(0, 0, 0, 0),
    output_padding=(0, 0),
    dilation=(1, 1),
    groups: int = 1,
    lo=-np.inf,
    hi=np.inf,
) -> np.ndarray:
    """A quantized transposed convolution up to its float output, float32 [B, HO, WO, Cout]. Arguments as ``conv_transpose2d_accumulate``
    and ``linear``; w_scale, w_zero_point and bias: one an output channel."""
    acc = conv_transpose2d_accumulate(x, weight, x_zero_point, w_zero_point, bias_int32, stride, padding, output_padding, dilation, groups)
    return to_float(acc, output_scale(x_scale, w_scale), bias, lo, hi)


def conv3d_accumulate(
    x, weight, x_zero_point=0, w_zero_point=0, bias_int32=None, stride=(1, 1, 1), padding=(0,) * 6, dilation=(1, 1, 1), groups: int = 1
) -> np.ndarray:
    """The exact accumulator of a convolution of volumes, int32 [B, DO, HO, WO, Cout]: its planes are sums of two-dimensional ones.

    x: uint8 [B, D, H, W, Cin]. weight: signed integers [Cout, Cin / groups, KD, KH, KW]. padding: (front, top, left, back, bottom, right).
    """
    x, weight = np.asarray(x), np.asarray(weight)
    if x.ndim != 5 or weight.ndim != 5:
        raise ShapeError(f"a weight {weight.shape} does not fit an input {x.shape} (NDHWC)")
    front, top, left, back, bottom, right = padding
    x = np.pad(x, ((0, 0), (front, back), (0, 0), (0, 0), (0, 0)), constant_values=int(x_zero_point))
    span = dilation[0] * (weight.shape[2] - 1) + 1
    if x.shape[1] < span:
        raise ShapeError(f"a window of {span} planes does not fit the padded input, {x.shape[1]}")
    planes = []
    for first in range(0, x.shape[1] - span + 1, stride[0]):
        planes.append(
            sum(
                conv2d_accumulate(
                    x[:, first + k * dilation[0]],
                    weight[:, :, k],
                    x_zero_point,
                    w_zero_point,
                    None,
                    stride[1:],
                    (top, left, bottom, right),
                    dilation[1:],
                    groups,
                ).astype(np.int64)
                for k in range(weight.shape[2])
            )
        )
    acc = np.stack(planes, axis=1)
    if bias_int32 is not None:
        acc = acc + np.asarray(bias_int32, np.int64)
    return _wrap_int32(acc)


# ---- elementwise and pooling --------------------------------------------------------------------------------------------


def add(a, b, a_scale, a_zero_point, b_scale, b_zero_point, out_scale, out_zero_point, lo: int = 0, hi: int = 255) -> np.ndarray:
    """Sum of two quantized tensors on a third grid. Each dequantization and the sum round to float32, as three float operations do."""
    y = dequantize(a, a_scale, a_zero_point) + dequantize(b, b_scale, b_zero_point)
    return requantize(y, out_scale, out_zero_point, lo, hi)


def mul(a, b, a_scale, a_zero_point, b_scale, b_zero_point, out_scale, out_zero_point, lo: int = 0, hi: int = 255) -> np.ndarray:
    """Product of two quantized tensors on a third grid, rounded as ``add`` is."""
    y = dequantize(a, a_scale, a_zero_point) * dequantize(b, b_scale, b_zero_point)
    return requantize(y, out_scale, out_zero_point, lo, hi)


def conv2d_f32(x, weight, bias=None, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1) -> np.ndarray:
    """A float convolution: x [B, H, W, C], weight [N, C / groups, KH, KW], padding (top, left, bottom, right).

    The sum of ``product``, k running over the filter's taps and, within a tap, over the channels of the group.
    """
    n, channels, kh, kw = weight.shape
    windows = _windows(np.asarray(x, np.float32), (kh, kw), stride, padding, dilation, 0)
    rows = weight.transpose(0, 2, 3, 1).reshape(groups, n // groups, -1)
    sides = [windows[..., g * channels : (g + 1) * channels].reshape(-1, kh * kw * channels) for g in range(groups)]
    added = [None] * groups if bias is None else np.asarray(bias, np.float32).reshape(groups, -1)
    y = [product(a, w.T, b) for a, w, b in zip(sides, rows, added, strict=True)]
    return np.concatenate(y, axis=1).reshape(*windows.shape[:3], n)


def max_pool2d_f32(x, kernel, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1)) -> np.ndarray:
    """Largest of each window of float32 x [B, H, W, C]: NaN where it holds one, of equal values (+0 and -0) the first, row by row.

    Padding never wins; a window of padding only gives -infinity.
    """
    taps = _taps(x, kernel, stride, padding, dilation, -np.inf)
    y = np.full(taps.shape[1:], -np.inf, np.float32)
    for tap in taps:
        y = np.where(tap > y, tap, y)
    return np.where(np.isnan(taps).any(0), np.float32(np.nan), y)


def avg_pool2d_f32(x, kernel, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), count_include_pad: bool = True) -> np.ndarray:
    """Mean of each window of float32 x [B, H, W, C]: its elements are added in float64, row by row, and the sum divided and rounded once.

    Padding is not added; it counts with ``count_include_pad``, and without it a window of padding only gives NaN.
    """
    inside = np.ones((1, *np.shape(x)[1:3], 1), np.float32)
    count = _taps(inside, kernel, stride, padding, dilation, float(count_include_pad)).sum(0, dtype=np.float64)
    total = np.zeros((), np.float64)
    with np.errstate(all="ignore"):
        for tap in _taps(x, kernel, stride, padding, dilation, -0.0).astype(np.float64):
            total = total + tap
        y = (total / count).astype(np.float32)
    return np.where(np.isnan(y), np.float32(np.nan), y)


def reduce_f32(x, kind: str) -> np.ndarray:
    """x [outer, N, inner] -> [outer, inner]: "mean", "sum", "sum_of_squares" or "max" along N, added in float64 or compared in order."""
    x = np.asarray(x, np.float32)[:, :, None]
    n = x.shape[1]
    if kind == "max":
        return max_pool2d_f32(x, (n, 1))[:, 0, 0]
    if kind == "mean":
        return avg_pool2d_f32(x, (n, 1))[:, 0, 0]
    total = np.zeros((x.shape[0], x.shape[3]), np.float64)
    with np.errstate(all="ignore"):
        for i in range(n):
            row = x[:, i, 0].astype(np.float64)
            total = total + (row * row if kind == "sum_of_squares" else row)
        y = total.astype(np.float32)
    return np.where(np.isnan(y), np.float32(np.nan), y)


def _taps(x, kernel, stride, padding, dilation, fill) -> np.ndarray:
    """[taps, B, HO, WO, C]: what each position of the window sees, row by row."""
    windows = _windows(np.asarray(x, np.float32), kernel, stride, padding, dilation, fill)
    return windows.transpose(3, 4, 0, 1, 2, 5).reshape(-1, *windows.shape[:3], windows.shape[5])


def max_pool2d(x, kernel, stride, padding=(0, 0, 0, 0), dilation=(1, 1)) -> np.ndarray:
    """Largest byte of each window of uint8 x [B, H, W, C]. Quantization keeps order, so bytes need no scale; padding never wins.
    A window of padding only gives 0, the lowest byte."""
    return _windows(np.asarray(x, np.uint8).astype(np.int64), kernel, stride, padding, dilation, 0).max((3, 4)).astype(np.uint8)


def avg_pool2d(x, kernel, stride, padding, count_include_pad: bool, x_scale, x_zero_point, lo=-np.inf, hi=np.inf) -> np.ndarray:
    """Mean of each window of uint8 x [B, H, W, C], float32: ``float32(sum(q - zx)) * float32(x_scale / count)``.

    count: the window's size, or its positions inside the input when ``count_include_pad`` is false (0 where there are none).
    """
    q = np.asarray(x).astype(np.int64) - int(x_zero_point)
    total = _windows(q, kernel, stride, padding, (1, 1), 0).sum((3, 4))
    inside = _windows(np.ones((1, *q.shape[1:3], 1), np.int64), kernel, stride, padding, (1, 1), int(count_include_pad)).sum((3, 4))
    with np.errstate(divide="ignore", invalid="ignore"):
        y = total.astype(np.float32) * (np.float32(x_scale) / inside.astype(np.float32))
    return _clamp(np.where(inside == 0, np.float32(0), y), lo, hi)


# ---- rows: softmax and the normalizations ---------------------------------------------------------------------------------


def softmax_exp(x) -> np.ndarray:
    """exp of float32 numbers <= 0 as softmax takes it: ``2^n * (1 + r + r^2 * q(r))`` with ``x = n * ln 2 + r``, within 1 ulp;
    0 below -87. The constants are those of csrc/kernels/coefficients.h."""
    x = np.asarray(x, np.float32)
    h = float.fromhex
    with np.errstate(all="ignore"):
        n = np.rint(x * np.float32(h("0x1.715476p+0")))
        r = fmaf(-n, h("-0x1.05c61p-29"), fmaf(-n, h("0x1.62e43p-1"), x))
        q = np.float32(h("0x1.6a23cep-10"))
        for c in ("0x1.123a2p-7", "0x1.5558f2p-5", "0x1.555492p-3", "0x1.fffffcp-2"):
            q = fmaf(q, r, h(c))
        y = np.ldexp(np.float32(1) + fmaf(r * r, q, r), np.maximum(np.nan_to_num(n), -200).astype(np.int32))
        return np.where(x >= -87, y, np.float32(0)).astype(np.float32)


def softmax(x, mask=None) -> np.ndarray:
    """Softmax of float32 ``x + mask`` along the last axis. The exponentials are added as the integers ``rint(e * 2^30)``, so the sum
    has no order. A row without a finite maximum, or with a NaN, gives NaN. For bytes: ``requantize(softmax(dequantize(...)), ...)``."""
    x = np.asarray(x, np.float32)
    with np.errstate(all="ignore"):
        t = x if mask is None else x + np.asarray(mask, np.float32)
        most = t.max(axis=-1, keepdims=True, initial=-np.inf)
        e = np.where(np.isfinite(most), softmax_exp(t - most), np.float32(0))
        total = np.rint(e.astype(np.float64) * 2.0**30).sum(axis=-1, keepdims=True)  # integers below 2^53: exact
        return np.where(np.isfinite(most), e * (2.0**30 / total).astype(np.float32), np.float32(np.nan))


def norm(x, gamma=1.0, beta=0.0, epsilon: float = 1e-5, center: bool = True) -> np.ndarray:
    """LayerNorm of float32 rows, or RMSNorm (``center=False``). Mean and variance are taken in float64, in 16 lanes."""
    x = np.asarray(x, np.float32)
    n, lanes = x.shape[-1], -(-x.shape[-1] // 16) * 16

    def lane_sum(v):  # element i goes to lane i % 16; the lanes are added in halves
        v = np.concatenate([v, np.zeros((*v.shape[:-1], lanes - n))], -1).reshape(*v.shape[:-1], lanes // 16, 16)
        s = np.zeros((*v.shape[:-2], 16))
        for k in range(v.shape[-2]):
            s = s + v[..., k, :]
        for width in (8, 4, 2, 1):
            s = s[..., :width] + s[..., width : 2 * width]
        return s

    with np.errstate(all="ignore"):
        mean = lane_sum(x.astype(np.float64)) / n if center else np.zeros((*x.shape[:-1], 1))
        m = mean.astype(np.float32)
        d = x - m
        v = lane_sum(np.square(d.astype(np.float64))) / n - (mean - m) ** 2
        a = 1.0 / np.sqrt(np.where(v < 0, 0, v) + epsilon)
        return fmaf(fmaf(d, a, (m - mean) * a), gamma, beta)


def norm_quantized(x, x_scale, x_zero_point: int, gamma=1.0, beta=0.0, epsilon: float = 1e-5, center: bool = True) -> np.ndarray:
    """The same of u8 rows on a grid: the sums of x and x^2 are exact integers, so the variance is. float32, to be requantized."""
    q, n, s = np.asarray(x).astype(np.int64), x.shape[-1], float(np.float32(x_scale))
    with np.errstate(all="ignore"):
        if center:
            total = q.sum(-1, keepdims=True)
            v = s * s * ((n * np.square(q).sum(-1, keepdims=True) - total**2) / (float(n) * n))
            a, d = s / (n * np.sqrt(v + epsilon)), fmaf(q, n, -total)
        else:
            d = (q - x_zero_point).astype(np.float32)
            v = s * s * (np.square(q - x_zero_point).sum(-1, keepdims=True) / float(n))
            a = s / np.sqrt(v + epsilon)
        return fmaf(d * a.astype(np.float32), gamma, beta)


# ---- encodings from ranges, by AIMET's convention ---------------------------------------------------------------------------


def minimum_scale(bits: int) -> np.float32:
    """The smallest scale AIMET gives a quantizer: float32's epsilon, less only where the grid would then reach beyond +-0.005.

    (aimet_torch.common.quantsim._get_minimum_scale.) A dead channel, all zeros, gets this scale, 1.19e-7 at 4, 8 and 16 bits.
    """
    return np.float32(min(float(np.finfo(np.float32).eps), 0.01 / ((1 << bits) - 1)))


def weight_encoding(weight, bits: int = 8, axis: int | None = 0, group_size: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric scales of a float weight and its integers on them: (scale float32, q int8), by AIMET's min-max rule.

    ``delta = max(max(w, 0) / qmax, -min(w, 0) / |qmin|)``: the whole grid is used, -128 included, so this is not ``max|w| / 127``.
    weight: float32, output channel on ``axis`` (None: one scale for all). group_size > 0: [N, K] with one scale per
    ``group_size`` columns, scale [N, ceil(K / group_size)]. AIMET may enlarge scales after calibration and keeps the scale of a weight
    that already lies on a grid: read a simulation's scales from it, and use this for weights that have none. Raises QuantizationError
    on NaN or infinity.
    """
    w = np.asarray(weight, np.float32)
    if not np.isfinite(w).all():
        raise QuantizationError("a weight holds NaN or infinity, which no scale can represent; repair the checkpoint")
    qmin, qmax = grid(bits, True)
    if group_size:
        if w.ndim != 2:
            raise ShapeError(f"group_size wants a weight [N, K], got {w.shape}")
        n, k = w.shape
        groups = -(-k // group_size)
        padded = np.pad(w, ((0, 0), (0, groups * group_size - k))).reshape(n, groups, group_size)
        scale = _symmetric_scale(padded.min(2, initial=0), padded.max(2, initial=0), bits)
        q = quantize(w.reshape(-1), np.repeat(scale, group_size, 1)[:, :k].reshape(-1), 0, qmin, qmax, axis=0)
        return scale, q.reshape(n, k).astype(np.int8)
    other = None if axis is None else tuple(i for i in range(w.ndim) if i != axis % w.ndim)
    lo, hi = w.min(other, initial=0), w.max(other, initial=0)
    scale = np.atleast_1d(_symmetric_scale(lo, hi, bits))
    return scale, quantize(w, scale, 0, qmin, qmax, axis=axis).astype(np.int8)


def _symmetric_scale(lo, hi, bits: int) -> np.ndarray:
    qmin, qmax = grid(bits, True)
    steps = np.float32(qmax - qmin)
    small = minimum_scale(bits)
    lo, hi = np.asarray(lo, np.float32), np.asarray(hi, np.float32)
    widen = np.where((hi - lo) / steps < small, small, np.float32(0))
    hi, lo = hi + np.float32(qmax) * widen, lo + np.float32(qmin) * widen
    delta = np.maximum(hi / np.float32(qmax + (bits == 2)), lo / np.float32(qmin))
    # AIMET keeps the range, not the scale, and divides the range again.
    scale = (np.float32(qmax) * delta - np.float32(qmin) * delta) / steps
    return np.maximum(scale, small).astype(np.float32)


def activation_encoding(lo: float, hi: float, bits: int = 8) -> tuple[np.float32, int]:
    """Scale and zero point of an unsigned grid over the observed range [lo, hi], by AIMET's min-max rule.

    0 is always on the grid. A range narrower than the smallest scale is widened upwards.
    """
    if not (np.isfinite(lo) and np.isfinite(hi) and lo <= hi):
        raise QuantizationError(f"a range must be finite with lo <= hi, got [{lo}, {hi}]; calibrate again")
    qmin, qmax = grid(bits, False)
    steps, small = np.float32(qmax - qmin), minimum_scale(bits)
    lo, hi = np.minimum(np.float32(lo), np.float32(0)), np.maximum(np.float32(hi), np.float32(0))
    if (hi - lo) / steps < small:
        hi = hi + steps * small
    scale = np.maximum((hi - lo) / steps, small)
    return np.float32(scale), int(np.clip(-np.rint(lo / scale), qmin, qmax))


def expand_lpbq(weight, block_scale, channel_scale) -> tuple[np.ndarray, np.ndarray]:
    """AIMET's low-power blockwise weights as one int8 weight: (scale float32 [N], q int8 [N, K]), exact.

    weight: s4 [N, K]. block_scale: integers 1..16, [N, K / block]. channel_scale: float32 [N]. A block's real scale is
    block_scale * channel_scale, so ``weight * block_scale`` lies in [-128, 112]: int8, with the channel's scale alone.
    """
    w, b = np.asarray(weight, np.int64), np.asarray(block_scale, np.int64)
    if w.ndim != 2 or b.ndim != 2 or b.shape[0] != w.shape[0] or b.shape[1] == 0 or w.shape[1] % b.shape[1]:
        raise ShapeError(f"LPBQ block scales {b.shape} do not divide a weight {w.shape} into equal blocks")
    if b.size and (b.min() < 1 or b.max() > 16):
        raise QuantizationError(f"LPBQ block scales are integers in 1..16, got {b.min()}..{b.max()}")
    q = w * np.repeat(b, w.shape[1] // b.shape[1], 1)
    return np.asarray(channel_scale, np.float32), q.astype(np.int8)


# ---- 4-bit storage --------------------------------------------------------------------------------------------------------


def pack_int4(values) -> np.ndarray:
    """Two values a byte along the last axis, the earlier one in the low nibble; an odd last nibble is 0. uint8."""
    v = np.asarray(values)
    lo, hi = (int(v.min()), int(v.max())) if v.size else (0, 0)
    if not (-8 <= lo and hi <= 7 or 0 <= lo and hi <= 15):
        raise QuantizationError(f"4-bit values lie in [-8, 7] or [0, 15], got {lo}..{hi}")
    v = v.astype(np.uint8) & 0xF
    if v.shape[-1] % 2:
        v = np.pad(v, [(0, 0)] * (v.ndim - 1) + [(0, 1)])
    return v[..., 0::2] | v[..., 1::2] << 4


def unpack_int4(packed, length: int, signed: bool) -> np.ndarray:
    """``length`` values of the last axis of ``pack_int4``'s bytes: int8 in [-8, 7], or uint8 in [0, 15]."""
    p = np.asarray(packed, np.uint8)
    if p.shape[-1] != -(-length // 2):
        raise ShapeError(f"{length} 4-bit values are {-(-length // 2)} bytes, got {p.shape[-1]}")
    v = np.stack([p & 0xF, p >> 4], -1).reshape(*p.shape[:-1], -1)[..., :length]
    return ((v.astype(np.int8) ^ 8) - 8).astype(np.int8) if signed else v
