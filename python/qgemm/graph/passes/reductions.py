"""Reductions written out as those that the engine has: |x| and a sum, the least as the negated greatest of -x, log(sum(exp(x)))."""

from __future__ import annotations

import numpy as np

from ..ir import Graph, Node, Tensor
from .grid import moves_bytes
from .util import fresh, insert_before, named_axes, rank

_LARGEST = np.finfo(np.float32).max


def spell_reductions(graph: Graph) -> None:
    for n in list(graph.nodes):
        spell = _SPELLINGS.get(n.op)
        x = graph.tensors[n.inputs[0]] if spell else None
        if x is None or x.is_const or x.dtype != "float32" or (n.op == "ReduceMin" and moves_bytes(graph, n)):
            continue
        axes = _axes(graph, n)
        if axes:
            spell(_Writer(graph, n, axes), x.name)


def _axes(graph: Graph, n: Node) -> list[int] | None:
    """The axes of a reduction; None where they are computed, or how many there are is unknown."""
    axes, ndim = named_axes(graph, n), rank(graph, n.inputs[0])
    computed = axes is None and len(n.inputs) > 1 and n.inputs[1]
    if axes or computed or ndim is None or n.attrs.get("noop_with_empty_axes", 0):
        return axes or None
    return list(range(ndim))


class _Writer:
    """Nodes before ``n``, which becomes the last of them."""

    def __init__(self, graph: Graph, n: Node, axes: list[int]):
        self.graph, self.n, self.axes, self.keep = graph, n, axes, n.attrs.get("keepdims", 1)

    def add(self, op: str, *inputs: str, shape: tuple | None, **attrs) -> str:
        to = fresh(self.graph, f"{self.n.name}:{op}")
        self.graph.tensors[to] = Tensor(to, shape, "float32")
        insert_before(self.graph, self.n, Node(op, list(inputs), [to], attrs, to, self.n.module))
        return to

    def reduce(self, op: str, x: str, keep: int) -> str:
        return self.add(op, x, shape=self.reduced(self.graph.tensors[x].shape, keep), axes=self.axes, keepdims=keep)

    def reduced(self, shape: tuple | None, keep: int) -> tuple | None:
        if shape is None:
            return None
        gone = {a % len(shape) for a in self.axes}
        return tuple(1 if i in gone else d for i, d in enumerate(shape) if keep or i not in gone)

    def number(self, value: float) -> str:
        name = fresh(self.graph, f"{self.n.name}:number")
        self.graph.tensors[name] = Tensor(name, (), "float32", None, np.asarray(value, np.float32))
        return name

    def last(self, op: str, *inputs: str, **attrs) -> None:
        bounds = {k: v for k, v in self.n.attrs.items() if k in ("lo", "hi")}
        self.n.op, self.n.inputs, self.n.attrs = op, list(inputs), {**attrs, **bounds}


def _l1(w: _Writer, x: str) -> None:
    w.last("ReduceSum", w.add("Abs", x, shape=w.graph.tensors[x].shape), axes=w.axes, keepdims=w.keep)


def _least(w: _Writer, x: str) -> None:
    w.last("Neg", w.reduce("ReduceMax", w.add("Neg", x, shape=w.graph.tensors[x].shape), w.keep))


def _log_sum(w: _Writer, x: str) -> None:
    w.last("Log", w.reduce("ReduceSum", x, w.keep))


def _log_sum_exp(w: _Writer, x: str) -> None:
    """The greatest, bounded so that an infinite one does not take itself away, goes in front of the exponential and comes back behind."""
    shape = w.graph.tensors[x].shape
    greatest = w.reduce("ReduceMax", x, 1)
    bounded = w.add("Clip", greatest, w.number(-_LARGEST), w.number(_LARGEST), shape=w.graph.tensors[greatest].shape)
    total = w.reduce("ReduceSum", w.add("Exp", w.add("Sub", x, bounded, shape=shape), shape=shape), w.keep)
    if not w.keep:
        axes = fresh(w.graph, f"{w.n.name}:axes")
        w.graph.tensors[axes] = Tensor(axes, (len(w.axes),), "int64", None, np.asarray(w.axes, np.int64))
        bounded = w.add("Squeeze", bounded, axes, shape=w.graph.tensors[total].shape)
    w.last("Add", w.add("Log", total, shape=w.graph.tensors[total].shape), bounded)


_SPELLINGS = {"ReduceL1": _l1, "ReduceMin": _least, "ReduceLogSum": _log_sum, "ReduceLogSumExp": _log_sum_exp}
