"""Elementwise arithmetic from one uint8 tensor to another uint8 tensor becomes a table of 256 bytes.

The table is computed from the float32 operators themselves, on the 256 real values of the input's grid, with every rounding the
model has in between. So it is the simulation's result, not an approximation of the function. A whole expression over one tensor
counts (the Erf form of GELU; x * sigmoid(x), whose sigmoid has a grid of its own).
"""

from __future__ import annotations

import numpy as np

from ..floatops import OPS
from ..grids import dequantize, fake_quantize, quantize, real
from ..ir import Graph, Node
from .util import is_byte_grid, rank

# operator -> positions of the inputs that may be run-time tensors
UNARY = {
    "Relu", "Clip", "Sigmoid", "Tanh", "Gelu", "Erf", "HardSigmoid", "HardSwish", "LeakyRelu", "Elu", "Celu", "Selu", "Softplus",
    "Softsign", "Mish", "Swish", "ThresholdedRelu", "Abs", "Neg", "Exp", "Log", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round",
    "Sign", "Sin", "Cos", "Requantize",
}  # fmt: skip
BINARY = {"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "PRelu"}


def make_tables(graph: Graph) -> None:
    makers = graph.producers()
    for n in graph.nodes:
        if n.op not in UNARY and n.op not in BINARY:
            continue
        out = graph.tensors[n.outputs[0]]
        if not is_byte_grid(out.qparams):
            continue
        source = _source(graph, makers, n)
        if source is None:
            continue
        table = quantize(_Evaluator(graph, makers, source).node(n), out.qparams)
        n.attrs = {"table": np.ascontiguousarray(table, np.uint8), "function": n.op}
        n.op, n.inputs = "Lut", [source]


def _source(graph: Graph, makers: dict[str, Node], n: Node) -> str | None:
    """The one uint8 tensor that ``n`` is a function of."""
    leaves = _leaves(graph, makers, n)
    if leaves is None or not leaves:
        return None
    if len(leaves) == 1:
        return next(iter(leaves))
    if len(leaves) == 2:  # one of the two may itself be a function of the other
        for a, b in (tuple(leaves), tuple(leaves)[::-1]):
            maker = makers.get(b)
            if maker is not None and (maker.op == "Lut" or maker.op in UNARY or maker.op in BINARY):
                if _leaves(graph, makers, maker) == {a}:
                    return a
    return None


def _leaves(graph: Graph, makers: dict[str, Node], n: Node) -> set[str] | None:
    """uint8 tensors that ``n`` reads, directly or through float elementwise nodes; None when anything else is involved."""
    found: set[str] = set()
    for i in n.inputs:
        if not i:
            continue
        t = graph.tensors[i]
        if t.is_const:
            if t.data.size != 1 or t.data.ndim > max(1, rank(graph, n.outputs[0]) or 1) or t.data.dtype.kind not in "fiu":
                return None
        elif is_byte_grid(t.qparams):
            found.add(i)
        else:
            maker = makers.get(i)
            if maker is None or (maker.op not in UNARY and maker.op not in BINARY):
                return None
            if t.qparams is not None and not t.qparams.per_tensor:
                return None
            inner = _leaves(graph, makers, maker)
            if inner is None:
                return None
            found |= inner
    return found


class _Evaluator:
    """Values of an expression at the 256 integers of its source's grid, in float32, rounded wherever the model rounds."""

    def __init__(self, graph: Graph, makers: dict[str, Node], source: str):
        self.graph, self.makers = graph, makers
        qp = graph.tensors[source].qparams
        self.values = {source: dequantize(np.arange(256, dtype=np.uint8), qp)}

    def tensor(self, name: str) -> np.ndarray | None:
        if not name:
            return None
        if name not in self.values:
            t = self.graph.tensors[name]
            if t.is_const:
                self.values[name] = real(t).reshape(())
            else:
                v = self.node(self.makers[name])
                self.values[name] = v if t.qparams is None else fake_quantize(v, t.qparams)
        return self.values[name]

    def node(self, n: Node) -> np.ndarray:
        if n.op == "Lut":
            return dequantize(n.attrs["table"], self.graph.tensors[n.outputs[0]].qparams)
        args = [self.tensor(i) for i in n.inputs]
        y = OPS[n.op](n.attrs)(*args)
        lo, hi = n.attrs.get("lo"), n.attrs.get("hi")
        if lo is not None:
            y = np.maximum(y, np.float32(lo))
        if hi is not None:
            y = np.minimum(y, np.float32(hi))
        return np.broadcast_to(np.asarray(y, np.float32), (256,))
