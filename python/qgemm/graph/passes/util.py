"""Small moves on a graph that several passes make."""

from __future__ import annotations

from ..grids import real
from ..ir import Graph, Node, QParams, Tensor


def rewire(graph: Graph, old: str, new: str) -> None:
    """Every reader of ``old`` reads ``new``."""
    for n in graph.nodes:
        if old in n.inputs:
            n.inputs = [new if i == old else i for i in n.inputs]


def rename_result(graph: Graph, old: str, new: str) -> None:
    """The value called ``old`` is called ``new`` from its producer on; the encoding and shape of ``old`` move along."""
    for n in graph.nodes:
        if old in n.outputs:
            n.outputs = [new if o == old else o for o in n.outputs]
    rewire(graph, old, new)
    t = graph.tensors.pop(old)
    graph.tensors[new] = Tensor(new, t.shape, t.dtype, t.qparams, t.data)


def only_reader(graph: Graph, readers: dict[str, list[Node]], name: str) -> Node | None:
    """The one node that reads ``name``, None when there are several, none, or the graph itself returns it."""
    r = readers.get(name, [])
    return r[0] if len(r) == 1 and name not in graph.outputs else None


def fresh(graph: Graph, name: str) -> str:
    """``name``, or ``name.2`` ... when it is taken."""
    if name not in graph.tensors:
        return name
    k = 2
    while f"{name}.{k}" in graph.tensors:
        k += 1
    return f"{name}.{k}"


def insert_before(graph: Graph, node: Node, new: Node) -> None:
    graph.nodes.insert(next(i for i, n in enumerate(graph.nodes) if n is node), new)


def insert_after(graph: Graph, node: Node, new: Node) -> None:
    graph.nodes.insert(next(i for i, n in enumerate(graph.nodes) if n is node) + 1, new)


def remove(graph: Graph, nodes: list[Node]) -> None:
    gone = {id(n) for n in nodes}
    graph.nodes = [n for n in graph.nodes if id(n) not in gone]


def is_byte_grid(qp: QParams | None) -> bool:
    """A grid whose run-time values are uint8 arrays."""
    return qp is not None and qp.u8


def named_axes(graph: Graph, n: Node) -> list[int] | None:
    """The axes that a reduction names, as a constant input or an attribute; None where it names none, or they are computed."""
    if len(n.inputs) > 1 and n.inputs[1]:
        t = graph.tensors[n.inputs[1]]
        return [int(a) for a in real(t).ravel()] if t.is_const else None
    axes = n.attrs.get("axes")
    return None if axes is None else list(axes)


def rank(graph: Graph, name: str) -> int | None:
    t = graph.tensors.get(name)
    return None if t is None or t.shape is None else len(t.shape)
