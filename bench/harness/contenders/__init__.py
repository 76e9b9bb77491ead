"""Every way to compute a quantized or floating-point Linear that the benchmark knows."""

from __future__ import annotations

from . import onnx_runtime, open_vino, ours, pytorch, torch_ao
from .base import OUTPUTS, Contender, Variant, select

__all__ = ["OUTPUTS", "Contender", "Variant", "all_contenders", "select"]


def all_contenders() -> list[Contender]:
    """qgemm first, then the peers; floating point last."""
    return [
        *ours.CONTENDERS,
        *pytorch.INTEGER,
        *onnx_runtime.CONTENDERS,
        *open_vino.CONTENDERS,
        *torch_ao.CONTENDERS,
        *pytorch.FLOATING_POINT,
    ]
