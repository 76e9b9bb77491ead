"""A channel shuffle, written as two reshapes around a transposition, is one choice of channels.

ShuffleNet splits [B, C, H, W] into [B, g, C / g, H, W], exchanges the two channel axes and joins them again. As a Gather the channels
of a pixel stay side by side in memory, where convolutions want them.
"""

from __future__ import annotations

import numpy as np

from ..ir import Graph, Tensor
from .util import fresh, only_reader, remove


def form_shuffles(graph: Graph) -> None:
    readers, gone = graph.consumers(), []
    for n in graph.nodes:
        swap = only_reader(graph, readers, n.outputs[0]) if n.op == "Reshape" else None
        if swap is None or swap.op != "Transpose" or swap.attrs.get("perm") != [0, 2, 1, 3, 4]:
            continue
        joined = only_reader(graph, readers, swap.outputs[0])
        if joined is None or joined.op != "Reshape" or joined.inputs[0] != swap.outputs[0]:
            continue
        x, split, last = (graph.tensors[name] for name in (n.inputs[0], n.outputs[0], joined.outputs[0]))
        if not _shuffles(x, split, last) or not _on_one_grid(graph, x, n.outputs[0], swap.outputs[0], last.name):
            continue
        groups, each = split.shape[1:3]
        index = fresh(graph, f"{last.name}:channels")
        order = np.arange(groups * each).reshape(groups, each).T.reshape(-1)
        graph.tensors[index] = Tensor(index, order.shape, "int64", None, order.astype(np.int64))
        joined.op, joined.inputs, joined.attrs = "Gather", [x.name, index], {"axis": 1}
        gone += [n, swap]
    remove(graph, gone)


def _shuffles(x: Tensor, split: Tensor, last: Tensor) -> bool:
    shapes = [t.shape for t in (x, split, last)]
    if any(s is None or None in s[1:] for s in shapes) or [len(s) for s in shapes] != [4, 5, 4]:
        return False
    return shapes[0] == shapes[2] and shapes[1][1] * shapes[1][2] == shapes[0][1] and shapes[1][3:] == shapes[0][2:]


def _on_one_grid(graph: Graph, x: Tensor, *names: str) -> bool:
    grids = [graph.tensors[name].qparams for name in names]
    return all(g is None for g in grids) if x.qparams is None else all(x.qparams.same(g) for g in grids)
