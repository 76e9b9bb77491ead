"""A positive factor between a uint8 tensor and products of two tensors goes into the grid: the bytes stay, the scale is multiplied.

The 1 / sqrt(d) of attention is such a factor. What it gives has no encoding of its own, so it was a float tensor, and a product that
reads it a float product. Only products may read it: they multiply by the scale once, where the model multiplied every element.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..grids import real
from ..ir import Graph, Node
from .grid import MOVES, data_inputs, propagate_grids
from .util import is_byte_grid


def absorb_factors(graph: Graph) -> None:
    readers, found = graph.consumers(), False
    for n in graph.nodes:
        factored = _factor(graph, n)
        if factored is None or not _feeds_products_only(graph, readers, n.outputs[0]):
            continue
        name, factor = factored
        qp = graph.tensors[name].qparams
        scale = np.float32(qp.scale.item() * factor)
        if not np.isfinite(scale) or scale < np.finfo(np.float32).tiny:
            continue
        graph.tensors[n.outputs[0]].qparams = replace(qp, scale=scale)
        n.attrs = {"table": np.arange(256, dtype=np.uint8), "function": n.op}
        n.op, n.inputs = "Lut", [name]
        found = True
    if found:
        propagate_grids(graph)


def _factor(graph: Graph, n: Node) -> tuple[str, float] | None:
    """(input, factor) of a product of a uint8 tensor and one positive number whose result is rounded to no grid."""
    if n.op not in ("Mul", "Div") or "lo" in n.attrs or "hi" in n.attrs or graph.tensors[n.outputs[0]].qparams is not None:
        return None
    a, b = (graph.tensors[i] for i in n.inputs)
    if n.op == "Mul" and a.is_const:
        a, b = b, a
    if a.is_const or not is_byte_grid(a.qparams) or not b.is_const or b.data.size != 1:
        return None
    if a.shape is None or b.data.ndim > len(a.shape):
        return None
    factor = float(real(b).reshape(()))
    return (a.name, factor if n.op == "Mul" else 1 / factor) if factor > 0 and np.isfinite(factor) else None


def _feeds_products_only(graph: Graph, readers: dict[str, list[Node]], name: str) -> bool:
    """Whether products alone read ``name`` and all that moves make of it."""
    left, seen = [name], {name}
    while left:
        at = left.pop()
        if at in graph.outputs:
            return False
        for r in readers.get(at, []):
            if r.op == "MatMul":
                continue
            if r.op not in MOVES or data_inputs(r) != [at]:
                return False
            moved = {o for o in r.outputs if o} - seen
            left += moved
            seen |= moved
    return True
