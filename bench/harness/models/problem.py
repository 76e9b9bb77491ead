"""A network with one input, and its output in float32, by which every contender is judged."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch

from networks import zoo

from .shapes import Network

# Least signal-to-noise ratio against float32, in dB. Networks of random weights quantized to 8 bits reach 10 to 30: the bound tells a
# wrong computation, not a good quantization.
LEAST = {"fp32": 60.0, "bf16": 10.0, "int8": 3.0, "simulation": 3.0}


def sqnr(want: np.ndarray, got: np.ndarray) -> float:
    want = want.astype(np.float64)
    noise = float(np.square(got - want).sum())
    return math.inf if noise == 0 else 10 * math.log10(float(np.square(want).sum()) / noise)


class Problem:
    def __init__(self, shape: Network):
        self.shape = shape
        with torch.inference_mode(False):
            self.x = zoo.inputs(shape.name, shape.batch)

    @cached_property
    def model(self) -> torch.nn.Module:
        with torch.inference_mode(False):  # exporters refuse tensors of inference mode
            return zoo.build(self.shape.name)

    @cached_property
    def reference(self) -> np.ndarray:
        with torch.inference_mode():
            return self.model(self.x).numpy()

    def check(self, result: np.ndarray, output: str, bias: bool = True, zero_point: bool = True) -> str | None:
        if result.shape != self.reference.shape:
            return f"wrong shape {result.shape}, expected {self.reference.shape}"
        reached = sqnr(self.reference, result)
        return f"wrong result: {reached:.1f} dB to float32, at least {LEAST[output]:g} expected" if not reached >= LEAST[output] else None

    def describe(self, result: np.ndarray) -> dict[str, float]:
        """What a row says of a contender's result."""
        return {"sqnr_db": min(sqnr(self.reference, result), 999.0)}
