"""One line of a lowered plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from .compile import Compiler

Env = dict[str, np.ndarray]


class Native(Protocol):
    """A form of graph.native."""

    def emit(self, c: Compiler) -> None: ...


@dataclass(frozen=True)
class Step:
    """An operation bound to its kernel.

    run(env) reads the arrays named in ``inputs`` from ``env`` and stores those named in ``outputs``. Arrays of a tensor on a
    per-tensor grid of at most 8 bits are uint8, everything else has ONNX's type. Shapes are ONNX's; convolutions leave
    channels-last memory.
    """

    name: str  # the layer's: torch module, or ONNX node
    op: str
    kernel: str  # engine entry ("conv2d", "linear", "lut", ...), "view", or "numpy"
    scheme: str  # "W8A8", "W4A8", "u8", "bytes", "float", "index", ...
    run: Callable[[Env], None]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reason: str = ""  # why it computes in float
    module: str = ""
    weight_bytes: int = 0
    node: str = ""  # the ONNX node's name
    native: Native | None = None  # the same in a compiled program; None: it runs in Python there too
