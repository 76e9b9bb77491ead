"""Free the batch axis of a model exported with a fixed one, when every node treats the samples independently.

Exporters without dynamic axes write the example's batch size into the input and into Reshape targets. Axis 0 is followed from the
inputs to the outputs; if any node on the way mixes samples, moves axis 0, or is not known to leave it alone, nothing changes.
"""

from __future__ import annotations

import numpy as np

from ..ir import Graph, Node
from .lut import BINARY, UNARY
from .util import fresh, rank

_PER_SAMPLE = UNARY | {"Lut", "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "BatchNormalization",
                       "InstanceNormalization", "GroupNormalization", "DepthToSpace", "SpaceToDepth", "Cast", "Identity"}  # fmt: skip


def free_batch(graph: Graph) -> None:
    shapes = [graph.tensors[i].shape for i in graph.inputs]
    if not shapes or any(not s or s[0] is None or s[0] != shapes[0][0] for s in shapes):
        return
    walk = _Walk(graph, shapes[0][0])
    if not all(walk.follow(n) for n in graph.nodes) or not all(o in walk.batched or graph.tensors[o].is_const for o in graph.outputs):
        return
    for node, target in walk.reshapes:
        name = fresh(graph, f"{node.inputs[1]}.batch")
        graph.tensors[name] = type(graph.tensors[node.inputs[1]])(name, target.shape, "int64", data=target)
        node.inputs[1] = name
    for name in walk.batched:
        t = graph.tensors[name]
        if t.shape:
            t.shape = (None, *t.shape[1:])


class _Walk:
    def __init__(self, graph: Graph, batch: int):
        self.graph, self.batch = graph, batch
        self.batched = set(graph.inputs)
        self.reshapes: list[tuple[Node, np.ndarray]] = []

    def follow(self, n: Node) -> bool:
        """True when axis 0 of every output is the batch; records them."""
        rule = getattr(self, f"_{n.op.lower()}", None)
        if n.op in BINARY or n.op in ("Concat", "MatMul"):
            ok = self._several(n)
        elif n.op in _PER_SAMPLE:
            ok = self._rest_const(n)
        else:
            ok = rule is not None and self._rest_const(n) and rule(n)
        if ok:
            self.batched.update(o for o in n.outputs if o)
        return ok

    def _rest_const(self, n: Node) -> bool:
        return n.inputs[0] in self.batched and all(self.graph.tensors[i].is_const for i in n.inputs[1:] if i)

    def _axis(self, n: Node, axis: int) -> bool:
        """``axis`` is another one than the batch's."""
        ndim = rank(self.graph, n.inputs[0])
        return ndim is not None and -ndim <= axis < ndim and axis % ndim != 0

    def _several(self, n: Node) -> bool:
        ndims = [rank(self.graph, i) for i in n.inputs if i in self.batched]
        if not ndims or None in ndims or len(set(ndims)) > 1 or ndims[0] < (3 if n.op == "MatMul" else 1):
            return False
        for i in n.inputs:
            t = self.graph.tensors[i]
            if i in self.batched:
                continue
            if not t.is_const or n.op == "Concat" or t.data.ndim > ndims[0] or (t.data.ndim == ndims[0] and t.data.shape[0] != 1):
                return False
        return n.op != "Concat" or self._axis(n, n.attrs["axis"])

    def _linear(self, n: Node) -> bool:
        return (rank(self.graph, n.inputs[0]) or 0) >= 2

    def _flatten(self, n: Node) -> bool:
        return n.attrs.get("axis", 1) >= 1

    def _softmax(self, n: Node) -> bool:
        return self._axis(n, n.attrs.get("axis", -1))

    _logsoftmax = _layernormalization = _rmsnormalization = _softmax

    def _transpose(self, n: Node) -> bool:
        return (n.attrs.get("perm") or [1])[0] == 0

    def _reshape(self, n: Node) -> bool:
        target = self.graph.tensors[n.inputs[1]].data.astype(np.int64)
        out = self.graph.tensors[n.outputs[0]].shape
        if n.attrs.get("allowzero", 0) or not target.size or not out or out[0] != self.batch:
            return False
        if target[0] == self.batch:  # 0: as many as the input has
            self.reshapes.append((n, np.concatenate([np.zeros(1, np.int64), target[1:]])))
        return target[0] in (0, -1, self.batch)

    def _axes_of(self, n: Node, position: int, key: str = "axes") -> list[int] | None:
        if len(n.inputs) > position and n.inputs[position]:
            return self.graph.tensors[n.inputs[position]].data.ravel().tolist()
        return n.attrs.get(key)

    def _reducemean(self, n: Node) -> bool:
        axes = self._axes_of(n, 1)
        return bool(axes) and all(self._axis(n, a) for a in axes)

    _reducesum = _reducemax = _reducemin = _reducemean

    def _squeeze(self, n: Node) -> bool:
        return self._reducemean(n)

    def _slice(self, n: Node) -> bool:
        axes = self._axes_of(n, 3)
        return bool(axes) and all(self._axis(n, a) for a in axes)

    def _gather(self, n: Node) -> bool:
        return self._axis(n, n.attrs.get("axis", 0))

    _split = _gather

    def _pad(self, n: Node) -> bool:
        pads = self._axes_of(n, 1, "pads")
        ndim = rank(self.graph, n.inputs[0])
        return len(n.inputs) < 4 and pads is not None and ndim is not None and len(pads) == 2 * ndim and not pads[0] and not pads[ndim]
