"""Nodes without effect and values that nobody reads leave the graph."""

from __future__ import annotations

from ..ir import Graph, Node
from .util import remove, rename_result, rewire

_NO_OPS = {"Identity", "Dropout"}


def drop_identities(graph: Graph) -> None:
    """Identity and inference-time Dropout; one whose output has a grid of its own is that rounding, a Requantize."""
    for n in list(graph.nodes):
        if not _passes_through(graph, n):
            continue
        source, result = graph.tensors[n.inputs[0]], graph.tensors[n.outputs[0]]
        if result.qparams is not None and not result.qparams.same(source.qparams):
            n.op, n.inputs, n.attrs = "Requantize", n.inputs[:1], {}
        elif n.outputs[0] not in graph.outputs:
            rewire(graph, result.name, source.name)
            remove(graph, [n])
        elif source.name not in graph.inputs and source.name not in graph.outputs and not source.is_const:
            remove(graph, [n])
            rename_result(graph, source.name, result.name)


def _passes_through(graph: Graph, n: Node) -> bool:
    if n.op == "Cast":
        a, b = graph.tensors.get(n.inputs[0]), n.attrs.get("to")
        return a is not None and a.dtype == "float32" and b in (1, 10, 16)
    return n.op in _NO_OPS and not any(n.outputs[1:])


def drop_dead(graph: Graph) -> None:
    needed = set(graph.outputs)
    kept: list[Node] = []
    for n in reversed(graph.nodes):
        if any(o in needed for o in n.outputs):
            needed.update(i for i in n.inputs if i)
            kept.append(n)
    graph.nodes = kept[::-1]
    needed.update(graph.inputs)
    needed.update(o for n in graph.nodes for o in n.outputs)
    graph.tensors = {k: t for k, t in graph.tensors.items() if k in needed}
