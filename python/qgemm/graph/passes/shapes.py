"""Numbers that follow from known dimensions become constants, although the tensor's first dimension is open.

Exporters compute a reshape's target, or the 1 / sqrt(d) of attention, from the shape of a tensor at run time. Vectors of sizes are
followed entry by entry, an unknown size being None, and what turns out to be known is stored. Axis 0 always counts as unknown: a model
exported with a fixed batch may be called with any (free_batch).
"""

from __future__ import annotations

import numpy as np

from ..floatops import OPS
from ..guard import naming
from ..ir import Graph, Node
from .constants import store
from .growth import elements
from .util import remove

# They rearrange sizes and do not look at them.
_MOVES = {"Gather", "Slice", "Unsqueeze", "Squeeze", "Concat", "Identity"}
_ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Sqrt", "Reciprocal", "Neg", "Pow", "Min", "Max", "Cast"}
_MOST = 64  # entries of a vector that is followed


def fold_shapes(graph: Graph) -> None:
    sizes: dict[str, np.ndarray] = {}  # with None for what is not known
    done = []
    for n in graph.nodes:
        with naming(n):
            value = _value(graph, sizes, n)
            if n.op in ("Reshape", "Transpose"):
                _refine(graph, sizes, n)
        if value is None or value.size > _MOST:
            continue
        if value.dtype == object and all(v is not None for v in value.ravel()):
            value = value.astype(np.int64)
        if value.dtype == object:
            sizes[n.outputs[0]] = value
        else:
            store(graph, n.outputs[0], value, value.dtype.name)
            done.append(n)
    remove(graph, done)


def _value(graph: Graph, sizes: dict[str, np.ndarray], n: Node) -> np.ndarray | None:
    if n.op == "Shape":
        shape = graph.tensors[n.inputs[0]].shape
        if shape is None:
            return None
        known = np.array([None, *shape[1:]][: len(shape)], object)
        return known[n.attrs.get("start", 0) : n.attrs.get("end")]
    if n.op not in _MOVES and n.op not in _ARITHMETIC or any(n.outputs[1:]):
        return None
    args = [_argument(graph, sizes, i) for i in n.inputs]
    if any(a is None for a, i in zip(args, n.inputs, strict=True) if i):
        return None
    partly = any(i in sizes for i in n.inputs)
    if not all(a.dtype.kind in "ifO" for a in args if a is not None):
        return None
    if partly and (n.op not in _MOVES or not all(_may_be_open(sizes, n, k) for k in range(len(args)))):
        return None
    if elements(n, args) > _MOST**2:  # Min and Max broadcast any number of vectors
        return None
    return np.asarray(OPS[n.op](n.attrs)(*args), object if partly else None)


def _argument(graph: Graph, sizes: dict[str, np.ndarray], name: str) -> np.ndarray | None:
    t = graph.tensors[name] if name else None
    if t is None or name in sizes:
        return sizes.get(name)
    return t.data if t.is_const and t.qparams is None and t.data.size <= _MOST else None


def _may_be_open(sizes: dict[str, np.ndarray], n: Node, k: int) -> bool:
    """Whether input ``k`` of a move may have unknown entries: data may, places and axes may not."""
    return n.op == "Concat" or k == 0 or n.inputs[k] not in sizes


def _refine(graph: Graph, sizes: dict[str, np.ndarray], n: Node) -> None:
    """Dimensions of a result that the followed sizes tell."""
    x, y = graph.tensors[n.inputs[0]], graph.tensors[n.outputs[0]]
    if n.op == "Transpose":
        perm = n.attrs.get("perm") or list(range(len(x.shape or ())))[::-1]
        found = None if x.shape is None or len(perm) != len(x.shape) else [x.shape[i] for i in perm]
    else:
        target = _argument(graph, sizes, n.inputs[1])
        found = None if target is None or target.ndim != 1 else [d if d is not None and d > 0 else None for d in target.tolist()]
    if found is None or (y.shape is not None and len(y.shape) != len(found)):
        return
    y.shape = tuple(a if a is not None else b for a, b in zip(y.shape or [None] * len(found), found, strict=True))
