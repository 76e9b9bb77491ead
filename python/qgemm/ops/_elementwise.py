"""Quantize, dequantize, add, mul, lookup: operators that keep the shape of their input."""

from __future__ import annotations

import torch

from .. import _core
from ..errors import ShapeError
from ._conv import _nhwc
from ._registry import NHWC, array, dense_order, like, register, row_count, written


def _quantize(x, scale, zero_point, qmin, qmax, dtype, axis=-1):
    out = torch.empty_like(x, dtype=dtype)
    order = dense_order(out)
    if order is not None:
        axis = list(order).index(axis % x.dim())
    _core.quantize(like(order, x), array(scale), array(zero_point), qmin, qmax, written(order, out), axis)
    return out


def _dequantize(q, scale, zero_point, axis=-1):
    out = torch.empty_like(q, dtype=torch.float32)
    order = dense_order(out)
    if order is not None:
        axis = list(order).index(axis % q.dim())
    _core.dequantize(like(order, q), array(scale), array(zero_point), written(order, out), axis)
    return out


def _dynamic_shape(x, per_row):
    return x.shape[:-1] if per_row else (1,)


def _dynamic_outputs(x, per_row=True, symmetric=False):
    shape = _dynamic_shape(x, per_row)
    return (
        x.new_empty(x.shape, dtype=torch.uint8),
        x.new_empty(shape, dtype=torch.float32),
        x.new_empty(shape, dtype=torch.int32),
    )


def _quantize_dynamic(x, per_row=True, symmetric=False):
    out, scale, zero_point = _dynamic_outputs(x, per_row, symmetric)
    a = array(x.contiguous())
    rows = row_count(a.shape, "quantize_dynamic") if per_row else 1
    columns = a.shape[-1] if per_row else a.size
    _core.quantize_dynamic(
        a.reshape(rows, columns),
        array(out).reshape(rows, columns),
        array(scale).reshape(-1),
        array(zero_point).reshape(-1),
        per_row,
        symmetric,
    )
    return out, scale, zero_point


def _per_channel(a, b):
    """True when ``b`` holds a value a channel of the images ``a``: [B, C, 1, 1] beside [B, C, H, W]."""
    return a.dim() == 4 and b.dim() == 4 and a.shape != b.shape and a.shape[:2] == b.shape[:2] and b.shape[2] == 1 and b.shape[3] == 1


def _binary_out(op, a, b):
    """The output's memory. Images with a value per channel are channels_last, whatever ``a`` is: the kernels walk along channels."""
    if a.shape == b.shape:
        return torch.empty_like(a)
    if not _per_channel(a, b):
        raise ShapeError(
            f"qgemm::{op}: the operands are {tuple(a.shape)} and {tuple(b.shape)}; they must be of one shape, or the second "
            "[B, C, 1, 1] beside [B, C, H, W]"
        )
    return torch.empty(a.shape, dtype=a.dtype, device=a.device, memory_format=NHWC)


def _binary(op, core):
    def run(a, b, a_scale, a_zero_point, b_scale, b_zero_point, out_scale, out_zero_point, lo=None, hi=None):
        out = _binary_out(op, a, b)
        if a.shape == b.shape:
            order = dense_order(out)
            x, y, to = like(order, a), like(order, b), written(order, out)
        else:
            x, to = _nhwc(a), array(out).transpose(0, 2, 3, 1)
            y = array(b.flatten(1).contiguous())
        core(x, y, to, a_scale, a_zero_point, b_scale, b_zero_point, out_scale, out_zero_point, lo, hi)
        return out

    return run


def _lut(x, table):
    out = torch.empty_like(x)
    order = dense_order(out)
    _core.lut(like(order, x), array(table), written(order, out))
    return out


quantize = register(
    "quantize(Tensor x, Tensor scale, Tensor zero_point, int qmin, int qmax, ScalarType dtype, int axis=-1) -> Tensor",
    _quantize,
    lambda x, scale, zero_point, qmin, qmax, dtype, axis=-1: torch.empty_like(x, dtype=dtype),
)
dequantize = register(
    "dequantize(Tensor q, Tensor scale, Tensor zero_point, int axis=-1) -> Tensor",
    _dequantize,
    lambda q, scale, zero_point, axis=-1: torch.empty_like(q, dtype=torch.float32),
)
quantize_dynamic = register(
    "quantize_dynamic(Tensor x, bool per_row=True, bool symmetric=False) -> (Tensor, Tensor, Tensor)",
    _quantize_dynamic,
    _dynamic_outputs,
)


def _register_binary(op, core):
    grids = "float a_scale, int a_zero_point, float b_scale, int b_zero_point, float out_scale, int out_zero_point"
    return register(
        f"{op}(Tensor a, Tensor b, {grids}, int? lo=None, int? hi=None) -> Tensor",
        _binary(op, core),
        lambda a, b, *rest: _binary_out(op, a, b),
    )


add, mul = _register_binary("add", _core.add), _register_binary("mul", _core.mul)
lut = register("lut(Tensor x, Tensor table) -> Tensor", _lut, lambda x, table: torch.empty_like(x))
