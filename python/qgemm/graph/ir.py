"""The graph every road leads to: nodes, tensors, and the encodings on the tensors.

A tensor with ``qparams`` holds, by definition, only values of that grid: whoever computes it rounds to the grid. That is the
whole meaning of a quantizer here; there are no QuantizeLinear nodes left after ``passes.qdq``. A constant with ``qparams``
keeps its integers in ``data`` (canonical, signed for weights), so no float copy of a weight exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import QuantizationError


@dataclass(frozen=True, eq=False)
class QParams:
    """``real = scale * (q - zero_point)`` with q an integer in [qmin, qmax].

    scale: float32, shape () per tensor, [C] per channel, or the shape of the weight with ``axis`` divided by block_size (per block).
    zero_point: int32, same shape as scale, on the grid of [qmin, qmax].
    bits, signed: the grid; unsigned [0, 2^bits-1], signed [-2^(bits-1), 2^(bits-1)-1].
    axis: the channel axis (per channel) or the blocked axis (per block); None per tensor.
    block_size: elements of ``axis`` that share a scale; 0 when not blocked.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    bits: int = 8
    signed: bool = False
    axis: int | None = None
    block_size: int = 0

    def __post_init__(self):
        scale = np.asarray(self.scale, np.float32)
        zero_point = np.broadcast_to(np.asarray(self.zero_point, np.int32), scale.shape)
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "zero_point", zero_point)
        if scale.size and not (np.isfinite(scale).all() and (scale > 0).all()):
            raise QuantizationError(f"scale must be finite and > 0, got {scale.ravel()[:4]}; recalibrate the quantizer")
        if not 1 <= self.bits <= 32:
            raise QuantizationError(f"bits must be in 1..32, got {self.bits}")
        if zero_point.size and (zero_point.min() < self.qmin or zero_point.max() > self.qmax):
            raise QuantizationError(
                f"zero_point must lie in [{self.qmin}, {self.qmax}] for a {self.dtype} grid, got {zero_point.min()}..{zero_point.max()}"
            )
        if self.axis is None and scale.ndim != 0:
            raise QuantizationError(f"a scale of shape {scale.shape} needs an axis")

    @property
    def qmin(self) -> int:
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def qmax(self) -> int:
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def dtype(self) -> str:
        """The grid's name: uint8, int4, uint16 ..."""
        return f"{'int' if self.signed else 'uint'}{self.bits}"

    @property
    def per_tensor(self) -> bool:
        return self.axis is None

    @property
    def u8(self) -> bool:
        """True when run-time values of such a tensor are held as uint8: per tensor, unsigned, at most 8 bits."""
        return self.axis is None and not self.signed and self.bits <= 8

    def same(self, other: QParams | None) -> bool:
        """True when both describe the same grid, value for value."""
        return (
            other is not None
            and (self.bits, self.signed, self.axis, self.block_size) == (other.bits, other.signed, other.axis, other.block_size)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )


@dataclass
class Tensor:
    """A value of the graph. ``shape`` may hold None for a dimension known only at run time; shape None: rank unknown."""

    name: str
    shape: tuple[int | None, ...] | None = None
    dtype: str = "float32"
    qparams: QParams | None = None
    data: np.ndarray | None = None  # constants: float values, or the integers when qparams is set

    @property
    def is_const(self) -> bool:
        return self.data is not None


@dataclass
class Node:
    """One operation. ``op`` is the ONNX operator's name, or one of ours after the passes (Linear, Conv, Add, ...).

    inputs: tensor names, "" for an omitted one. name: for people and reports (the ONNX node's name or the layer's).
    module: the torch module it came from, found by weight initializer, "" when unknown.
    """

    op: str
    inputs: list[str]
    outputs: list[str]
    attrs: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    module: str = ""


@dataclass
class Graph:
    """Nodes in topological order over tensors by name."""

    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    name: str = ""
    opset: int = 0

    def tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            self.tensors[name] = Tensor(name)
        return self.tensors[name]

    def producers(self) -> dict[str, Node]:
        return {o: n for n in self.nodes for o in n.outputs if o}

    def consumers(self) -> dict[str, list[Node]]:
        out: dict[str, list[Node]] = {}
        for n in self.nodes:
            for i in n.inputs:
                if i:
                    out.setdefault(i, []).append(n)
        return out

    def constants(self) -> Iterator[Tensor]:
        return (t for t in self.tensors.values() if t.is_const)
