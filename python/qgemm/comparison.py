"""What a comparison of outputs is made of: shared by the comparison end to end and the one layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import require
from .graph.ir import QParams

# Operators that only move values: listed and checked to be exact, and left out of ``differing_per_million``.
MOVES = frozenset("Reshape Flatten Transpose Squeeze Unsqueeze Identity Slice Split Concat Gather DepthToSpace SpaceToDepth Expand".split())


@dataclass
class Layer:
    """One compared step.

    module: the torch module at which the simulation shows the tensor it was compared with. off_tie: where outputs differ, how far
    the simulation's own float value was, at most, from the boundary between two integers, in LSB; 1e-5 is what another order
    of summation in fp32 makes. None where nothing differs or the tensor has no quantizer of its own. moves: the step only moves
    values.
    """

    name: str
    op: str
    scheme: str
    module: str
    outputs: int = 0
    differing: int = 0
    max_lsb: int = 0
    off_tie: float | None = None
    moves: bool = False

    @property
    def equal(self) -> float:
        """Share of equal outputs."""
        return 1 - self.differing / self.outputs if self.outputs else 1.0


def steps_apart(got: np.ndarray, want: np.ndarray, grid: QParams | None) -> np.ndarray:
    """|got - want| in LSB, rounded to whole ones. Integers are compared as such, floats by the grid or by the range of ``want``."""
    if got.dtype.kind in "iub":
        return np.abs(got.astype(np.int64) - want.astype(np.int64))
    if grid is not None and grid.per_tensor:
        lsb = float(grid.scale)
    else:
        lsb = (float(want.max()) - float(want.min())) / 255 if want.size else 1.0
    d = np.abs(got.astype(np.float64) - want.astype(np.float64))
    if not lsb > 0:  # a constant output
        lsb = max(float(np.abs(want).max(initial=0.0)), 1.0) / 255
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    return np.where(same, 0, np.rint(np.minimum(np.nan_to_num(d / lsb, nan=1e9), 1e9))).astype(np.int64)


def arrays(outputs: Any) -> list[np.ndarray]:
    """Every tensor or array among a model's outputs, as float32 (integers stay integers)."""
    if isinstance(outputs, np.ndarray):
        return [outputs]
    if isinstance(outputs, dict):
        return [a for v in outputs.values() for a in arrays(v)]
    if isinstance(outputs, (tuple, list)):
        return [a for v in outputs for a in arrays(v)]
    torch = require("torch", "qgemm.validate")
    if isinstance(outputs, torch.Tensor):
        t = outputs.as_subclass(torch.Tensor).detach().cpu()
        return [(t.float() if t.is_floating_point() else t).numpy()]
    return []
