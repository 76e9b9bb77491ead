"""Resizing, padding and moving of images between channels and pixels, channels innermost in memory."""

from __future__ import annotations

import numpy as np
import torch

from .. import _core
from ..errors import DTypeError, QuantizationError, ShapeError
from ..graph.floatnn import linear_axis
from ._conv import _empty_nhwc, _image, _nhwc, _out_nhwc
from ._registry import EPILOGUE, register


def _u8(x, op):
    """Bytes are moved, whatever grid they are on."""
    _image(x, op, 2)
    if x.dtype != torch.uint8:
        raise DTypeError(f"qgemm::{op} takes uint8, got {x.dtype}: quantize the image first")


def _sizes(op, size, x):
    if len(size) != 2 or min(size) < 1:
        raise ShapeError(f"qgemm::{op}: size {tuple(size)} must be a height and a width of at least 1")
    if 0 in x.shape[2:]:
        raise ShapeError(f"qgemm::{op}: an image of {x.shape[2]} x {x.shape[3]} pixels has none to read; give it at least one a side")
    return tuple(size)


def _nearest(n_out: int, n_in: int):
    """torch's mode "nearest": the index is cut off, in float32."""
    scale = torch.tensor(n_in, dtype=torch.float32) / n_out
    return (torch.arange(n_out, dtype=torch.float32) * scale).to(torch.int32).clamp_(max=n_in - 1).numpy()


def _resize_nearest(x, size):
    out = _resize_nearest_fake(x, size)
    if out.numel():
        (h, w), (oh, ow) = x.shape[2:], size
        _core.resize_nearest(_nhwc(x), _out_nhwc(out), _nearest(oh, h), _nearest(ow, w))
    return out


def _resize_nearest_fake(x, size):
    _u8(x, "resize_nearest")
    return _empty_nhwc((*x.shape[:2], *_sizes("resize_nearest", size, x)), x.dtype, x.device)


def _resize_linear(x, size, align_corners, x_scale, x_zero_point, out_scale, out_zero_point, lo=None, hi=None):
    out = _resize_linear_fake(x, size)
    if out.numel():
        coord = "align_corners" if align_corners else "half_pixel"
        axes = [a for n_out, n_in in zip(size, x.shape[2:], strict=True) for a in linear_axis(n_out, n_in, n_out / n_in, coord)]
        _core.resize_linear(_nhwc(x), _out_nhwc(out), *axes, x_scale, x_zero_point, out_scale, out_zero_point, lo, hi)
    return out


def _resize_linear_fake(x, size, *rest):
    _u8(x, "resize_linear")
    return _empty_nhwc((*x.shape[:2], *_sizes("resize_linear", size, x)), x.dtype, x.device)


def _pad2d(x, padding, value):
    out = _pad2d_fake(x, padding, value)
    _core.pad_image(_nhwc(x), _out_nhwc(out), tuple(padding), value)
    return out


def _pad2d_fake(x, padding, value):
    _u8(x, "pad2d")
    if len(padding) != 4 or min(padding) < 0:
        raise ShapeError(
            f"qgemm::pad2d: padding {tuple(padding)} must be (top, left, bottom, right), none of them negative; cut with a slice instead"
        )
    if not 0 <= value <= 255:
        raise QuantizationError(f"qgemm::pad2d: value must lie in 0..255, got {value}; real zero is the zero point of x")
    top, left, bottom, right = padding
    return _empty_nhwc((*x.shape[:2], x.shape[2] + top + bottom, x.shape[3] + left + right), x.dtype, x.device)


def _parts(op, what, n, by, factor=None):
    """n / by, which must divide evenly. factor: the argument that ``by`` is made of."""
    factor = by if factor is None else factor
    if factor < 1:
        raise ShapeError(f"qgemm::{op}: {what} cannot be divided by a factor of {factor}; give one of at least 1")
    if isinstance(n, int) and n % by:
        raise ShapeError(f"qgemm::{op}: {what}, {n}, must be a multiple of {by}")
    return n // by


def _pixel_shuffle(x, upscale_factor):
    out = _pixel_shuffle_fake(x, upscale_factor)
    _core.depth_to_space(_nhwc(x), _out_nhwc(out), upscale_factor, True)
    return out


def _pixel_shuffle_fake(x, upscale_factor):
    _u8(x, "pixel_shuffle")
    b, c, h, w = x.shape
    channels = _parts("pixel_shuffle", "the number of channels", c, upscale_factor * upscale_factor, upscale_factor)
    return _empty_nhwc((b, channels, h * upscale_factor, w * upscale_factor), x.dtype, x.device)


def _pixel_unshuffle(x, downscale_factor):
    out = _pixel_unshuffle_fake(x, downscale_factor)
    _core.space_to_depth(_nhwc(x), _out_nhwc(out), downscale_factor, True)
    return out


def _pixel_unshuffle_fake(x, downscale_factor):
    _u8(x, "pixel_unshuffle")
    b, c, h, w = x.shape
    height, width = (_parts("pixel_unshuffle", "a side of the image", n, downscale_factor) for n in (h, w))
    return _empty_nhwc((b, c * downscale_factor * downscale_factor, height, width), x.dtype, x.device)


def _channel_shuffle(x, groups):
    out = _channel_shuffle_fake(x, groups)
    index = np.arange(x.shape[1], dtype=np.int32).reshape(groups, -1).T.reshape(-1)
    _core.permute_channels(_nhwc(x), _out_nhwc(out), np.ascontiguousarray(index))
    return out


def _channel_shuffle_fake(x, groups):
    _u8(x, "channel_shuffle")
    _parts("channel_shuffle", "the number of channels", x.shape[1], groups)
    return _empty_nhwc(x.shape, x.dtype, x.device)


def _adaptive_avg_pool2d(x, output_size, x_scale, x_zero_point, dtype, out_scale=1.0, out_zero_point=0, lo=None, hi=None):
    out = _adaptive_avg_pool2d_fake(x, output_size, x_scale, x_zero_point, dtype)
    window = tuple(n // m for n, m in zip(x.shape[2:], output_size, strict=True))
    _core.avg_pool2d(
        _nhwc(x), _out_nhwc(out), window, window, (0, 0, 0, 0), False, x_scale, x_zero_point, out_scale, out_zero_point, lo, hi
    )  # fmt: skip
    return out


def _adaptive_avg_pool2d_fake(x, output_size, x_scale, x_zero_point, dtype, *epilogue):
    _image(x, "adaptive_avg_pool2d", 2)
    for n, m in zip(x.shape[2:], _sizes("adaptive_avg_pool2d", output_size, x), strict=True):
        _parts("adaptive_avg_pool2d", "a side of the image", n, m)
    return _empty_nhwc((*x.shape[:2], *output_size), dtype, x.device)


resize_nearest = register("resize_nearest(Tensor x, int[] size) -> Tensor", _resize_nearest, _resize_nearest_fake)
resize_linear = register(
    "resize_linear(Tensor x, int[] size, bool align_corners, float x_scale, int x_zero_point, float out_scale, int out_zero_point, "
    "float? lo=None, float? hi=None) -> Tensor",
    _resize_linear,
    _resize_linear_fake,
)
pad2d = register("pad2d(Tensor x, int[] padding, int value) -> Tensor", _pad2d, _pad2d_fake)
pixel_shuffle = register("pixel_shuffle(Tensor x, int upscale_factor) -> Tensor", _pixel_shuffle, _pixel_shuffle_fake)
pixel_unshuffle = register("pixel_unshuffle(Tensor x, int downscale_factor) -> Tensor", _pixel_unshuffle, _pixel_unshuffle_fake)
channel_shuffle = register("channel_shuffle(Tensor x, int groups) -> Tensor", _channel_shuffle, _channel_shuffle_fake)
adaptive_avg_pool2d = register(
    f"adaptive_avg_pool2d(Tensor x, int[] output_size, float x_scale, int x_zero_point, {EPILOGUE}) -> Tensor",
    _adaptive_avg_pool2d,
    _adaptive_avg_pool2d_fake,
)
