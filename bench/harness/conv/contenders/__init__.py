"""Every way to compute a quantized or floating-point convolution that the benchmark knows."""

from __future__ import annotations

from ...contenders.base import Contender
from . import onnx_runtime, open_vino, ours, pytorch

OUTPUTS = ("u8", "fp32", "bf16")


def all_contenders() -> list[Contender]:
    """qgemm first, then the peers; floating point last."""
    return [*ours.CONTENDERS, *pytorch.INTEGER, *onnx_runtime.CONTENDERS, *open_vino.CONTENDERS, *pytorch.FLOATING_POINT]
