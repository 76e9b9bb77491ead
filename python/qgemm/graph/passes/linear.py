"""Gemm and MatMul(+Add) with a constant weight become ``Linear(x, w[N, K], b[N])`` over any leading dimensions."""

from __future__ import annotations

import numpy as np

from ..grids import real
from ..ir import Graph, Node, Tensor
from .constants import transposed
from .util import fresh, only_reader, rank, remove


def form_linear(graph: Graph) -> None:
    for n in list(graph.nodes):
        if n.op == "Gemm":
            _gemm(graph, n)
        elif n.op == "MatMul":
            _matmul(graph, n)
    _fold_bias(graph)


def _weight(graph: Graph, name: str, transpose: bool) -> str | None:
    """The name of a constant [N, K] weight made from ``name``; None when it is not a constant matrix."""
    t = graph.tensors[name]
    if not t.is_const or t.data.ndim != 2:
        return None
    if not transpose:
        return name
    made = f"{name}.T"
    if made not in graph.tensors:
        qp = None if t.qparams is None else transposed(t.qparams, (1, 0))
        data = np.ascontiguousarray(t.data.T)
        graph.tensors[made] = Tensor(made, data.shape, t.dtype, qp, data)
    return made


def _gemm(graph: Graph, n: Node) -> None:
    bias = n.inputs[2] if len(n.inputs) > 2 else ""
    if n.attrs.get("alpha", 1.0) != 1.0 or n.attrs.get("transA", 0) or (bias and n.attrs.get("beta", 1.0) != 1.0):
        return
    if bias and not graph.tensors[bias].is_const:
        return
    w = _weight(graph, n.inputs[1], transpose=not n.attrs.get("transB", 0))
    if w is None:
        return
    b = _bias(graph, bias, graph.tensors[w].data.shape[0]) if bias else ""
    if b is None:
        return
    n.op, n.inputs, n.attrs = "Linear", [n.inputs[0], w, *([b] if b else [])], {}


def _bias(graph: Graph, name: str, n_out: int) -> str | None:
    """A constant that is one value a column, as a 1-D tensor of n_out elements; None when it is something else."""
    t = graph.tensors[name]
    if not t.is_const or t.data.dtype.kind not in "fiu":
        return None
    if t.data.shape == (n_out,):
        return name
    if t.data.size not in (1, n_out) or any(d != 1 for d in t.data.shape[:-1]) or (t.qparams is not None and not t.qparams.per_tensor):
        return None
    data = np.broadcast_to(real(t).reshape(-1), (n_out,)).astype(np.float32)
    made = fresh(graph, f"{name}.row")
    graph.tensors[made] = Tensor(made, data.shape, "float32", None, data)
    return made


def _matmul(graph: Graph, n: Node) -> None:
    w = _weight(graph, n.inputs[1], transpose=True)
    if w is not None and not graph.tensors[n.inputs[0]].is_const:
        n.op, n.inputs, n.attrs = "Linear", [n.inputs[0], w], {}


def _fold_bias(graph: Graph) -> None:
    readers, gone = graph.consumers(), []
    for n in graph.nodes:
        if n.op != "Linear" or len(n.inputs) > 2 or graph.tensors[n.outputs[0]].qparams is not None:
            continue
        add = only_reader(graph, readers, n.outputs[0])
        if add is None or add.op != "Add" or add.inputs[0] == add.inputs[1]:
            continue
        other = add.inputs[1] if add.inputs[0] == n.outputs[0] else add.inputs[0]
        t = graph.tensors[other]
        if not t.is_const or t.data.ndim > (rank(graph, n.outputs[0]) or 2):
            continue
        b = _bias(graph, other, graph.tensors[n.inputs[1]].data.shape[0])
        if b is None:
            continue
        n.inputs.append(b)
        n.outputs = list(add.outputs)
        gone.append(add)
    remove(graph, gone)
