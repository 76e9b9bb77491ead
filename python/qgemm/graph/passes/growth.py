"""How large a constant becomes when it is folded: a file of a few hundred bytes may ask for many gigabytes, all of them addressable."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import ModelFormatError
from ..ir import Node

# What folding may make beyond what it reads, in one model. Position tables and masks are far below; weights are read, not made.
LIMIT = 1 << 30


class Budget:
    """What one model's folding has left to make."""

    def __init__(self, limit: int = LIMIT):
        self.limit = self.left = limit

    def take(self, node: Node, args: list[np.ndarray | None]) -> None:
        """Refuse ``node`` before it computes, with ModelFormatError, when its result would be too large."""
        given = [a for a in args if a is not None]
        read = sum(a.nbytes for a in given)
        width = max((a.itemsize for a in given), default=1)
        if node.op == "ConstantOfShape":
            width = np.asarray(node.attrs.get("value", np.float32(0))).itemsize
        elif node.op == "NonZero":  # indices, whatever was read
            width = 8
        size = width * elements(node, args)
        grown = size - read
        if grown > self.left:
            raise ModelFormatError(
                f"node '{node.name}' ({node.op}) makes a constant of up to {size:,} bytes out of {read:,}; folding may make "
                f"{self.limit:,} bytes in one model: let the network compute it from an input, or export it again without such constants"
            )
        self.left -= max(0, grown)


def elements(node: Node, args: list[np.ndarray | None]) -> int:
    """No fewer elements than ``node`` will give, known before it computes."""
    return _BOUNDS.get(node.op, _broadcast)(node.attrs, args)


def _broadcast(attrs: dict[str, Any], args: list[np.ndarray | None]) -> int:
    """Elementwise operators, and all that give no more elements than they read."""
    given = [a.shape for a in args if a is not None]
    total = sum(math.prod(s) for s in given)
    try:
        return max(total, math.prod(np.broadcast_shapes(*given)))
    except ValueError:
        return total


def _ints(values: Any) -> list[int]:
    return [int(v) for v in np.asarray(values).reshape(-1)]


def _expand(attrs, args):
    x, shape = args[0], [max(1, n) for n in _ints(args[1])]
    common = [1] * max(0, x.ndim - len(shape)) + shape
    return math.prod(max(a, b) for a, b in zip([1] * (len(common) - x.ndim) + list(x.shape), common, strict=True))


def _range(attrs, args):
    start, stop, step = (float(np.asarray(a).reshape(())) for a in args)
    length = (stop - start) / step if step else 0.0
    return math.ceil(length) if math.isfinite(length) and length > 0 else 0


def _pad(attrs, args):
    pads = attrs.get("pads", ()) if len(args) < 2 or args[1] is None else args[1]
    pads, x = [max(0, p) for p in _ints(pads)], args[0]
    half = len(pads) // 2
    axes = _ints(args[3]) if len(args) > 3 and args[3] is not None else range(half)
    shape = list(x.shape)
    for i, a in enumerate(axes):
        if -len(shape) <= a < len(shape):
            shape[a] += pads[i] + pads[half + i]
    return math.prod(shape)


def _resize(attrs, args):
    x = args[0]
    if len(args) > 3 and args[3] is not None and args[3].size:
        return math.prod(max(0, n) for n in _ints(args[3]))
    scales = [float(s) for s in np.asarray(args[2]).reshape(-1)] if len(args) > 2 and args[2] is not None else []
    size = math.prod(n * max(s, 1.0) for n, s in zip(x.shape, scales, strict=False))
    return math.ceil(size) if math.isfinite(size) else 1 << 62


def _gather(attrs, args):
    x, index = args[:2]
    axis = attrs.get("axis", 0)
    if not -x.ndim <= axis < x.ndim:
        return 0
    return index.size * (math.prod(x.shape[: axis % x.ndim]) * math.prod(x.shape[axis % x.ndim + 1 :]))


def _matmul(attrs, args):
    a, b = args[:2]
    if a.ndim == 0 or b.ndim == 0:
        return a.size * b.size
    rows = a.shape[-2] if a.ndim > 1 else 1
    columns = b.shape[-1] if b.ndim > 1 else 1
    return max(math.prod(a.shape[:-2]), 1) * max(math.prod(b.shape[:-2]), 1) * rows * columns


def _gemm(attrs, args):
    a, b = (x.T if attrs.get(t) else x for x, t in zip(args, ("transA", "transB"), strict=False))
    return a.shape[0] * b.shape[-1] if a.ndim and b.ndim else 0


def _window(attrs, args):
    """Convolutions and pools: the padded input, or an output of one element for each of its positions."""
    x = args[0]
    spatial = max(0, x.ndim - 2)
    pads = [max(0, p) for p in _ints(attrs.get("pads", ()))] or [0] * (2 * spatial)
    strides = [max(1, s) for s in _ints(attrs.get("strides", ()))] or [1] * spatial
    window = list(args[1].shape[2:]) if len(args) > 1 and args[1] is not None else _ints(attrs.get("kernel_shape", ()))
    dilation = [max(1, d) for d in _ints(attrs.get("dilations", ()))] or [1] * spatial
    positions = 1
    for i in range(spatial):
        around = sum(p for k, p in enumerate(pads) if k % max(1, len(pads) // 2) == i)
        reach = (dilation[i] if i < len(dilation) else 1) * (window[i] if i < len(window) else 1)
        positions *= (x.shape[2 + i] + around) * (strides[i] if i < len(strides) else 1) + reach
    channels = max([x.shape[1] if x.ndim > 1 else 1, *(a.shape[k] for a in args[1:2] if a is not None for k in range(min(2, a.ndim)))])
    return (x.shape[0] if x.ndim else 1) * channels * positions


def _gather_nd(attrs, args):
    x, index = args[:2]
    depth = attrs.get("batch_dims", 0) + (index.shape[-1] if index.ndim else 0)
    return math.prod(index.shape[:-1]) * math.prod(x.shape[depth:])


def _einsum(attrs, args):
    labels = str(attrs.get("equation", "")).split("->")[0].replace(" ", "").split(",")
    sizes = {c: n for term, a in zip(labels, args, strict=False) for c, n in zip(term.replace(".", ""), a.shape, strict=False)}
    return math.prod(sizes.values())


_BOUNDS: dict[str, Callable[[dict[str, Any], list], int]] = {
    "AveragePool": _window,
    "ConstantOfShape": lambda attrs, args: math.prod(max(0, n) for n in _ints(args[0])),
    "Conv": _window,
    "ConvTranspose": _window,
    "Einsum": _einsum,
    "Expand": _expand,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "Linear": lambda attrs, args: math.prod(args[0].shape[:-1]) * args[1].shape[0],
    "MatMul": _matmul,
    "MaxPool": _window,
    "NonZero": lambda attrs, args: args[0].ndim * args[0].size,
    "Pad": _pad,
    "Range": _range,
    "Resize": _resize,
    "Tile": lambda attrs, args: args[0].size * math.prod(max(0, n) for n in _ints(args[1])),
}
