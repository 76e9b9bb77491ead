"""The float graph, node by node, every value shown once and freed when nobody reads it any more.

Layers and the reductions run in torch: they are what takes the time, and torch's own float sums make the ranges those that a
simulation in torch observes. Everything else is ``graph.floatops``, as in a Program.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import QgemmError, ShapeError, UnsupportedOpError, require
from ..graph import floatnn  # noqa: F401  (registers its operators)
from ..graph.floatops import OPS
from ..graph.grids import real
from ..graph.ir import Graph, Node
from ..graph.lower import supported_ops


class FloatRun:
    """``run(arrays, show)`` computes the graph for one batch and calls ``show(name, array)`` for every input and result.

    Raises UnsupportedOpError at construction for an operator that nobody implements.
    """

    def __init__(self, graph: Graph):
        unknown = [n for n in graph.nodes if n.op not in OPS]
        if unknown:
            named = ", ".join(f"'{n.module or n.name}' ({n.op})" for n in unknown[:8])
            raise UnsupportedOpError(f"qgemm does not execute: {named}. It executes: {', '.join(supported_ops())}")
        self.graph = graph
        self.constants = {t.name: np.asarray(real(t)) for t in graph.constants()}
        self.steps: list[tuple[Node, Callable]] = []
        for n in graph.nodes:
            try:
                self.steps.append((n, _torch_op(graph, n) or OPS[n.op](n.attrs)))
            except (UnsupportedOpError, KeyError) as e:
                raise UnsupportedOpError(f"layer '{n.module or n.name}' ({n.op}): {e}") from None
        last = {name: k for k, n in enumerate(graph.nodes) for name in (*n.inputs, *n.outputs) if name}
        self.dead: list[list[str]] = [[] for _ in graph.nodes]
        for name, k in last.items():
            if name not in self.constants:
                self.dead[k].append(name)

    def run(self, arrays: list[np.ndarray], show: Callable[[str, np.ndarray], None]) -> None:
        values = dict(zip(self.graph.inputs, arrays, strict=True))
        for name, x in values.items():
            show(name, x)
        for (n, fn), dead in zip(self.steps, self.dead, strict=True):
            args = [None if not i else self.constants[i] if i in self.constants else values[i] for i in n.inputs]
            try:
                result = fn(*args)
            except QgemmError:
                raise
            except (ValueError, IndexError, RuntimeError) as e:
                shapes = ", ".join(str(list(a.shape)) for a in args if a is not None)
                raise ShapeError(f"layer '{n.module or n.name}' ({n.op}) with inputs {shapes}: {e}") from e
            for name, y in zip(n.outputs, result if isinstance(result, tuple) else (result,), strict=False):
                if name:
                    values[name] = np.asarray(y)
                    show(name, values[name])
            for name in dead:
                values.pop(name, None)


def _torch_op(graph: Graph, n: Node) -> Callable | None:
    """The node in torch, over arrays; None where numpy does."""
    make = _TORCH.get(n.op)
    fn = None if make is None else make(graph, n)
    if fn is None:
        return None
    torch = require("torch", "calibration")

    def run(*args):
        with torch.no_grad():
            return fn(torch, *[None if a is None else torch.from_numpy(_writable(a)) for a in args]).numpy()

    return run


def _writable(a: np.ndarray) -> np.ndarray:
    return a if a.flags.writeable and all(s >= 0 for s in a.strides) else a.copy()


def _conv(graph: Graph, n: Node):
    shape = graph.tensors[n.inputs[1]].shape
    if n.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or shape is None or not 3 <= len(shape) <= 5:
        return None
    d = len(shape) - 2
    stride, dilation = n.attrs.get("strides") or [1] * d, n.attrs.get("dilations") or [1] * d
    pads = n.attrs.get("pads") or [0] * (2 * d)
    before, after = pads[:d], pads[d:]
    groups = n.attrs.get("group", 1)

    def run(torch, x, w, b=None):
        padding = before
        if before != after:
            x = torch.nn.functional.pad(x, [p for pair in zip(before[::-1], after[::-1], strict=True) for p in pair])
            padding = [0] * d
        conv = getattr(torch.nn.functional, f"conv{d}d")
        return conv(x, w, b, stride, padding, dilation, groups)

    return run


def _conv_transpose(graph: Graph, n: Node):
    shape = graph.tensors[n.inputs[1]].shape
    if n.attrs.get("auto_pad", "NOTSET") != "NOTSET" or n.attrs.get("output_shape") or shape is None or not 3 <= len(shape) <= 5:
        return None
    d = len(shape) - 2
    pads = n.attrs.get("pads") or [0] * (2 * d)
    if pads[:d] != pads[d:]:
        return None
    stride, dilation = n.attrs.get("strides") or [1] * d, n.attrs.get("dilations") or [1] * d
    extra, groups = n.attrs.get("output_padding") or [0] * d, n.attrs.get("group", 1)

    def run(torch, x, w, b=None):
        return getattr(torch.nn.functional, f"conv_transpose{d}d")(x, w, b, stride, pads[:d], extra, groups, dilation)

    return run


def _linear(graph: Graph, n: Node):
    return lambda torch, x, w, b=None: torch.nn.functional.linear(x, w, b)


def _matmul(graph: Graph, n: Node):
    return lambda torch, a, b: torch.matmul(a, b)


def _global_average(graph: Graph, n: Node):
    return lambda torch, x: x.mean(tuple(range(2, x.ndim)), keepdim=True)


def _mean(graph: Graph, n: Node):
    if len(n.inputs) < 2 or not n.inputs[1] or graph.tensors[n.inputs[1]].data is None or not graph.tensors[n.inputs[1]].data.size:
        return None
    keep = bool(n.attrs.get("keepdims", 1))
    return lambda torch, x, axes: x.mean(tuple(axes.tolist()), keepdim=keep)


def _softmax(graph: Graph, n: Node):
    return lambda torch, x: torch.softmax(x, n.attrs.get("axis", -1))


_TORCH: dict[str, Callable] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Linear": _linear,
    "MatMul": _matmul,
    "GlobalAveragePool": _global_average,
    "ReduceMean": _mean,
    "Softmax": _softmax,
}
