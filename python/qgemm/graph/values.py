"""Reading and writing run-time values: real numbers for float operators, bytes for integer kernels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import _core
from .grids import fake_quantize, real, shift
from .ir import Graph, QParams
from .layout import dense, like, nchw_view, nhwc
from .step import Env


def quantize_array(x: np.ndarray, scale: np.ndarray, zero: np.ndarray, qmax: int) -> np.ndarray:
    """float32 -> uint8 through the engine, in whatever dense memory order x has."""
    d, back = dense(np.asarray(x))
    out = np.empty(d.shape, np.uint8)
    _core.quantize(d, scale, zero, 0, qmax, out, -1)
    return like(out, back)


def dequantize_array(q: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    d, back = dense(np.asarray(q))
    out = np.empty(d.shape, np.float32)
    _core.dequantize(d, scale, zero, out, -1)
    return like(out, back)


def grid_arrays(qp: QParams) -> tuple[np.ndarray, np.ndarray]:
    """(scale [1], zero point [1]) as the engine takes them."""
    return np.array([qp.scale.item()], np.float32), np.array([qp.zero_point.item()], np.int32)


def reader(graph: Graph, name: str) -> Callable[[Env], np.ndarray | None]:
    """A function env -> real values (or integers and booleans) of ``name``; None for an omitted input."""
    if not name:
        return lambda env: None
    t = graph.tensors[name]
    if t.is_const:
        value = real(t)
        value.setflags(write=False)
        return lambda env: value
    if t.qparams is not None and t.qparams.u8:
        scale, zero = grid_arrays(t.qparams)
        return lambda env: dequantize_array(env[name], scale, zero)
    return lambda env: env[name]


def raw_values(graph: Graph, name: str) -> Callable[[Env], np.ndarray]:
    """The array of ``name`` as it is held."""
    t = graph.tensors[name]
    return (lambda env: t.data) if t.is_const else (lambda env: env[name])


def raw_reader(graph: Graph, name: str, qp: QParams | None) -> Callable[[Env], np.ndarray | None]:
    """Like ``reader`` but bytes stay bytes; a constant is put on the grid ``qp`` of the tensors it is moved with."""
    if not name:
        return lambda env: None
    t = graph.tensors[name]
    if not t.is_const:
        return lambda env: env[name]
    value = const_bytes(graph, name, qp) if qp is not None else real(t)
    return lambda env: value


def const_bytes(graph: Graph, name: str, qp: QParams) -> np.ndarray:
    """A constant as integers of the unsigned grid ``qp``."""
    t = graph.tensors[name]
    if t.qparams is not None and t.qparams.per_tensor:
        own, by = shift(t.qparams, signed=False)
        if own.same(qp):
            return (t.data.astype(np.int16) + by).astype(np.uint8)
    return quantize_array(real(t).astype(np.float32, copy=False), *grid_arrays(qp), qp.qmax)


def writer(graph: Graph, name: str) -> Callable[[Env, np.ndarray], None]:
    """Store a float operator's result: rounded to the tensor's grid at once, as the simulation does."""
    t = graph.tensors[name]
    qp = t.qparams
    if qp is None:

        def store(env, y):
            env[name] = y
    elif qp.u8:
        scale, zero = grid_arrays(qp)
        qmax = qp.qmax

        def store(env, y):
            env[name] = quantize_array(y, scale, zero, qmax)
    else:

        def store(env, y):
            env[name] = fake_quantize(y, qp)

    return store


def input_quantizer(graph: Graph, name: str) -> Callable[[Env], None]:
    """Replace the float32 graph input ``name`` by its bytes, channels-last for images; bytes given directly are kept."""
    qp = graph.tensors[name].qparams
    scale, zero = grid_arrays(qp)
    qmax = qp.qmax

    def run(env: Env) -> None:
        x = env[name]
        if x.dtype == np.uint8:
            return
        q = quantize_array(x, scale, zero, qmax)
        env[name] = nchw_view(nhwc(q)) if q.ndim == 4 else q

    return run
