"""What a contender is.

``output`` says what it delivers, because only like is compared with like:

========  ============================================================================
u8        uint8 in, requantized uint8 out: what a network of integer layers needs
s32       uint8 in, the raw int32 accumulator out
f32       uint8 in, dequantized float32 out
dynamic   float32 in, quantized at run time, float32 out
fp32      float32 throughout
bf16      bfloat16 throughout
========  ============================================================================

Every contender gets weights in the form that its documentation advises (packed beforehand where it can), the same threads, inputs and
outputs without copies that a careful user would avoid, and per-channel weight scales. Where its options leave a choice whose better
side depends on the shape, ``prepare`` returns all sides and the fastest is timed.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OUTPUTS = ("u8", "s32", "f32", "dynamic", "fp32", "bf16")


@dataclass(frozen=True)
class Variant:
    """``call`` computes once; ``result`` gives the last output as an array, [M, N] or NHWC. ``name`` tells variants of a contender apart.

    uncounted: of the seconds that the last call took, those that a network would not spend, such as a change of layout at the edge of a
    model of one layer. facts: what else a row of the JSON file says of it.
    """

    call: Callable[[], object]
    result: Callable[[], np.ndarray]
    name: str = ""
    uncounted: Callable[[float], float] | None = None
    facts: Mapping[str, float] = field(default_factory=dict)


class Contender(ABC):
    name: str
    library: str
    output: str
    modules: tuple[str, ...] = ()  # what must be importable
    ours = False
    adds_bias = True
    subtracts_zero_point = True

    def missing(self) -> str | None:
        """What is not installed or not supported here, or None."""
        for module in self.modules:
            try:
                importlib.import_module(module)
            except ImportError as e:
                return f"{module} is not installed" if e.name == module else f"{module} does not import: {e}"
        return None

    def takes(self, shape: Any) -> bool:
        """Whether it has this kind of layer at all; where not, it is absent from the row."""
        return True

    @abstractmethod
    def prepare(self, problem: Any, threads: int) -> list[Variant]:
        """Pack the weights and bind the operands. At least one variant."""


def select(every: Sequence[Contender], peers: str) -> list[Contender]:
    """qgemm and the peers asked for: "all", "none", or parts of names or libraries separated by commas."""
    ours, others = [c for c in every if c.ours], [c for c in every if not c.ours]
    if peers == "none":
        return ours
    if peers == "all":
        return list(every)
    chosen: list[Contender] = []
    for part in filter(None, (p.strip().lower() for p in peers.split(","))):
        matching = [c for c in others if part in c.name.lower() or part in c.library.lower()]
        if not matching:
            names = "\n  ".join(f"{c.name}  ({c.library})" for c in others)
            raise SystemExit(f"--peers: nothing is called '{part}'. Give all, none, or parts of these, separated by commas:\n  {names}")
        chosen += [c for c in matching if c not in chosen]
    return ours + [c for c in others if c in chosen]


def returning(call: Callable[[], object], convert: Callable[[object], np.ndarray], name: str = "") -> Variant:
    """A variant whose result is what ``call`` returns."""
    return Variant(call, lambda: convert(call()), name)
