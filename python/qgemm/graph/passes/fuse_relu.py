"""Relu and Clip behind Conv, Linear, BatchNormalization, Add or an average pool become the bounds ``lo``/``hi`` (real values) of that node.

Only where nothing is rounded in between: with an encoding on the intermediate tensor the model asks for two roundings (a
depthwise convolution followed by ReLU6 in AIMET), and the activation becomes a table instead.
Bounds commute with rounding to a grid: quantize(clip(y, lo, hi)) = clip(quantize(y), quantize(lo), quantize(hi)).
"""

from __future__ import annotations

import numpy as np

from ..grids import real
from ..ir import Graph, Node
from .util import only_reader, remove

_BOUNDED = {"Conv", "Linear", "Add", "AveragePool", "GlobalAveragePool", "BatchNormalization"}


def fuse_relu(graph: Graph) -> None:
    again = True
    while again:  # Relu behind Clip behind Conv: bounds intersect
        readers, gone = graph.consumers(), []
        for n in graph.nodes:
            if n.op not in _BOUNDED or graph.tensors[n.outputs[0]].qparams is not None:
                continue
            act = only_reader(graph, readers, n.outputs[0])
            bounds = None if act is None else _bounds(graph, act, n.outputs[0])
            if bounds is None:
                continue
            _narrow(n, *bounds)
            n.outputs = list(act.outputs)
            n.module = n.module or act.module
            gone.append(act)
            break
        remove(graph, gone)
        again = bool(gone)


def _bounds(graph: Graph, act: Node, source: str) -> tuple[float | None, float | None] | None:
    if act.op == "Relu":
        return 0.0, None
    if act.op != "Clip" or act.inputs[0] != source:
        return None
    found: list[float | None] = []
    for k, key in ((1, "min"), (2, "max")):
        if len(act.inputs) > k and act.inputs[k]:
            t = graph.tensors[act.inputs[k]]
            if not t.is_const or t.data.size != 1:
                return None
            found.append(float(np.float32(real(t).reshape(()))))
        else:
            found.append(act.attrs.get(key))
    lo, hi = found
    return None if lo is not None and hi is not None and lo > hi else (lo, hi)


def _narrow(n: Node, lo: float | None, hi: float | None) -> None:
    """clip(clip(y, a, b), lo, hi): the later bound wins where they cross."""
    a, b = n.attrs.get("lo"), n.attrs.get("hi")

    def clip(v):
        v = v if lo is None else max(v, lo)
        return v if hi is None else min(v, hi)

    n.attrs["lo"] = lo if a is None else clip(a)
    n.attrs["hi"] = hi if b is None else clip(b)
    n.attrs = {k: v for k, v in n.attrs.items() if not (k in ("lo", "hi") and v is None)}
