"""An einsum of two operands that sums over one axis is a matrix product: "bhid,bhjd->bhij" multiplies by a transposed matrix."""

from __future__ import annotations

from ..ir import Graph, Node, Tensor
from .util import fresh, insert_before, rank


def form_products(graph: Graph) -> None:
    for n in list(graph.nodes):
        if n.op != "Einsum" or len(n.inputs) != 2:
            continue
        swaps = _product(n.attrs["equation"].replace(" ", ""), [rank(graph, i) for i in n.inputs])
        if swaps is None or _repeats(*(graph.tensors[i].shape for i in n.inputs), *swaps):
            continue
        n.op, n.attrs = "MatMul", {}
        for k, swap in enumerate(swaps):
            if swap:
                n.inputs[k] = _swapped(graph, n, n.inputs[k])


def _product(equation: str, ranks: list[int | None]) -> tuple[bool, bool] | None:
    """Whether each operand's last two axes change places, for [..., i, k] by [..., k, j] to give the equation's result; None when it does
    not."""
    given, arrow, result = equation.partition("->")
    a, comma, b = given.partition(",")
    if not arrow or not comma or [len(a), len(b)] != ranks or len(result) != len(a) or len(a) != len(b) or len(a) < 2:
        return None
    batch = result[:-2]
    if not equation.replace(",", "").replace("->", "").isalpha() or a[:-2] != batch or b[:-2] != batch:
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
    graph.tensors[to] = Tensor(to, None if t.shape is None else tuple(t.shape[i] for i in perm), t.dtype, None)
    insert_before(graph, n, Node("Transpose", [name], [to], {"perm": perm}, f"{n.name}:transpose", n.module))
    return to
