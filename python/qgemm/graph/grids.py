"""Real values <-> integers of a grid, in numpy, for constants, tables and tensors that no kernel holds as uint8.

The arithmetic is docs/numerics.md's: ``q = clamp(rint(x * (1/scale)) + zero_point)`` in float32, the reciprocal taken once.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from .ir import QParams, Tensor


def _spread(values: np.ndarray, qp: QParams, ndim: int) -> np.ndarray:
    """A scale or zero point of ``qp`` in a shape that broadcasts with a tensor of ``ndim`` dimensions (not for blocks)."""
    if qp.axis is None:
        return values
    shape = [1] * ndim
    shape[qp.axis] = -1
    return values.reshape(shape)


def _blocks(values: np.ndarray, qp: QParams, shape: tuple[int, ...]) -> np.ndarray:
    v = np.repeat(values, min(qp.block_size, shape[qp.axis]), axis=qp.axis)  # one block may be declared larger than the axis
    return v.take(range(shape[qp.axis]), axis=qp.axis) if v.shape[qp.axis] != shape[qp.axis] else v


def broadcast(qp: QParams, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(scale, zero point) in a shape that broadcasts with a tensor of ``shape``."""
    if qp.block_size:
        return _blocks(qp.scale, qp, shape), _blocks(qp.zero_point, qp, shape)
    return _spread(qp.scale, qp, len(shape)), _spread(qp.zero_point, qp, len(shape))


def quantize(x: np.ndarray, qp: QParams) -> np.ndarray:
    """float32 -> the grid's integers, in the smallest type that holds them. NaN becomes the zero point."""
    scale, zero = broadcast(qp, x.shape)
    y = np.rint(x.astype(np.float32, copy=False) * (np.float32(1) / scale))
    if np.isnan(y).any():
        y = np.nan_to_num(y, nan=0.0, posinf=np.inf, neginf=-np.inf)
    # In float64 the sum with the zero point and the clamp are exact for every grid up to 32 bits.
    q = np.clip(y.astype(np.float64) + zero, qp.qmin, qp.qmax)
    return q.astype(integer_type(qp))


def dequantize(q: np.ndarray, qp: QParams) -> np.ndarray:
    scale, zero = broadcast(qp, q.shape)
    if qp.bits > 16:
        return ((q.astype(np.int64) - zero).astype(np.float32) * scale).astype(np.float32)
    return ((q.astype(np.int32) - zero).astype(np.float32) * scale).astype(np.float32)


def fake_quantize(x: np.ndarray, qp: QParams) -> np.ndarray:
    """float32 rounded to the grid: what the simulation's quantizer returns."""
    return dequantize(quantize(x, qp), qp)


def integer_type(qp: QParams) -> type:
    size = 8 if qp.bits <= 8 else 16 if qp.bits <= 16 else 32
    return np.dtype(f"{'int' if qp.signed else 'uint'}{size}").type


def shift(qp: QParams, signed: bool) -> tuple[QParams, int]:
    """The same grid with the other signedness, and what to add to its integers."""
    if qp.signed == signed:
        return qp, 0
    by = (1 << (qp.bits - 1)) * (-1 if signed else 1)
    return dataclasses.replace(qp, zero_point=qp.zero_point + by, signed=signed), by


def real(t: Tensor) -> np.ndarray:
    """A constant's real values (integers of a grid are dequantized)."""
    return t.data if t.qparams is None else dequantize(t.data, t.qparams)
