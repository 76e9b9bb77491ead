"""Fold everything that does not depend on an input. Integer constants keep their integers and their encoding.

DequantizeLinear of a constant becomes a constant with qparams. Two-level weights (LPBQ: int4 weights, integer block scales
1..16, one float scale a channel) are expanded to int8 per channel, which is exact: 16 * [-8, 7] fits [-128, 127].
"""

from __future__ import annotations

import numpy as np

from ...errors import ModelFormatError
from .. import floatnn  # noqa: F401  (registers its operators)
from ..floatops import OPS
from ..grids import broadcast, dequantize, integer_type, quantize, real
from ..guard import naming
from ..ir import Graph, Node, QParams, Tensor
from .growth import Budget
from .util import remove

GRID_BITS = {"int8": 8, "uint8": 8, "int4": 4, "uint4": 4, "int2": 2, "uint2": 2, "int16": 16, "uint16": 16, "int32": 32}

# These give a new value on each call or need a run-time input although all their inputs are constant.
_NEVER = {"QuantizeLinear", "DequantizeLinear", "Requantize"}


def fold_constants(graph: Graph) -> None:
    done, budget = [], Budget()
    for n in graph.nodes:
        if not all(graph.tensors[i].is_const for i in n.inputs if i and i in graph.tensors):
            continue
        if any(i and i not in graph.tensors for i in n.inputs) or not any(n.inputs):
            continue
        fold = _how(graph, n)
        if fold is not None:
            with naming(n):
                if fold is _evaluate:
                    budget.take(n, [real(graph.tensors[i]) if i else None for i in n.inputs])
                fold(graph, n)
            done.append(n)
    remove(graph, done)


def _how(graph: Graph, n: Node):
    if n.op == "QuantizeLinear":
        return _quantize
    if n.op == "DequantizeLinear":
        return _dequantize
    if n.op in ("Identity", "Transpose") and graph.tensors[n.inputs[0]].qparams is not None:
        return _move
    return _evaluate if n.op in OPS and n.op not in _NEVER else None


def store(graph: Graph, name: str, data: np.ndarray, dtype: str, qparams: QParams | None = None) -> None:
    """``name`` becomes a constant; an encoding that the tensor has rounds it."""
    had = graph.tensors.get(name)
    if qparams is None and had is not None and had.qparams is not None and data.dtype.kind == "f":
        # An encodings file may give a folded constant a grid of its own.
        qparams = had.qparams
        data = quantize(data, qparams)
    graph.tensors[name] = Tensor(name, tuple(data.shape), dtype, qparams, np.ascontiguousarray(data) if data.ndim else data)


def _evaluate(graph: Graph, n: Node) -> None:
    args = [real(graph.tensors[i]) if i else None for i in n.inputs]
    result = OPS[n.op](n.attrs)(*args)
    results = result if isinstance(result, tuple) else (result,)
    for name, r in zip(n.outputs, results, strict=False):
        if name:
            store(graph, name, np.asarray(r), np.asarray(r).dtype.name)


def _move(graph: Graph, n: Node) -> None:
    t = graph.tensors[n.inputs[0]]
    data, qp = t.data, t.qparams
    if n.op == "Transpose":
        perm = n.attrs.get("perm") or list(range(data.ndim))[::-1]
        data = data.transpose(perm)
        qp = transposed(qp, perm)
    store(graph, n.outputs[0], data, t.dtype, qp)


def transposed(qp: QParams, perm) -> QParams:
    if qp.axis is None:
        return qp
    axis = list(perm).index(qp.axis % len(perm))
    if not qp.block_size:
        return QParams(qp.scale, qp.zero_point, qp.bits, qp.signed, axis)
    return QParams(qp.scale.transpose(perm), qp.zero_point.transpose(perm), qp.bits, qp.signed, axis, qp.block_size)


def _quantize(graph: Graph, n: Node) -> None:
    x, scale = real(graph.tensors[n.inputs[0]]), real(graph.tensors[n.inputs[1]])
    zero = graph.tensors[n.inputs[2]] if len(n.inputs) > 2 and n.inputs[2] else None
    dtype = (
        zero.dtype
        if zero is not None
        else {3: "int8", 4: "uint16", 5: "int16", 21: "uint4", 22: "int4"}.get(n.attrs.get("output_dtype", 0), "uint8")
    )
    qp = _qparams(n, x.shape, scale, None if zero is None else zero.data, dtype)
    # Weights written by a quantizer lie on their grid: the division recovers the integer exactly, ties do not occur.
    s, z = broadcast(qp, x.shape)
    q = np.clip(np.rint(x.astype(np.float64) / s) + z, qp.qmin, qp.qmax).astype(integer_type(qp))
    graph.tensors[n.outputs[0]] = Tensor(n.outputs[0], x.shape, dtype, None, q)


def _dequantize(graph: Graph, n: Node) -> None:
    q, scale = graph.tensors[n.inputs[0]], graph.tensors[n.inputs[1]]
    zero = graph.tensors[n.inputs[2]] if len(n.inputs) > 2 and n.inputs[2] else None
    data = q.data if q.qparams is None else dequantize(q.data, q.qparams)
    if q.dtype not in GRID_BITS:
        raise ModelFormatError(f"node '{n.name}' dequantizes '{q.name}', which is {q.dtype}, not an integer grid")
    two_level = _lpbq(n, q, scale, zero)
    if two_level is not None:
        data, qp = two_level
    else:
        qp = _qparams(n, data.shape, real(scale), None if zero is None else zero.data, q.dtype)
    store(graph, n.outputs[0], data, "float32", qp)


def _qparams(n: Node, shape, scale: np.ndarray, zero: np.ndarray | None, dtype: str) -> QParams:
    if dtype not in GRID_BITS:
        raise ModelFormatError(f"node '{n.name}' has a zero point of type {dtype}; grids are integers of 2 to 32 bits")
    bits, signed = GRID_BITS[dtype], not dtype.startswith("u")
    zero = np.zeros(scale.shape, np.int32) if zero is None else zero.astype(np.int32)
    if scale.ndim == 0 or (scale.size == 1 and scale.ndim == 1 and not n.attrs.get("block_size")):
        return QParams(scale.reshape(()), zero.reshape(()), bits, signed)
    axis = n.attrs.get("axis", 1) % len(shape)
    if scale.ndim == 1:
        return QParams(scale, zero, bits, signed, axis)
    # Blocks. AIMET's convolutions give [out, blocks, 1, 1] where ONNX asks for the weight's own extent: broadcast.
    size = _block_size(n, shape, scale.shape, axis)
    full = tuple(scale.shape[i] if i == axis else d for i, d in enumerate(shape))
    try:
        return QParams(np.broadcast_to(scale, full), np.broadcast_to(zero, full), bits, signed, axis, size)
    except ValueError:
        raise ModelFormatError(
            f"node '{n.name}': scales of shape {scale.shape} do not fit a weight of shape {tuple(shape)} in blocks"
        ) from None


def _block_size(n: Node, shape, scales, axis: int) -> int:
    size = n.attrs.get("block_size", 0) or -(-shape[axis] // scales[axis])
    if size < 1 or len(scales) != len(shape) or -(-shape[axis] // size) != scales[axis]:
        raise ModelFormatError(
            f"node '{n.name}': scales of shape {tuple(scales)} do not fit a weight of shape {tuple(shape)} in blocks of {size}"
        )
    return size


def _lpbq(n: Node, q: Tensor, scale: Tensor, zero: Tensor | None) -> tuple[np.ndarray, QParams] | None:
    """Expand block scales that are integers times a float a channel; None when this weight is not made so."""
    meta = scale.qparams
    if meta is None or meta.block_size or scale.data.ndim < 2 or GRID_BITS[q.dtype] > 4 or q.dtype.startswith("u"):
        return None
    if meta.zero_point.any() or (zero is not None and zero.data.any()):
        return None
    if scale.data.min() < 1 or scale.data.max() > 16:
        return None
    axis = n.attrs.get("axis", 1) % q.data.ndim
    if meta.axis == axis:
        return None
    size = _block_size(n, q.data.shape, scale.data.shape, axis)
    steps = np.repeat(scale.data.astype(np.int32), size, axis=axis).take(range(q.data.shape[axis]), axis=axis)
    data = (q.data.astype(np.int32) * steps).astype(np.int8)
    return data, QParams(meta.scale, np.zeros(meta.scale.shape, np.int32), 8, True, meta.axis)
