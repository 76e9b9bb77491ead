"""Let bytes move: operations that only rearrange or select values stay on the grid of what they move.

Rounding to a grid commutes with moving elements, and with a maximum, since rounding is monotone. So an encoding may travel
forwards (the result of a reshape lies on its input's grid) and backwards (reshape then round = round then reshape), which lets
the layer in front write uint8 directly. Where both sides carry different encodings the change of grid becomes a Requantize.
"""

from __future__ import annotations

import numpy as np

from ..grids import fake_quantize, real
from ..ir import Graph, Node, Tensor
from .util import fresh, insert_after, insert_before

# operator -> how many leading inputs are data (None: all of them)
MOVES: dict[str, int | None] = {
    "Reshape": 1, "Flatten": 1, "Transpose": 1, "Squeeze": 1, "Unsqueeze": 1, "Slice": 1, "Split": 1, "Gather": 1, "MaxPool": 1,
    "Pad": 1, "Concat": None, "Expand": 1, "Tile": 1, "DepthToSpace": 1, "SpaceToDepth": 1, "GlobalMaxPool": 1, "Identity": 1,
    "GatherElements": 1, "GatherND": 1, "ReduceMax": 1, "ReduceMin": 1, "Resize": 1,
}  # fmt: skip


def data_inputs(n: Node) -> list[str]:
    count = MOVES[n.op]
    return [i for i in (n.inputs if count is None else n.inputs[:count]) if i]


def propagate_grids(graph: Graph) -> None:
    changed = True
    while changed:
        changed = False
        for n in graph.nodes:
            changed |= _forward(graph, n)
        readers = graph.consumers()
        for n in reversed(graph.nodes):
            changed |= _backward(graph, n, readers)
    for n in list(graph.nodes):
        if _moves(graph, n):
            _settle(graph, n)


def moves_bytes(graph: Graph, n: Node) -> bool:
    """True when every output of ``n`` and every data input (constants aside, they can be rounded once) lies on one grid."""
    if not _moves(graph, n):
        return False
    grids = [graph.tensors[o].qparams for o in n.outputs if o]
    grid = grids[0]
    if grid is None or not grid.u8 or not all(grid.same(g) for g in grids) or not _pad_fits(graph, n, grid):
        return False
    return all(graph.tensors[i].is_const or grid.same(graph.tensors[i].qparams) for i in data_inputs(n))


def _moves(graph: Graph, n: Node) -> bool:
    if n.op not in MOVES:
        return False
    if n.op == "Resize":
        return n.attrs.get("mode", "nearest") == "nearest"
    if n.op == "MaxPool":
        return not any(n.outputs[1:])
    return n.op != "Pad" or n.attrs.get("mode", "constant") != "constant" or pad_value(graph, n) is not None


def pad_value(graph: Graph, n: Node) -> float | None:
    """The constant a Pad writes, None when it is not known before run time."""
    if len(n.inputs) < 3 or not n.inputs[2]:
        return float(n.attrs.get("value", 0.0))
    t = graph.tensors[n.inputs[2]]
    return float(real(t).reshape(())) if t.is_const else None


def _pad_fits(graph: Graph, n: Node, qp) -> bool:
    if n.op != "Pad" or n.attrs.get("mode", "constant") != "constant":
        return True
    v = np.float32(pad_value(graph, n))
    return bool(fake_quantize(np.asarray(v), qp) == v)


def _forward(graph: Graph, n: Node) -> bool:
    if not _moves(graph, n):
        return False
    grids = [_carried(graph, i) for i in data_inputs(n)]
    known = next((g for g in grids if g is not None), None)
    if known is None or not known.per_tensor or not _pad_fits(graph, n, known):
        return False
    for i, g in zip(data_inputs(n), grids, strict=True):
        if not known.same(g) and not (g is None and _exact_const(graph.tensors[i], known)):
            return False
    changed = False
    for o in n.outputs:
        if o and graph.tensors[o].qparams is None:
            graph.tensors[o].qparams = known
            changed = True
    return changed


def _carried(graph: Graph, name: str):
    """The unsigned grid of an activation; a constant has none of its own to impose."""
    t = graph.tensors[name]
    return None if t.is_const else t.qparams


def _exact_const(t: Tensor, qp) -> bool:
    """A constant (a class token, zeros) whose values all lie on the grid."""
    if not t.is_const or t.data.dtype.kind not in "fiu":
        return False
    v = real(t).astype(np.float32)
    return bool(np.array_equal(fake_quantize(v, qp), v))


def _backward(graph: Graph, n: Node, readers) -> bool:
    """Only into values that this node alone reads: another reader would see rounded values the model did not ask for."""
    if not _moves(graph, n):
        return False
    grids = [graph.tensors[o].qparams for o in n.outputs if o]
    grid = grids[0]
    if grid is None or not grid.per_tensor or not all(grid.same(g) for g in grids) or not _pad_fits(graph, n, grid):
        return False
    changed = False
    for i in data_inputs(n):
        t = graph.tensors[i]
        if t.qparams is None and not t.is_const and t.dtype == "float32" and i not in graph.outputs and i not in graph.inputs:
            if all(r is n for r in readers[i]):
                t.qparams = grid
                changed = True
    return changed


def _settle(graph: Graph, n: Node) -> None:
    """Give inputs and outputs of one move one grid, with explicit Requantize nodes where the model changes grids there."""
    outs = [o for o in n.outputs if o]
    grids = [graph.tensors[o].qparams for o in outs]
    ins = data_inputs(n)
    if grids[0] is None or not grids[0].per_tensor or all(graph.tensors[i].is_const for i in ins):
        return
    if len(ins) == 1:
        source = graph.tensors[ins[0]].qparams
        if source is None or not source.per_tensor or not _pad_fits(graph, n, source):
            return
        for k, (o, g) in enumerate(zip(n.outputs, grids, strict=False)):
            if o and not source.same(g):
                moved = fresh(graph, f"{o}:moved")
                graph.tensors[moved] = Tensor(moved, graph.tensors[o].shape, "float32", source)
                n.outputs[k] = moved
                insert_after(graph, n, Node("Requantize", [moved], [o], name=f"{n.name}:requantize", module=n.module))
        return
    if not all(grids[0].same(g) for g in grids):
        return
    for k, i in enumerate(n.inputs):
        if i in ins and not grids[0].same(graph.tensors[i].qparams) and not graph.tensors[i].is_const:
            put = fresh(graph, f"{i}:{n.name}")
            graph.tensors[put] = Tensor(put, graph.tensors[i].shape, "float32", grids[0])
            n.inputs[k] = put
            insert_before(graph, n, Node("Requantize", [i], [put], name=f"{n.name}:input{k}", module=n.module))
