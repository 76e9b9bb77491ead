"""Quantize, dequantize, add, lookup: operators that keep the shape of their input."""

from __future__ import annotations

import torch

from .. import _core
from ..errors import ShapeError
from ._registry import array, dense_order, like, register, row_count, written


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


def _add(a, b, a_scale, a_zero_point, b_scale, b_zero_point, out_scale, out_zero_point, lo=None, hi=None):
    if a.shape != b.shape:
        raise ShapeError(f"qgemm::add: the operands are {tuple(a.shape)} and {tuple(b.shape)}; they must be of one shape")
    out = torch.empty_like(a)
    order = dense_order(out)
    _core.add(
        like(order, a),
        like(order, b),
        written(order, out),
        a_scale,
        a_zero_point,
        b_scale,
        b_zero_point,
        out_scale,
        out_zero_point,
        lo,
        hi,
    )
    return out


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
add = register(
    "add(Tensor a, Tensor b, float a_scale, int a_zero_point, float b_scale, int b_zero_point, float out_scale, int out_zero_point, "
    "int? lo=None, int? hi=None) -> Tensor",
    _add,
    lambda a, *rest: torch.empty_like(a),
)
lut = register("lut(Tensor x, Tensor table) -> Tensor", _lut, lambda x, table: torch.empty_like(x))
