"""A mask that is added to the scores of attention goes into the softmax behind it, which adds it on the way.

Only where the model does not round the sum: there the softmax computes the same floats, and reads the scores as the bytes they are.
"""

from __future__ import annotations

from ..ir import Graph, Node, Tensor
from .util import is_byte_grid, only_reader, remove


def fuse_masks(graph: Graph) -> None:
    makers, readers, gone = graph.producers(), graph.consumers(), []
    for n in graph.nodes:
        if n.op != "Softmax" or len(n.inputs) != 1 or not _last_axis(graph, n):
            continue
        total = makers.get(n.inputs[0])
        if (
            total is None
            or total.op != "Add"
            or only_reader(graph, readers, n.inputs[0]) is not n
            or "lo" in total.attrs
            or "hi" in total.attrs
        ):
            continue
        sides = _sides(graph, total)
        if sides is not None:
            n.inputs = list(sides)
            gone.append(total)
    remove(graph, gone)


def _last_axis(graph: Graph, n: Node) -> bool:
    shape = graph.tensors[n.inputs[0]].shape
    return n.attrs.get("axis", -1) in (-1, len(shape or ()) - 1) and bool(shape)


def _sides(graph: Graph, total: Node) -> tuple[str, str] | None:
    """(scores, mask), the scores of the sum's own shape; bytes before floats."""
    out = graph.tensors[total.outputs[0]]
    if out.qparams is not None or out.dtype != "float32":
        return None
    a, b = (graph.tensors[i] for i in total.inputs)
    found = [(x, m) for x, m in ((a, b), (b, a)) if _scores(x, out) and _mask(m)]
    found.sort(key=lambda pair: not is_byte_grid(pair[0].qparams))
    return (found[0][0].name, found[0][1].name) if found else None


def _scores(t: Tensor, out: Tensor) -> bool:
    return not t.is_const and t.dtype == "float32" and t.shape == out.shape and (t.qparams is None or is_byte_grid(t.qparams))


def _mask(t: Tensor) -> bool:
    return t.qparams is None and (t.data.dtype.name if t.is_const else t.dtype) == "float32"
