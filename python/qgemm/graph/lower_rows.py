"""Lowering of operations on rows: which of them the engine computes, and from what."""

from __future__ import annotations

import numpy as np

from . import expressions, rowops
from . import native as nat
from .grids import real
from .ir import Node
from .step import Step
from .values import raw_values, reader


class RowLowering:
    """Methods of Lowering, by operator name."""

    def _softmax(self, n: Node) -> Step | None:
        source = self._rows(n)
        if source is None:
            return None
        read, grid, scheme = source
        axis, result = n.attrs.get("axis", -1), self._result(n)
        mask = n.inputs[1] if len(n.inputs) > 1 else None
        added = None if mask is None else reader(self.graph, mask)
        run = rowops.softmax(read, n.outputs[0], axis, grid, result, n.module or n.name, added)
        if mask is not None and self.graph.tensors[mask].is_const:
            mask = np.ascontiguousarray(real(self.graph.tensors[mask])).reshape(self.graph.tensors[mask].data.shape)
        form = expressions.rounded(result, nat.Softmax(n.inputs[0], n.outputs[0], axis, grid, result, mask))
        return self._step(n, "softmax", scheme, run, self._why(n) if scheme == "float" else "", native=form)

    def _layernormalization(self, n: Node) -> Step | None:
        return self._norm(n, center=True)

    def _rmsnormalization(self, n: Node) -> Step | None:
        return self._norm(n, center=False)

    def _norm(self, n: Node, center: bool) -> Step | None:
        source = self._rows(n)
        if source is None or any(n.outputs[1:]):
            return None
        read, grid, scheme = source
        gamma, beta = (self._parameter(n, k) for k in (1, 2))
        axis, epsilon = n.attrs.get("axis", -1), float(n.attrs.get("epsilon", 1e-5))
        result, form = self._result(n), None
        run = rowops.norm(read, n.outputs[0], gamma, beta, axis, epsilon, center, grid, result, n.module or n.name)
        given = [self.graph.tensors[i] if i else None for i in (*n.inputs[1:3], "", "")[:2]]
        if all(t is None or t.is_const for t in given):
            constants = (None if t is None else real(t) for t in given)
            form = expressions.rounded(result, nat.Norm(n.inputs[0], n.outputs[0], *constants, axis, epsilon, center, grid, result))
        return self._step(n, "norm", scheme, run, self._why(n) if scheme == "float" else "", native=form)

    def _parameter(self, n: Node, k: int):
        return reader(self.graph, n.inputs[k]) if len(n.inputs) > k and n.inputs[k] else None

    def _rows(self, n: Node):
        """(reader of the first input as it is held, its (scale, zero point), scheme); None where the engine has no kernel."""
        t, out = self.graph.tensors[n.inputs[0]], self.graph.tensors[n.outputs[0]]
        to_bytes = out.qparams is not None and out.qparams.u8
        if t.is_const or t.dtype != "float32" or (not to_bytes and ("lo" in n.attrs or "hi" in n.attrs)):
            return None
        qp = self._qp(t.name)
        grid = (1.0, 0) if qp is None else (qp.scale.item(), qp.zero_point.item())
        scheme = f"u{qp.bits}" if qp is not None else "float"
        return raw_values(self.graph, t.name), (float(np.float32(grid[0])), int(grid[1])), scheme
