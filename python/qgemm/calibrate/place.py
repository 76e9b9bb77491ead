"""Where quantizers go in a float graph: AIMET's default configuration, read off the graph instead of the modules.

- The model's inputs and the result of every operation carry one, asymmetric uint8 per tensor.
- In Conv + Relu, Conv + Clip, ConvTranspose + Relu, Linear + Relu and Add + Relu only the last result does. Depthwise and 3-d
  convolutions are no part of that: their own result is rounded as well.
- Operations that only move or select values carry none: their result lies on the grid of what they move.
- Inputs of a Concat share the quantizer of its result, and the input of a Relu that of the Relu, where the input has one.
- Multiplication or division by a positive constant number carries none: the grid is the input's, rescaled.
- Weights of Conv, ConvTranspose, Linear and PRelu are symmetric, per output channel; a table of embeddings is symmetric and a
  LayerNormalization's weight asymmetric, one scale each. Biases stay float.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..graph.grids import integer_type, quantize
from ..graph.ir import Graph, Node, QParams, Tensor
from ..graph.passes.util import fresh
from ..numerics import activation_encoding, weight_encoding

# Results keep the grid of the first input.
MOVES = {
    "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "GatherElements", "GatherND", "MaxPool",
    "GlobalMaxPool", "Pad", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "ReduceMax", "ReduceMin", "TopK", "Identity", "Dropout",
}  # fmt: skip
# Those among them through which a shared quantizer reaches the tensor behind them, as in AIMET: pure changes of shape and order.
_RESHAPES = {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"}
# Results are shapes, indices or conditions, or other numbers of the same value.
_PLAIN = {"Cast", "CastLike", "Shape", "Size", "Range", "ConstantOfShape", "ArgMax", "ArgMin", "NonZero", "Equal", "Greater",
          "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor", "Not", "IsNaN"}  # fmt: skip
# What stands for minus infinity is the least float32; and this far down what a softmax reads hides a place.
_MINUS_INFINITY, _HIDES = -1e30, -1e3
_SUPERGROUPS = {("Conv", "Relu"), ("Conv", "Clip"), ("ConvTranspose", "Relu"), ("Linear", "Relu"), ("Gemm", "Relu"), ("Add", "Relu")}
# operator -> axis of the output channels of its weight
_WEIGHTS = {"Conv": 0, "ConvTranspose": 1, "Linear": 0}


@dataclass
class Placement:
    """Which run-time tensors carry which quantizer.

    quantizer: tensor name -> name of its quantizer, the same one for tensors that share it. rescaled: (input, result, factor) of
    multiplications by a constant, in order of execution. masks: tensors that may hold infinities on purpose, and the number from which
    on downwards a value stands for one.
    """

    quantizer: dict[str, str] = field(default_factory=dict)
    rescaled: list[tuple[str, str, np.float32]] = field(default_factory=list)
    masks: dict[str, float] = field(default_factory=dict)


def is_float(t: Tensor) -> bool:
    return t.dtype in ("float32", "float16", "bfloat16")


def place(graph: Graph) -> Placement:
    p = Placement({i: i for i in graph.inputs if is_float(graph.tensors[i])})
    readers, makers = graph.consumers(), graph.producers()
    for n in graph.nodes:
        if n.op in _PLAIN or (n.op in MOVES and not (n.op == "Gather" and graph.tensors[n.inputs[0]].is_const)):
            continue
        if _in_supergroup(graph, n, readers):
            continue
        factor = _constant_factor(graph, n)
        if factor is not None and _on_grid(p, makers, factor[0]):
            p.rescaled.append((factor[0], n.outputs[0], factor[1]))
            continue
        for o in n.outputs:
            if o and is_float(graph.tensors[o]):
                p.quantizer[o] = o
        if n.op == "Where" or (n.op == "Add" and any(_infinite(graph.tensors[i]) for i in n.inputs)):
            p.masks.update(dict.fromkeys(n.outputs, _MINUS_INFINITY))
    for n in graph.nodes:
        if n.op == "Softmax":
            p.masks.update(dict.fromkeys(_masked(graph, p, makers, readers, n), _HIDES))
    for n in reversed(graph.nodes):
        if n.op in ("Concat", "Relu") and n.outputs[0] in p.quantizer:
            for i in n.inputs:
                _share(graph, p, makers, i, p.quantizer[n.outputs[0]])
    return p


def _in_supergroup(graph: Graph, n: Node, readers: dict[str, list[Node]]) -> bool:
    """True when the activation behind ``n`` is computed together with it."""
    after = readers.get(n.outputs[0], [])
    if len(after) != 1 or n.outputs[0] in graph.outputs or (n.op, after[0].op) not in _SUPERGROUPS:
        return False
    if n.op not in ("Conv", "ConvTranspose"):
        return True
    shape, groups = graph.tensors[n.inputs[1]].shape, n.attrs.get("group", 1)
    if shape is None or len(shape) > 4:
        return False
    return groups == 1 or (shape[1] != 1 if n.op == "Conv" else shape[0] != groups)


def _infinite(t: Tensor) -> bool:
    return t.is_const and t.data.dtype.kind == "f" and bool(np.isinf(t.data).any())


def _masked(graph: Graph, p: Placement, makers: dict[str, Node], readers: dict[str, list[Node]], softmax: Node) -> list[str]:
    """The sum that only ``softmax`` reads, and its terms: scores with a mask, whose hidden places no grid should be stretched to."""
    n = makers.get(softmax.inputs[0])
    if n is None or n.op != "Add" or len(readers[n.outputs[0]]) != 1 or n.outputs[0] in graph.outputs:
        return []
    names = [n.outputs[0]]
    for name in n.inputs:
        while name in makers and name not in p.quantizer and makers[name].op in MOVES:
            name = makers[name].inputs[0]
        names.append(name)
    return names


def _constant_factor(graph: Graph, n: Node) -> tuple[str, np.float32] | None:
    """(input, factor) of a multiplication or division by one positive number."""
    if n.op not in ("Mul", "Div"):
        return None
    a, b = (graph.tensors[i] for i in n.inputs)
    if n.op == "Mul" and a.is_const:
        a, b = b, a
    if a.is_const or not b.is_const or b.data.size != 1 or not is_float(b):
        return None
    c = np.float32(b.data.reshape(()))
    return (a.name, c if n.op == "Mul" else np.float32(1) / c) if np.isfinite(c) and c > 0 else None


def _on_grid(p: Placement, makers: dict[str, Node], name: str) -> bool:
    while name not in p.quantizer:
        n = makers.get(name)
        if n is None or n.op not in MOVES:
            return False
        name = n.inputs[0]
    return True


def _share(graph: Graph, p: Placement, makers: dict[str, Node], name: str, quantizer: str) -> None:
    """Give the tensor that ``name`` is, or is reshaped from, this quantizer if it has one of its own."""
    while name in makers and name not in p.quantizer and makers[name].op in _RESHAPES:
        name = makers[name].inputs[0]
    old = p.quantizer.get(name)
    if old is not None and not graph.tensors[name].is_const:
        for k, v in p.quantizer.items():
            if v == old:
                p.quantizer[k] = quantizer


# ---- constants ----------------------------------------------------------------------------------------------------------


def quantize_constants(graph: Graph, weight_bits: int, per_channel: bool) -> None:
    """Weights become integers of their own grid, from their own range. Raises QuantizationError on NaN or infinity."""
    for n in graph.nodes:
        if n.op in _WEIGHTS:
            _symmetric(graph, n, 1, weight_bits, _WEIGHTS[n.op] if per_channel else None)
        elif n.op == "PRelu":
            _symmetric(graph, n, 1, 8, 0 if per_channel else None)
        elif n.op == "Gather":
            _symmetric(graph, n, 0, 8, None)
        elif n.op == "LayerNormalization":
            _asymmetric(graph, n, 1)
        elif n.op == "Add":  # the integer addition takes two grids; a single number goes into a table instead
            for k in (0, 1):
                if graph.tensors[n.inputs[k]].data is not None and graph.tensors[n.inputs[k]].data.size > 1:
                    _asymmetric(graph, n, k)


def _float_constant(t: Tensor) -> bool:
    return t.is_const and t.qparams is None and t.data.dtype == np.float32


def _symmetric(graph: Graph, n: Node, k: int, bits: int, axis: int | None) -> None:
    t = graph.tensors[n.inputs[k]]
    if not _float_constant(t) or not t.data.size:
        return
    axis = None if t.data.ndim == 0 else axis
    scale, ints = weight_encoding(t.data, bits, axis)
    scale = scale.reshape(-1) if axis is not None else scale.reshape(())
    _replace(graph, n, k, QParams(scale, np.int32(0), bits, True, axis), ints)


def _asymmetric(graph: Graph, n: Node, k: int) -> None:
    t = graph.tensors[n.inputs[k]]
    if _float_constant(t) and t.data.size and np.isfinite(t.data).all():
        scale, zero = activation_encoding(float(t.data.min()), float(t.data.max()))
        qp = QParams(np.float32(scale), np.int32(zero))
        _replace(graph, n, k, qp, quantize(t.data, qp).astype(integer_type(qp)))


def _replace(graph: Graph, n: Node, k: int, qp: QParams, ints: np.ndarray) -> None:
    """In place where this node alone reads the constant; another reader keeps the float one."""
    name = n.inputs[k]
    if sum(m.inputs.count(name) for m in graph.nodes) > 1 or name in graph.outputs:
        name = fresh(graph, f"{name}.q")
        n.inputs[k] = name
    graph.tensors[name] = Tensor(name, ints.shape, qp.dtype, qp, ints)
