"""QuantizeLinear -> DequantizeLinear pairs become encodings on tensors.

``t -> Q -> DQ -> t'`` says: t' is t on a grid. When nobody else sees the unrounded t, t itself is put on the grid and t'
disappears. Otherwise (another reader of t, a second encoding on an already encoded tensor) the rounding stays as a node of its
own, ``Requantize``. Pairs whose two halves disagree, and lone halves, are left as they are and run as float operators.
"""

from __future__ import annotations

import numpy as np

from ...errors import QuantizationError
from ..grids import real
from ..guard import naming
from ..ir import Graph, Node, QParams
from .constants import GRID_BITS
from .util import rename_result, rewire


def fold_qdq(graph: Graph) -> None:
    for q in [n for n in graph.nodes if n.op == "QuantizeLinear"]:
        readers = graph.consumers()
        pairs = readers.get(q.outputs[0], [])
        if not pairs or q.outputs[0] in graph.outputs or any(r.op != "DequantizeLinear" for r in pairs):
            continue
        with naming(q):
            grid = _grid(graph, q)
            agree = grid is not None and all(grid.same(_grid(graph, r)) for r in pairs)
        if not agree:
            continue
        _fold(graph, q, pairs, grid, readers)


def _grid(graph: Graph, n: Node) -> QParams | None:
    scale = graph.tensors[n.inputs[1]]
    zero = graph.tensors[n.inputs[2]] if len(n.inputs) > 2 and n.inputs[2] else None
    if not scale.is_const or (zero is not None and not zero.is_const) or n.attrs.get("block_size"):
        return None
    dtype = zero.dtype if zero is not None else {3: "int8", 4: "uint16", 5: "int16"}.get(n.attrs.get("output_dtype", 0), "uint8")
    if dtype not in GRID_BITS:
        return None
    s = real(scale)
    z = np.zeros(s.shape, np.int32) if zero is None else zero.data.astype(np.int32)
    per_tensor = s.size == 1
    try:
        return QParams(
            s.reshape(()) if per_tensor else s, z.reshape(()) if per_tensor else z, GRID_BITS[dtype], not dtype.startswith("u"),
            None if per_tensor else n.attrs.get("axis", 1)
        )  # fmt: skip
    except QuantizationError as e:
        raise QuantizationError(f"the quantizer of tensor '{n.inputs[0]}' (node '{n.name}'): {e}") from None


def _fold(graph: Graph, q: Node, pairs: list[Node], grid: QParams, readers: dict[str, list[Node]]) -> None:
    source = q.inputs[0]
    t = graph.tensors[source]
    results = [r.outputs[0] for r in pairs]
    returned = [r for r in results if r in graph.outputs]
    alone = readers[source] == [q] and source not in graph.outputs and not (returned and source in graph.inputs)
    keep = returned[0] if returned else results[0]
    gone = {id(n) for n in pairs}
    if alone and t.qparams is None and not t.is_const:
        t.qparams = grid
        for r in results:
            rewire(graph, r, source)
        gone.add(id(q))
        graph.nodes = [n for n in graph.nodes if id(n) not in gone]
        if returned:
            rename_result(graph, source, keep)
    else:
        # The node takes the place of its Q, so the order stays topological.
        q.op, q.inputs, q.outputs, q.attrs = "Requantize", [source], [keep], {}
        graph.tensor(keep).qparams = grid
        graph.tensors[keep].shape = graph.tensors[keep].shape or t.shape
        for r in results:
            if r != keep:
                rewire(graph, r, keep)
        graph.nodes = [n for n in graph.nodes if id(n) not in gone]
    for r in returned[1:]:  # one value returned under two names
        graph.nodes.append(Node("Identity", [keep], [r], name=r))
        graph.tensor(r).qparams = grid
