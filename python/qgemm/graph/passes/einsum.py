"""An einsum of two operands that sums over one axis is a matrix product: "bhid,bhjd->bhij" multiplies by a transposed matrix.

So is one by a matrix that all batches share, "bsi,oi->bso": a layer, where the matrix is a constant.
"""

from __future__ import annotations

import numpy as np

from ..ir import Graph, Node, Tensor
from .constants import transposed
from .util import fresh, insert_before, rank


def form_products(graph: Graph) -> None:
    for n in list(graph.nodes):
        if n.op != "Einsum" or len(n.inputs) != 2:
            continue
        given, _, result = n.attrs["equation"].replace(" ", "").partition("->")
        terms, inputs = given.split(","), list(n.inputs)
        swaps = _product(*terms, result, [rank(graph, i) for i in inputs]) if len(terms) == 2 else None
        if swaps is None and len(terms) == 2:  # "oi,bi->bo": the second operand has the result's rows
            inputs.reverse()
            swaps = _product(*reversed(terms), result, [rank(graph, i) for i in inputs])
        if swaps is None or _repeats(*(graph.tensors[i].shape for i in inputs), *swaps):
            continue
        n.op, n.attrs, n.inputs = "MatMul", {}, inputs
        for k, swap in enumerate(swaps):
            if swap:
                n.inputs[k] = _swapped(graph, n, n.inputs[k])


def _product(a: str, b: str, result: str, ranks: list[int | None]) -> tuple[bool, bool] | None:
    """Whether each operand's last two axes change places, for [..., i, k] by [..., k, j] or [k, j] to give ``result``; None when it does
    not."""
    if [len(a), len(b)] != ranks or len(result) != len(a) or len(a) < 2 or len(b) < 2:
        return None
    batch = result[:-2]
    if not (a + b + result).isalpha() or a[:-2] != batch or b[:-2] not in (batch, ""):
        return None
    if any(len(set(s)) != len(s) for s in (a, b, result)):
        return None
    i, j = result[-2:]
    summed = set(a[-2:]) & set(b[-2:])
    if i not in a[-2:] or j not in b[-2:] or len(summed) != 1 or summed & {i, j}:
        return None
    return a[-2] != i, b[-1] != j


def _repeats(a: tuple | None, b: tuple | None, a_swapped: bool, b_swapped: bool) -> bool:
    """True when one operand has a single element along the summed axis for the several of the other, which an einsum repeats."""
    if a is None or b is None:
        return False
    sizes = {a[-2 if a_swapped else -1], b[-1 if b_swapped else -2]}
    return 1 in sizes and len(sizes) > 1


def _swapped(graph: Graph, n: Node, name: str) -> str:
    t = graph.tensors[name]
    ndim = rank(graph, name)
    perm = [*range(ndim - 2), ndim - 1, ndim - 2]
    to = fresh(graph, f"{name}:transposed")
    if t.is_const:
        qp = None if t.qparams is None else transposed(t.qparams, perm)
        graph.tensors[to] = Tensor(to, tuple(t.data.shape[i] for i in perm), t.dtype, qp, np.ascontiguousarray(t.data.transpose(perm)))
        return to
    graph.tensors[to] = Tensor(to, None if t.shape is None else tuple(t.shape[i] for i in perm), t.dtype, None)
    insert_before(graph, n, Node("Transpose", [name], [to], {"perm": perm}, f"{n.name}:transpose", n.module))
    return to
