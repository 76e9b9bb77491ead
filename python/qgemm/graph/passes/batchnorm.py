"""BatchNormalization behind Conv, ConvTranspose or Linear goes into their float weight and bias.

``gamma * (w*x + b - mean) / sqrt(var + eps) + beta`` is a layer with weight ``w * k`` and bias ``(b - mean) * k + beta``, where
``k = gamma / sqrt(var + eps)``, one value an output channel, all in float32. A frozen one arrives as a product with a constant and a sum
with another, one value a channel each, and goes the same way. Only where nothing is rounded in between and the weight is not yet on a
grid: a quantized weight keeps the numbers it was given.
"""

from __future__ import annotations

import numpy as np

from ..ir import Graph, Node, Tensor
from .util import fresh, only_reader, rank, remove

_LAYERS = {"Conv", "ConvTranspose", "Linear"}


def fold_batchnorm(graph: Graph) -> None:
    readers, gone = graph.consumers(), []
    makers = graph.producers()
    for bn in graph.nodes:
        if bn.op == "Mul":
            gone += _fold_frozen(graph, bn, makers, readers)
        if bn.op != "BatchNormalization" or bn.attrs.get("training_mode") or any(bn.outputs[1:]):
            continue
        layer = makers.get(bn.inputs[0])
        if layer is None or layer.op not in _LAYERS or only_reader(graph, readers, bn.inputs[0]) is not bn:
            continue
        if graph.tensors[bn.inputs[0]].qparams is None and _foldable(graph, layer, bn):
            _fold(graph, layer, bn)
            gone.append(bn)
            makers[bn.outputs[0]] = layer
    remove(graph, gone)


def _fold_frozen(graph: Graph, mul: Node, makers: dict[str, Node], readers: dict[str, list[Node]]) -> list[Node]:
    """Fold a product with a constant a channel into the layer before it, and the sum with one behind it. Returns what is gone."""
    layer, k = makers.get(mul.inputs[0]), _a_channel(graph, mul)
    if k is None or layer is None or layer.op not in ("Conv", "ConvTranspose"):
        return []
    if only_reader(graph, readers, mul.inputs[0]) is not mul or graph.tensors[mul.inputs[0]].qparams is not None:
        return []
    if not _foldable(graph, layer, mul):
        return []
    last, shift, zero = mul, None, np.zeros_like(k)
    add = only_reader(graph, readers, mul.outputs[0])
    if add is not None and add.op == "Add" and add.inputs[0] == mul.outputs[0] and graph.tensors[mul.outputs[0]].qparams is None:
        shift = _a_channel(graph, add)
        last = mul if shift is None else add
    _scale(graph, layer, k, zero, zero if shift is None else shift)
    layer.outputs = list(last.outputs)
    makers[last.outputs[0]] = layer
    return [mul] if last is mul else [mul, add]


def _a_channel(graph: Graph, n: Node) -> np.ndarray | None:
    """The float constant of a product or sum with an image, if it is one value a channel, [C] of them."""
    x, c = (graph.tensors[i] for i in n.inputs)
    if x.shape is None or len(x.shape) < 3 or not _plain(c) or c.data.ndim > len(x.shape):
        return None
    spread = (1,) * (len(x.shape) - c.data.ndim) + c.data.shape
    return c.data.reshape(-1) if c.data.size == spread[1] == x.shape[1] else None


def _foldable(graph: Graph, layer: Node, bn: Node) -> bool:
    if layer.op == "Linear" and rank(graph, layer.outputs[0]) != 2:  # BatchNormalization counts channels on axis 1
        return False
    floats = [graph.tensors[i] for i in (*layer.inputs[1:], *bn.inputs[1:]) if i]
    return "lo" not in layer.attrs and "hi" not in layer.attrs and all(_plain(t) for t in floats)


def _plain(t: Tensor) -> bool:
    return t.is_const and t.qparams is None and t.data.dtype == np.float32


def _fold(graph: Graph, layer: Node, bn: Node) -> None:
    gamma, beta, mean, var = (graph.tensors[i].data for i in bn.inputs[1:5])
    _scale(graph, layer, gamma / np.sqrt(var + np.float32(bn.attrs.get("epsilon", 1e-5))), mean, beta)
    layer.outputs = list(bn.outputs)


def _scale(graph: Graph, layer: Node, k: np.ndarray, mean: np.ndarray, beta: np.ndarray) -> None:
    """(y - mean) * k + beta, a channel, becomes the layer's own result."""
    w = graph.tensors[layer.inputs[1]].data
    if layer.op == "ConvTranspose":  # [C_in, C_out / groups, ...]
        groups = layer.attrs.get("group", 1)
        per = w.reshape(groups, w.shape[0] // groups, w.shape[1], -1) * k.reshape(groups, 1, -1, 1)
        folded = per.reshape(w.shape)
    else:
        folded = w * k.reshape(-1, *[1] * (w.ndim - 1))
    has_bias = len(layer.inputs) > 2 and layer.inputs[2]
    bias = (graph.tensors[layer.inputs[2]].data if has_bias else np.float32(0)) - mean
    layer.inputs = [
        layer.inputs[0],
        _store(graph, layer.inputs[1], folded),
        _store(graph, layer.inputs[2] if has_bias else f"{layer.inputs[1]}.bias", bias * k + beta),
    ]


def _store(graph: Graph, name: str, data: np.ndarray) -> str:
    """Under its old name when this layer alone reads it, so that people find the weight they know."""
    if name not in graph.tensors or sum(name in n.inputs for n in graph.nodes) > 1:
        name = fresh(graph, name)
    data = np.ascontiguousarray(data, np.float32)
    graph.tensors[name] = Tensor(name, data.shape, "float32", None, data)
    return name
