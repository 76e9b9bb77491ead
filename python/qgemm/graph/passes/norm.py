"""x / sqrt(mean(x^2) + epsilon), times a weight, written out: one RMSNormalization.

This is how exporters of torch write it, for which it is no operator. Only where the model rounds nothing on the way: a quantizer between
two of its parts is a rounding that has to stay.
"""

from __future__ import annotations

import numpy as np

from ..grids import real
from ..ir import Graph, Node
from .util import named_axes, only_reader, rank, remove


def form_norms(graph: Graph) -> None:
    makers, readers, gone = graph.producers(), graph.consumers(), []
    for n in graph.nodes:
        found = _normalization(graph, makers, readers, n)
        if found is None:
            continue
        x, epsilon, inner = found
        gone += inner
        last, weight = _weighted(graph, readers, n, x) or (n, "")
        if last is not n:
            gone.append(n)
        last.op, last.inputs, last.attrs = "RMSNormalization", [x, *filter(None, [weight])], {**last.attrs, "axis": -1, "epsilon": epsilon}
    remove(graph, gone)


def _normalization(graph: Graph, makers, readers, n: Node):
    """(x, epsilon, the nodes in front) when ``n`` multiplies x by, or divides it by, the root of its mean square."""
    if n.op not in ("Mul", "Div"):
        return None
    for x, root in (n.inputs, n.inputs[::-1]) if n.op == "Mul" else (n.inputs,):
        chain: list[Node] = []

        def back(name: str, *ops: str, reader: Node, chain=chain) -> Node | None:
            m = makers.get(name)
            if m is None or m.op not in ops or only_reader(graph, readers, name) is not reader or graph.tensors[name].qparams is not None:
                return None
            chain.append(m)
            return m

        at: Node | None = n
        if n.op == "Mul":
            at = back(root, "Reciprocal", reader=n)
            root = at.inputs[0] if at else ""
        at = at and back(root, "Sqrt", reader=at)
        at = at and back(at.inputs[0], "Add", reader=at)
        epsilon = at and _term(graph, at, x)
        at = at and epsilon and back(epsilon[0], "ReduceMean", reader=at)
        if not at or not epsilon or not _over_the_last_axis(graph, at):
            continue
        at = back(at.inputs[0], "Pow", "Mul", reader=at)
        if at and _is_square(graph, at, x):
            return x, epsilon[1], chain
    return None


def _term(graph: Graph, n: Node, x: str) -> tuple[str, float] | None:
    """(the other term, the number) of a sum with a number that is not negative."""
    for a, b in (n.inputs, n.inputs[::-1]):
        value = _number(graph, b, x)
        if value is not None:
            return (a, value) if value >= 0 and np.isfinite(value) else None
    return None


def _number(graph: Graph, name: str, x: str) -> float | None:
    """The constant of one element that ``name`` is; with more dimensions than ``x`` it would give the result more, too."""
    t = graph.tensors[name]
    if not t.is_const or t.data.size != 1 or t.data.ndim > (rank(graph, x) or 1):
        return None
    return float(real(t).reshape(()))


def _over_the_last_axis(graph: Graph, n: Node) -> bool:
    axes, ndim = named_axes(graph, n), rank(graph, n.inputs[0])
    return bool(n.attrs.get("keepdims", 1)) and axes is not None and len(axes) == 1 and (axes[0] == -1 or (ndim or 0) - 1 == axes[0] > 0)


def _is_square(graph: Graph, n: Node, x: str) -> bool:
    if n.op == "Mul":
        return n.inputs == [x, x]
    return n.inputs[0] == x and _number(graph, n.inputs[1], x) == 2.0


def _weighted(graph: Graph, readers, n: Node, x: str) -> tuple[Node, str] | None:
    """(the product with a weight of the last axis behind ``n``, the weight)."""
    after = only_reader(graph, readers, n.outputs[0])
    if after is None or after.op != "Mul" or graph.tensors[n.outputs[0]].qparams is not None or "lo" in n.attrs or "hi" in n.attrs:
        return None
    for a, b in (after.inputs, after.inputs[::-1]):
        t, shape = graph.tensors[b], graph.tensors[x].shape
        if a == n.outputs[0] and t.is_const and t.data.ndim == 1 and shape and t.data.shape == shape[-1:]:
            return after, b
    return None
