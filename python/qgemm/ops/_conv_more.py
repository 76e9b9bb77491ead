"""Transposed and three-dimensional convolutions, channels innermost in memory."""

from __future__ import annotations

import torch

from .. import _core
from ..errors import ShapeError
from ._conv import _empty_nhwc, _image, _nchw, _nhwc, _out_nhwc, _out_sizes, _quantized
from ._registry import EPILOGUE, array, register


def _transposed_sizes(op, sizes, kernel, stride, padding, output_padding, dilation):
    """Output sizes of a transposed convolution. ``padding``: all starts, then all ends, cut from the result."""
    n = len(kernel)
    if not len(sizes) == len(stride) == len(dilation) == len(output_padding) == n or len(padding) != 2 * n:
        raise ShapeError(
            f"qgemm::{op}: {len(sizes)} spatial dimensions need as many of kernel {tuple(kernel)}, stride {tuple(stride)}, output_padding "
            f"{tuple(output_padding)} and dilation {tuple(dilation)}, and twice as many of padding {tuple(padding)}"
        )
    if min(kernel) < 1 or min(stride) < 1 or min(dilation) < 1 or min(padding) < 0 or min(output_padding) < 0:
        raise ShapeError(
            f"qgemm::{op}: kernel {tuple(kernel)}, stride {tuple(stride)} and dilation {tuple(dilation)} must be at least 1, padding "
            f"{tuple(padding)} and output_padding {tuple(output_padding)} at least 0"
        )
    out = []
    for i in range(n):
        if output_padding[i] >= max(stride[i], dilation[i]):
            raise ShapeError(
                f"qgemm::{op}: output_padding {tuple(output_padding)} must be less than the stride {tuple(stride)} or the dilation "
                f"{tuple(dilation)}"
            )
        size = (sizes[i] - 1) * stride[i] - padding[i] - padding[n + i] + dilation[i] * (kernel[i] - 1) + output_padding[i] + 1
        if isinstance(size, int) and size < 1:
            raise ShapeError(f"qgemm::{op}: padding {tuple(padding)} cuts away all of the result of an input of sizes {tuple(sizes)}")
        out.append(size)
    return out


def _as_2d(stride, padding, output_padding, dilation):
    if len(stride) == 2:
        return tuple(stride), tuple(padding), tuple(output_padding), tuple(dilation)
    return (1, stride[0]), (0, padding[0], 0, padding[1]), (0, output_padding[0]), (1, dilation[0])


def _transposed(spatial, op):
    def conv(
        x,
        packed,
        out_channels,
        kernel_size,
        stride,
        padding,
        output_padding,
        dilation,
        dtype,
        out_scale=1.0,
        out_zero_point=0,
        lo=None,
        hi=None,
    ):
        _image(x, op, spatial)
        sizes = _transposed_sizes(op, x.shape[2:], kernel_size, stride, padding, output_padding, dilation)
        out = _empty_nhwc((x.shape[0], out_channels, *sizes), dtype)
        window = _as_2d(stride, padding, output_padding, dilation)
        _core.conv_transpose2d(_nhwc(x), array(packed), _out_nhwc(out), *window, out_scale, out_zero_point, lo, hi)
        return out

    def fake(x, packed, out_channels, kernel_size, stride, padding, output_padding, dilation, dtype, *epilogue):
        _image(x, op, spatial)
        sizes = _transposed_sizes(op, x.shape[2:], kernel_size, stride, padding, output_padding, dilation)
        return _empty_nhwc((x.shape[0], out_channels, *sizes), dtype, x.device)

    return conv, fake


def _transposed_dynamic(spatial, op):
    def conv(
        x,
        packed,
        out_channels,
        kernel_size,
        stride,
        padding,
        output_padding,
        dilation,
        symmetric=False,
        channels_last=False,
        lo=None,
        hi=None,
    ):
        _image(x, op, spatial)
        sizes = _transposed_sizes(op, x.shape[2:], kernel_size, stride, padding, output_padding, dilation)
        q, scale, zero_point = _quantized(x, symmetric)
        out = _empty_nhwc((x.shape[0], out_channels, *sizes), torch.float32)
        window = _as_2d(stride, padding, output_padding, dilation)
        _core.conv_transpose2d(_nhwc(q), array(packed), _out_nhwc(out), *window, 1.0, 0, lo, hi, scale, zero_point)
        return out if channels_last else _nchw(out)

    def fake(
        x, packed, out_channels, kernel_size, stride, padding, output_padding, dilation, symmetric=False, channels_last=False, *bounds
    ):
        _image(x, op, spatial)
        shape = (x.shape[0], out_channels, *_transposed_sizes(op, x.shape[2:], kernel_size, stride, padding, output_padding, dilation))
        return _empty_nhwc(shape, torch.float32, x.device) if channels_last else x.new_empty(shape, dtype=torch.float32)

    return conv, fake


def _empty_ndhwc(shape, dtype, device="cpu"):
    return torch.empty(shape, dtype=dtype, device=device, memory_format=torch.channels_last_3d)


def _ndhwc(x):
    return array(x.movedim(1, -1).contiguous())


def _conv3d(x, packed, out_channels, kernel_size, stride, padding, dilation, dtype, out_scale=1.0, out_zero_point=0, lo=None, hi=None):
    _image(x, "conv3d", 3)
    sizes = _out_sizes("conv3d", x.shape[2:], kernel_size, stride, padding, dilation)
    out = _empty_ndhwc((x.shape[0], out_channels, *sizes), dtype)
    window = tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation)
    _core.conv3d(_ndhwc(x), array(packed), array(out).transpose(0, 2, 3, 4, 1), *window, out_scale, out_zero_point, lo, hi)
    return out


def _conv3d_fake(x, packed, out_channels, kernel_size, stride, padding, dilation, dtype, *epilogue):
    _image(x, "conv3d", 3)
    sizes = _out_sizes("conv3d", x.shape[2:], kernel_size, stride, padding, dilation)
    return _empty_ndhwc((x.shape[0], out_channels, *sizes), dtype, x.device)


def _conv3d_dynamic(
    x, packed, out_channels, kernel_size, stride, padding, dilation, symmetric=False, channels_last=False, lo=None, hi=None
):
    _image(x, "conv3d_dynamic", 3)
    sizes = _out_sizes("conv3d_dynamic", x.shape[2:], kernel_size, stride, padding, dilation)
    q, scale, zero_point = _quantized(x, symmetric)
    out = _empty_ndhwc((x.shape[0], out_channels, *sizes), torch.float32)
    window = tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation)
    _core.conv3d(_ndhwc(q), array(packed), array(out).transpose(0, 2, 3, 4, 1), *window, 1.0, 0, lo, hi, scale, zero_point)
    if channels_last:
        return out
    return out.flatten().view(out.shape) if out.is_contiguous() else out.contiguous()


def _conv3d_dynamic_fake(x, packed, out_channels, kernel_size, stride, padding, dilation, symmetric=False, channels_last=False, *bounds):
    _image(x, "conv3d_dynamic", 3)
    shape = (x.shape[0], out_channels, *_out_sizes("conv3d_dynamic", x.shape[2:], kernel_size, stride, padding, dilation))
    return _empty_ndhwc(shape, torch.float32, x.device) if channels_last else x.new_empty(shape, dtype=torch.float32)


_WINDOW = "Tensor packed, int out_channels, int[] kernel_size, int[] stride, int[] padding"
_DYNAMIC = "bool symmetric=False, bool channels_last=False, float? lo=None, float? hi=None"


def _register_transposed(spatial):
    name = f"conv_transpose{spatial}d"
    window = f"{_WINDOW}, int[] output_padding, int[] dilation"
    return (
        register(f"{name}(Tensor x, {window}, {EPILOGUE}) -> Tensor", *_transposed(spatial, name)),
        register(f"{name}_dynamic(Tensor x, {window}, {_DYNAMIC}) -> Tensor", *_transposed_dynamic(spatial, f"{name}_dynamic")),
    )


conv_transpose1d, conv_transpose1d_dynamic = _register_transposed(1)
conv_transpose2d, conv_transpose2d_dynamic = _register_transposed(2)
conv3d = register(f"conv3d(Tensor x, {_WINDOW}, int[] dilation, {EPILOGUE}) -> Tensor", _conv3d, _conv3d_fake)
conv3d_dynamic = register(
    f"conv3d_dynamic(Tensor x, {_WINDOW}, int[] dilation, {_DYNAMIC}) -> Tensor", _conv3d_dynamic, _conv3d_dynamic_fake
)
