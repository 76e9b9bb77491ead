"""Closures for operations on rows: softmax and the normalizations, from bytes or float32 to bytes or float32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import _core
from ..errors import ShapeError
from .executors import Result
from .step import Env


def softmax(read: Callable[[Env], np.ndarray], y: str, axis: int, grid: tuple[float, int], result: Result, label: str, mask=None):
    """read: the input as it is held; grid: its scale and zero point when that is bytes. mask: a function of env whose floats are added
    to the input, or None; then the axis is the last one.
    """
    core, dtype, bounds, (scale, zero) = _core.softmax, result.dtype, _bounds(result), grid

    def run(env):
        a = read(env)
        if not -a.ndim <= axis < a.ndim:
            raise ShapeError(f"layer '{label}' takes a softmax along axis {axis} of an input of shape {a.shape}")
        last = axis in (-1, a.ndim - 1)
        added = None if mask is None else mask(env)
        if added is not None:
            a, added = _with_mask(a, added)
        t = np.ascontiguousarray(a if last else np.moveaxis(a, axis, -1))
        out = np.empty(t.shape, dtype)
        core(t, out, added, scale, zero, *bounds)
        env[y] = out if last else np.moveaxis(out, -1, axis)

    return result.finish(run, y)


def _with_mask(a: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both of one shape; the mask's strides are 0 where the kernel may read it again."""
    shape = np.broadcast_shapes(a.shape, mask.shape)
    spread = np.broadcast_to(mask, shape)
    if len(shape) > 4 or (shape[-1] > 1 and spread.strides[-1] != spread.itemsize) or min(spread.strides) < 0:
        spread = np.ascontiguousarray(spread)
    return np.broadcast_to(a, shape), spread


def norm(read: Callable[[Env], np.ndarray], y: str, gamma, beta, axis: int, epsilon: float, center: bool, grid: tuple[float, int],
         result: Result, label: str):  # fmt: skip
    """gamma, beta: functions of env, or None. All axes from ``axis`` on are one row."""
    core, dtype, bounds, (scale, zero) = _core.norm, result.dtype, _bounds(result), grid

    def parameter(value, what, shape, env):
        v = None if value is None else value(env)
        if v is None or v.shape == shape and v.ndim == 1:
            return v
        try:
            return np.ascontiguousarray(np.broadcast_to(v, shape), np.float32).reshape(-1)
        except ValueError:
            raise ShapeError(f"layer '{label}' has a {what} of shape {v.shape}; it normalizes over axes of shape {shape}") from None

    def run(env):
        a = read(env)
        if not -a.ndim <= axis < a.ndim:
            raise ShapeError(f"layer '{label}' normalizes from axis {axis} on an input of shape {a.shape}")
        a = np.ascontiguousarray(a)
        shape = a.shape[axis % a.ndim :]
        rows = a if len(shape) == 1 else a.reshape(*a.shape[: axis % a.ndim], -1)
        out = np.empty(rows.shape, dtype)
        core(rows, out, parameter(gamma, "scale", shape, env), parameter(beta, "bias", shape, env), epsilon, center, scale, zero, *bounds)
        env[y] = out.reshape(a.shape)

    return result.finish(run, y)


def _bounds(result: Result) -> tuple:
    return result.bounds if result.dtype == np.uint8 else (1.0, 0, None, None)
