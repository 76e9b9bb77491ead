"""Convolutions and pools, in NHWC."""

from __future__ import annotations

import math

import numpy as np
import torch

from .. import _core
from ..errors import ShapeError
from ._registry import EPILOGUE, NHWC, array, dense_order, like, register, written


def _out_sizes(op, sizes, kernel, stride, padding, dilation):
    """Output sizes of a sliding window. ``padding``: all starts, then all ends (top, left, bottom, right)."""
    n = len(kernel)
    if not len(sizes) == len(stride) == len(dilation) == n or len(padding) != 2 * n:
        raise ShapeError(
            f"qgemm::{op}: {len(sizes)} spatial dimensions need as many of kernel {tuple(kernel)}, stride {tuple(stride)} and "
            f"dilation {tuple(dilation)}, and twice as many of padding {tuple(padding)}"
        )
    if min(kernel) < 1 or min(stride) < 1 or min(dilation) < 1 or min(padding) < 0:
        raise ShapeError(
            f"qgemm::{op}: kernel {tuple(kernel)}, stride {tuple(stride)} and dilation {tuple(dilation)} must be at least 1, "
            f"padding {tuple(padding)} at least 0"
        )
    out = []
    for i in range(n):
        padded, window = sizes[i] + padding[i] + padding[n + i], dilation[i] * (kernel[i] - 1) + 1
        if isinstance(padded, int) and padded < window:
            raise ShapeError(f"qgemm::{op}: the window spans {window} positions and the padded input has {padded}, sizes {tuple(sizes)}")
        out.append((padded - window) // stride[i] + 1)
    return out


def _image(x, op, spatial):
    """Refuse what is not [B, C, *spatial]."""
    if x.dim() != 2 + spatial:
        raise ShapeError(f"qgemm::{op} takes an input of {2 + spatial} dimensions (batch, channels, ...), got {tuple(x.shape)}")


def _nhwc(x):
    """A [B, C, H, W] or [B, C, L] tensor as a C-contiguous [B, H, W, C] array (H = 1 for the latter)."""
    b, c, *spatial = x.shape
    lengthened = spatial if len(spatial) == 2 else (1, *spatial)
    last = x.movedim(1, -1)
    if last.is_contiguous() or not x.is_contiguous() or x.element_size() not in (1, 4):
        return array(last.contiguous()).reshape(b, *lengthened, c)
    a = array(x)  # the engine changes the order several times faster than a strided copy
    out = np.empty((b, *lengthened, c), a.dtype)
    _core.transpose(a.reshape(b, c, math.prod(spatial)), out.reshape(b, math.prod(spatial), c))
    return out


def _nchw(y):
    """A fresh output with the channels innermost in memory as a contiguous tensor of the same shape."""
    if y.is_contiguous():  # one pixel or one channel: only the strides of dimensions of 1 differ
        return y.flatten().view(y.shape)
    out = torch.empty(y.shape, dtype=y.dtype)
    b, c, *spatial = y.shape
    _core.transpose(_out_nhwc(y).reshape(b, math.prod(spatial), c), array(out).reshape(b, c, math.prod(spatial)))
    return out


def _empty_nhwc(shape, dtype, device="cpu"):
    """An uninitialized tensor of logical ``shape`` ([B, C, H, W] or [B, C, L]) with the channels innermost in memory."""
    if len(shape) == 4:
        return torch.empty(shape, dtype=dtype, device=device, memory_format=NHWC)
    return torch.empty((shape[0], shape[2], shape[1]), dtype=dtype, device=device).transpose(1, 2)


def _out_nhwc(out):
    return array(out).transpose(0, 2, 3, 1) if out.dim() == 4 else array(out).transpose(0, 2, 1)[:, None]


def _as_2d(stride, padding, dilation):
    if len(stride) == 2:
        return tuple(stride), tuple(padding), tuple(dilation)
    return (1, stride[0]), (0, padding[0], 0, padding[1]), (1, dilation[0])


def _quantized(x, symmetric):
    """``x`` as uint8 on one grid, in the layout it has (a change of layout then moves bytes, not floats), its scale and zero point."""
    q = torch.empty_like(x, dtype=torch.uint8)
    order = dense_order(q)
    scale, zero_point = np.empty(1, np.float32), np.empty(1, np.int32)
    count = x.numel()
    _core.quantize_dynamic(like(order, x).reshape(1, count), written(order, q).reshape(1, count), scale, zero_point, False, symmetric)
    return q, scale.item(), zero_point.item()


def _conv(spatial, op):
    fast = (_core.tensor_conv1d, _core.tensor_conv2d)[spatial - 1]

    def conv(x, packed, out_channels, kernel_size, stride, padding, dilation, dtype, out_scale=1.0, out_zero_point=0, lo=None, hi=None):
        window = kernel_size, stride, padding, dilation
        out = fast(x, packed, out_channels, *window, dtype, out_scale, out_zero_point, lo, hi)
        if out is not None:
            return out
        _image(x, op, spatial)
        sizes = _out_sizes(op, x.shape[2:], kernel_size, stride, padding, dilation)
        out = _empty_nhwc((x.shape[0], out_channels, *sizes), dtype)
        window = _as_2d(stride, padding, dilation)
        _core.conv2d(_nhwc(x), array(packed), _out_nhwc(out), *window, out_scale, out_zero_point, lo, hi)
        return out

    return conv


def _conv_fake(spatial, op):
    def fake(x, packed, out_channels, kernel_size, stride, padding, dilation, dtype, *epilogue):
        _image(x, op, spatial)
        sizes = _out_sizes(op, x.shape[2:], kernel_size, stride, padding, dilation)
        return _empty_nhwc((x.shape[0], out_channels, *sizes), dtype, x.device)

    return fake


def _conv_dynamic(spatial, op):
    def conv(
        x,
        packed,
        out_channels,
        kernel_size,
        stride,
        padding,
        dilation,
        symmetric=False,
        channels_last=False,
        lo=None,
        hi=None,
    ):
        _image(x, op, spatial)
        sizes = _out_sizes(op, x.shape[2:], kernel_size, stride, padding, dilation)
        q, scale, zero_point = _quantized(x, symmetric)
        out = _empty_nhwc((x.shape[0], out_channels, *sizes), torch.float32)
        window = _as_2d(stride, padding, dilation)
        _core.conv2d(_nhwc(q), array(packed), _out_nhwc(out), *window, 1.0, 0, lo, hi, scale, zero_point)
        return out if channels_last else _nchw(out)

    return conv


def _conv_dynamic_fake(spatial, op):
    def fake(x, packed, out_channels, kernel_size, stride, padding, dilation, symmetric=False, channels_last=False, *bounds):
        _image(x, op, spatial)
        shape = (x.shape[0], out_channels, *_out_sizes(op, x.shape[2:], kernel_size, stride, padding, dilation))
        return _empty_nhwc(shape, torch.float32, x.device) if channels_last else x.new_empty(shape, dtype=torch.float32)

    return fake


def _max_pool2d(x, kernel_size, stride, padding, dilation=(1, 1)):
    _image(x, "max_pool2d", 2)
    sizes = _out_sizes("max_pool2d", x.shape[2:], kernel_size, stride, padding, dilation)
    out = _empty_nhwc((*x.shape[:2], *sizes), x.dtype)
    _core.max_pool2d(_nhwc(x), _out_nhwc(out), tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation))
    return out


def _max_pool2d_fake(x, kernel_size, stride, padding, dilation=(1, 1)):
    _image(x, "max_pool2d", 2)
    sizes = _out_sizes("max_pool2d", x.shape[2:], kernel_size, stride, padding, dilation)
    return _empty_nhwc((*x.shape[:2], *sizes), x.dtype, x.device)


def _avg_pool2d(
    x,
    kernel_size,
    stride,
    padding,
    count_include_pad,
    x_scale,
    x_zero_point,
    dtype,
    out_scale=1.0,
    out_zero_point=0,
    lo=None,
    hi=None,
):
    _image(x, "avg_pool2d", 2)
    sizes = _out_sizes("avg_pool2d", x.shape[2:], kernel_size, stride, padding, (1, 1))
    out = _empty_nhwc((*x.shape[:2], *sizes), dtype)
    _core.avg_pool2d(
        _nhwc(x),
        _out_nhwc(out),
        tuple(kernel_size),
        tuple(stride),
        tuple(padding),
        count_include_pad,
        x_scale,
        x_zero_point,
        out_scale,
        out_zero_point,
        lo,
        hi,
    )
    return out


def _avg_pool2d_fake(x, kernel_size, stride, padding, count_include_pad, x_scale, x_zero_point, dtype, *epilogue):
    _image(x, "avg_pool2d", 2)
    sizes = _out_sizes("avg_pool2d", x.shape[2:], kernel_size, stride, padding, (1, 1))
    return _empty_nhwc((*x.shape[:2], *sizes), dtype, x.device)


_WINDOW = "Tensor packed, int out_channels, int[] kernel_size, int[] stride, int[] padding, int[] dilation"

_conv2d_op = register(f"conv2d(Tensor x, {_WINDOW}, {EPILOGUE}) -> Tensor", _conv(2, "conv2d"), _conv_fake(2, "conv2d"))
_conv1d_op = register(f"conv1d(Tensor x, {_WINDOW}, {EPILOGUE}) -> Tensor", _conv(1, "conv1d"), _conv_fake(1, "conv1d"))


# As qgemm.ops.linear: past the dispatcher where nobody watches it. _is_tracing: Dynamo takes it for true.
_is_tracing = torch.compiler.is_dynamo_compiling


def conv2d(x, packed, out_channels, kernel_size, stride, padding, dilation, dtype, out_scale=1.0, out_zero_point=0, lo=None, hi=None):
    """``torch.ops.qgemm.conv2d`` with the least overhead: uint8 ``x`` [B, C, H, W] -> ``dtype`` [B, Cout, HO, WO], channels_last."""
    if not _is_tracing():
        out = _core.eager_conv2d(x, packed, out_channels, kernel_size, stride, padding, dilation, dtype, out_scale, out_zero_point, lo, hi)
        if out is not None:
            return out
    return _conv2d_op(x, packed, out_channels, kernel_size, stride, padding, dilation, dtype, out_scale, out_zero_point, lo, hi)


def conv1d(x, packed, out_channels, kernel_size, stride, padding, dilation, dtype, out_scale=1.0, out_zero_point=0, lo=None, hi=None):
    """``torch.ops.qgemm.conv1d`` with the least overhead: uint8 ``x`` [B, C, L] -> ``dtype`` [B, Cout, LO], channels innermost."""
    if not _is_tracing():
        out = _core.eager_conv1d(x, packed, out_channels, kernel_size, stride, padding, dilation, dtype, out_scale, out_zero_point, lo, hi)
        if out is not None:
            return out
    return _conv1d_op(x, packed, out_channels, kernel_size, stride, padding, dilation, dtype, out_scale, out_zero_point, lo, hi)


_DYNAMIC = "bool symmetric=False, bool channels_last=False, float? lo=None, float? hi=None"
conv2d_dynamic = register(
    f"conv2d_dynamic(Tensor x, {_WINDOW}, {_DYNAMIC}) -> Tensor",
    _conv_dynamic(2, "conv2d_dynamic"),
    _conv_dynamic_fake(2, "conv2d_dynamic"),
)
conv1d_dynamic = register(
    f"conv1d_dynamic(Tensor x, {_WINDOW}, {_DYNAMIC}) -> Tensor",
    _conv_dynamic(1, "conv1d_dynamic"),
    _conv_dynamic_fake(1, "conv1d_dynamic"),
)
max_pool2d = register(
    "max_pool2d(Tensor x, int[] kernel_size, int[] stride, int[] padding, int[] dilation=[1, 1]) -> Tensor", _max_pool2d, _max_pool2d_fake
)
avg_pool2d = register(
    "avg_pool2d(Tensor x, int[] kernel_size, int[] stride, int[] padding, bool count_include_pad, float x_scale, int x_zero_point, "
    f"{EPILOGUE}) -> Tensor",
    _avg_pool2d,
    _avg_pool2d_fake,
)
