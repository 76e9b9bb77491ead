"""Elementwise float arithmetic as expressions of the engine: which operators it covers, and chains of nodes as one expression.

An operator becomes operations on numbered values: inputs first, then results in order. A chain of nodes whose intermediate
values nobody else reads becomes one expression, so that a block of values stays in the cache from the first node to the last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .. import _core
from . import native_float as nat
from .grids import real
from .ir import Graph, Node, QParams, Tensor
from .native import Rounded
from .values import raw_values

if TYPE_CHECKING:
    from .executors import Result
    from .step import Native

_UNARY = ["Copy", "Neg", "Abs", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round", "Sign", "Relu", "Exp", "Sigmoid", "Tanh", "Erf", "Gelu",
          "Silu", "HardSigmoid", "HardSwish", "Not", "IsNaN", "RoundToGrid"]  # fmt: skip
_BINARY = ["Add", "Sub", "Mul", "Div", "Min", "Max", "PRelu", "Less", "LessOrEqual", "Equal", "And", "Or", "Xor"]
_RARE = ["Log", "Sin", "Cos", "Softplus", "Mish", "Expm1", "Pow", "Mod"]
_TRUTHS = {"Not", "IsNaN", "Less", "LessOrEqual", "Equal", "And", "Or", "Xor", "Greater", "GreaterOrEqual"}
_FOLDED = {"Sum": "Add", "Min": "Min", "Max": "Max"}
_SWAPPED = {"Greater": "Less", "GreaterOrEqual": "LessOrEqual"}
_FLOATS = (1, 10, 16)  # ONNX's float types, all held as float32

f32 = np.float32


class Unfit(Exception):
    """The operator, with these attributes or operands, has no expression."""


@dataclass
class Builder:
    """Values and operations of one expression."""

    count: int  # inputs
    operations: list = field(default_factory=list)
    parameters: list = field(default_factory=list)
    constants: list = field(default_factory=list)  # numbers that become inputs behind the others

    def emit(self, kind: int, code: int, *args, p=(0.0, 0.0, 0.0, 0.0)) -> tuple:
        """The new value: ("op", k), to be numbered when the inputs are all known."""
        self.operations.append((kind, code, *args))
        self.parameters.append(p)
        return ("op", len(self.operations) - 1)

    def unary(self, name: str, x):
        return self.emit(0, _UNARY.index(name), x)

    def binary(self, name: str, a, b):
        return self.emit(1, _BINARY.index(name), a, b)

    def rare(self, name: str, *args):
        return self.emit(3, _RARE.index(name), *args)

    def select(self, c, a, b):
        return self.emit(2, 0, c, a, b)

    def number(self, v: float):
        self.constants.append(f32(v))
        return ("const", len(self.constants) - 1)

    def round_to(self, x, qp: QParams):
        zero = qp.zero_point.item()
        inverse = f32(1) / f32(qp.scale.item())
        return self.emit(0, _UNARY.index("RoundToGrid"), x,
                         p=(float(inverse), float(qp.qmin - zero), float(qp.qmax - zero), float(f32(qp.scale.item()))))  # fmt: skip

    def numbered(self) -> list[tuple[int, int, int, int, int]]:
        rows = []
        for kind, code, *args in self.operations:
            at = [self.number_of(a) for a in args]
            rows.append((kind, code, *at, *[-1] * (3 - len(at))))
        return rows

    def number_of(self, v) -> int:
        kind, k = v
        return k if kind == "in" else self.count + k if kind == "const" else self.count + len(self.constants) + k


def covers(graph: Graph, n: Node) -> bool:
    """True when the engine can compute ``n`` as an expression of float32, byte and boolean tensors."""
    try:
        result(graph, n, Builder(len(n.inputs)), [("in", k) if i else None for k, i in enumerate(n.inputs)])
    except Unfit:
        return False
    return True


def result(graph: Graph, n: Node, b: Builder, args: list):
    """Emit ``n``; the value it gives. args: its inputs as values of ``b`` (None where omitted). Raises Unfit."""
    _check_types(graph, n)
    value = _emit(graph, n, b, [a for a in args] if n.op in ("Clip",) else [a for a in args if a is not None])
    if "lo" in n.attrs:
        value = b.binary("Max", value, b.number(n.attrs["lo"]))
    if "hi" in n.attrs:
        value = b.binary("Min", value, b.number(n.attrs["hi"]))
    qp = graph.tensors[n.outputs[0]].qparams
    if qp is not None and not qp.u8:
        if not qp.per_tensor or qp.bits > 16:
            raise Unfit
        value = b.round_to(value, qp)
    return value


def _check_types(graph: Graph, n: Node) -> None:
    if any(n.outputs[1:]):
        raise Unfit
    out = graph.tensors[n.outputs[0]]
    wanted = "bool" if n.op in _TRUTHS else "float32"
    if n.op == "Cast":
        if n.attrs.get("to") not in (*_FLOATS, 9):
            raise Unfit
        wanted = "bool" if n.attrs["to"] == 9 else "float32"
    if n.op == "CastLike" or out.dtype not in (wanted, "float16", "bfloat16"):
        raise Unfit
    for i in filter(None, n.inputs):
        t = graph.tensors[i]
        allowed = ("float32", "float16", "bfloat16", "bool") if n.op != "Cast" else ("float32", "bool", "int32", "int64")
        dtype = t.data.dtype.name if t.is_const and t.qparams is None else t.dtype
        if t.is_const and t.qparams is not None:
            continue
        if dtype not in allowed or (n.op == "Equal" and dtype == "bool"):
            raise Unfit
    if n.op == "Cast" and graph.tensors[n.inputs[0]].is_const:
        raise Unfit


def _emit(graph: Graph, n: Node, b: Builder, args: list):
    op, a = n.op, n.attrs
    if op in ("Identity", "Requantize", "Cast"):
        return b.unary("Copy", args[0])
    if op in _FOLDED:
        v = args[0]
        for x in args[1:]:
            v = b.binary(_FOLDED[op], v, x)
        return v if len(args) > 1 else b.unary("Copy", v)
    if op in _SWAPPED:
        return b.binary(_SWAPPED[op], args[1], args[0])
    if op in _BINARY:
        return b.binary(op, *args)
    if op == "Where":
        return b.select(*args)
    if op == "Clip":
        lo, hi = ((args[k] if len(args) > k else None) or _maybe(b, a.get(what)) for k, what in ((1, "min"), (2, "max")))
        v = b.unary("Copy", args[0]) if lo is None else b.binary("Max", args[0], lo)
        return v if hi is None else b.binary("Min", v, hi)
    if op == "Pow":
        return _pow(graph, n, b, args)
    if op == "Mod":
        if a.get("fmod"):
            raise Unfit
        return b.rare("Mod", *args)
    x = args[0]
    if op == "Gelu" and a.get("approximate", "none") == "tanh":
        cube = b.binary("Mul", b.binary("Mul", b.binary("Mul", x, x), x), b.number(0.044715))
        t = b.unary("Tanh", b.binary("Mul", b.binary("Add", x, cube), b.number(math.sqrt(2 / math.pi))))
        return b.binary("Mul", b.binary("Mul", x, b.number(0.5)), b.binary("Add", t, b.number(1.0)))
    if op == "HardSigmoid" and not (f32(a.get("alpha", 0.2)) == f32(1 / 6) and f32(a.get("beta", 0.5)) == f32(0.5)):
        y = b.binary("Add", b.binary("Mul", x, b.number(a.get("alpha", 0.2))), b.number(a.get("beta", 0.5)))
        return b.binary("Min", b.binary("Max", y, b.number(0.0)), b.number(1.0))
    if op == "LeakyRelu":
        return b.binary("PRelu", x, b.number(a.get("alpha", 0.01)))
    if op == "Swish":
        return b.binary("Mul", x, b.unary("Sigmoid", b.binary("Mul", x, b.number(a.get("alpha", 1.0)))))
    if op == "Softsign":
        return b.binary("Div", x, b.binary("Add", b.unary("Abs", x), b.number(1.0)))
    if op in ("Elu", "Selu", "Celu"):
        alpha = a.get("alpha", 1.6732632423543772 if op == "Selu" else 1.0)
        low = b.binary("Min", x, b.number(0.0))
        low = b.binary("Div", low, b.number(alpha)) if op == "Celu" else low
        y = b.binary("Add", b.unary("Relu", x), b.binary("Mul", b.rare("Expm1", low), b.number(alpha)))
        return b.binary("Mul", y, b.number(a.get("gamma", 1.0507009873554805))) if op == "Selu" else y
    if op == "ThresholdedRelu":
        return b.select(b.binary("Less", b.number(a.get("alpha", 1.0)), x), x, b.number(0.0))
    if op in _UNARY and op not in ("Copy", "Silu", "RoundToGrid"):
        return b.unary(op, x)
    if op in _RARE and op not in ("Pow", "Mod", "Expm1"):
        return b.rare(op, x)
    raise Unfit


def _maybe(b: Builder, v):
    return None if v is None else b.number(v)


def _pow(graph: Graph, n: Node, b: Builder, args: list):
    t = graph.tensors[n.inputs[1]]
    exponent = float(np.asarray(real(t)).reshape(())) if t.is_const and t.data.size == 1 else None
    x = args[0]
    if exponent == 2.0:
        return b.binary("Mul", x, x)
    if exponent == 0.5:
        return b.unary("Sqrt", x)
    if exponent == 1.0:
        return b.unary("Copy", x)
    if exponent == -1.0:
        return b.unary("Reciprocal", x)
    return b.rare("Pow", *args)


def rounding(qp: QParams) -> _core.Expression | None:
    """float32 rounded to a grid that is not held as bytes; None beyond 16 bits, where float32 rounds on the way."""
    if not qp.per_tensor or qp.bits > 16:
        return None
    b = Builder(1)
    y = b.round_to(("in", 0), qp)
    return _core.Expression([(1.0, 0)], b.numbered(), b.parameters, [b.number_of(y)], [(1.0, 0, 0, 255)])


def rounded(result: Result, form: Native) -> Native | None:
    """``form``, followed by the rounding of its result where that is on a grid not held as bytes; None where no native form rounds so."""
    if result.after is None:
        return form
    grid = rounding(result.after)
    return None if grid is None else Rounded(form, form.y, grid)


class Chain:
    """Nodes that become one expression; only the last one's result leaves it."""

    def __init__(self, graph: Graph, nodes: list[Node]):
        self.graph, self.nodes = graph, nodes
        self.inside = {m.outputs[0] for m in nodes[:-1]}
        self.inputs: list[str] = []
        for m in nodes:
            for i in filter(None, m.inputs):
                if i not in self.inside and i not in self.inputs:
                    self.inputs.append(i)

    def bind(self):
        """(run(env), which stores the last node's result; its native form)."""
        graph, out = self.graph, self.graph.tensors[self.nodes[-1].outputs[0]]
        b = Builder(len(self.inputs))
        values = {name: ("in", k) for k, name in enumerate(self.inputs)}
        for m in self.nodes:
            values[m.outputs[0]] = result(graph, m, b, [values[i] if i else None for i in m.inputs])
        held = [graph.tensors[i] for i in self.inputs]
        grids = [(1.0, 0) if t.is_const or t.qparams is None or not t.qparams.u8
                 else (t.qparams.scale.item(), t.qparams.zero_point.item()) for t in held]  # fmt: skip
        grids += [(1.0, 0)] * len(b.constants)
        to_bytes = out.qparams is not None and out.qparams.u8
        spec = (out.qparams.scale.item(), out.qparams.zero_point.item(), 0, out.qparams.qmax) if to_bytes else (1.0, 0, 0, 255)
        core = _core.Expression(grids, b.numbered(), b.parameters, [b.number_of(values[out.name])], [spec])
        given = [_constant(t) if t.is_const else t.name for t in held]
        reads = [_reader(graph, v) for v in given]
        numbers = tuple(np.full((), v, f32) for v in b.constants)
        run = _run(core, reads, numbers, out.name, np.uint8 if to_bytes else np.bool_ if out.dtype == "bool" else f32)
        return run, nat.Expression(core, (*given, *numbers), out.name)


def _constant(t: Tensor) -> np.ndarray:
    return np.ascontiguousarray(real(t), f32 if t.qparams is not None or t.data.dtype.kind == "f" else None).reshape(t.data.shape)


def _reader(graph: Graph, v: str | np.ndarray):
    return raw_values(graph, v) if isinstance(v, str) else lambda env: v


def _run(core, reads, fixed, y: str, dtype):
    def run(env):
        arrays = [read(env) for read in reads]
        shape = np.broadcast_shapes(*[a.shape for a in arrays])
        order = _order(arrays, shape)
        if order is None:
            out = np.empty(shape, dtype)
            core([*arrays, *fixed], [out])
            env[y] = out
            return
        moved = [a if a.ndim < 2 and a.size == 1 else _full(a, len(shape)).transpose(order) for a in arrays]
        out = np.empty([shape[k] for k in order], dtype)
        core([*moved, *fixed], [out])
        env[y] = out.transpose(np.argsort(order))

    return run


def _full(a: np.ndarray, ndim: int) -> np.ndarray:
    return a.reshape((1,) * (ndim - a.ndim) + a.shape) if a.ndim < ndim else a


def _order(arrays, shape) -> tuple[int, ...] | None:
    """Axes in the memory order of the first operand of full shape; None for the usual one."""
    for a in arrays:
        if a.shape == shape:
            if a.flags.c_contiguous:
                return None
            return tuple(sorted(range(a.ndim), key=lambda i: (-abs(a.strides[i]), i)))
    return None


def chains(graph: Graph, takes) -> dict[int, Chain]:
    """id(last node) -> Chain, for every elementwise node that ``takes(node)`` leaves to float expressions.

    A node joins the chain of its one reader when its own result has no encoding and the same static shape.
    """
    readers = graph.consumers()
    fit = [n for n in graph.nodes if takes(n) and covers(graph, n)]
    member = {id(n): n for n in fit}
    found: dict[int, list[Node]] = {}
    head: dict[int, int] = {}
    for n in reversed(fit):
        out = graph.tensors[n.outputs[0]]
        r = readers.get(out.name, [])
        reader = r[0] if len({id(m) for m in r}) == 1 else None
        joins = (
            reader is not None and id(reader) in member and out.name not in graph.outputs and out.qparams is None
            and out.dtype == "float32" and _same_shape(out, graph.tensors[reader.outputs[0]])
        )  # fmt: skip
        last = head[id(reader)] if joins else id(n)
        if len(found.get(last, ())) >= 24:
            last = id(n)
        head[id(n)] = last
        found.setdefault(last, []).append(n)
    position = {id(n): k for k, n in enumerate(graph.nodes)}
    return {last: Chain(graph, sorted(nodes, key=lambda n: position[id(n)])) for last, nodes in found.items()}


def _same_shape(a, b) -> bool:
    return a.shape is not None and a.shape == b.shape
