"""ReduceMean over all spatial axes is a global average pool (and a Flatten, without keepdims)."""

from __future__ import annotations

from ..ir import Graph, Node, Tensor
from .util import fresh, insert_after, named_axes, rank


def mean_to_pool(graph: Graph) -> None:
    for n in list(graph.nodes):
        if n.op != "ReduceMean":
            continue
        ndim, axes = rank(graph, n.inputs[0]), named_axes(graph, n)
        if ndim not in (3, 4) or axes is None or sorted(a % ndim for a in axes) != list(range(2, ndim)):
            continue
        keep = n.attrs.get("keepdims", 1)
        n.op, n.inputs, n.attrs = "GlobalAveragePool", n.inputs[:1], {}
        if keep:
            continue
        result = n.outputs[0]
        t = graph.tensors[result]
        pooled = fresh(graph, f"{result}:pooled")
        shape = None if t.shape is None else (*t.shape, *[1] * (ndim - 2))
        graph.tensors[pooled] = Tensor(pooled, shape, "float32", t.qparams)
        n.outputs = [pooled]
        insert_after(graph, n, Node("Flatten", [pooled], [result], {"axis": 1}, f"{n.name}:flatten", n.module))
