"""Shapes of GEMMs. An entry of a list: {"m": 128, "k": 768, "n": 3072, "what": text}.

y[M, N] = x[M, K] @ w[N, K]^T; a shape is written MxKxN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import lists


@dataclass(frozen=True)
class Shape:
    m: int
    k: int
    n: int
    uses: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.m}x{self.k}x{self.n}"

    @property
    def ops(self) -> int:
        return 2 * self.m * self.k * self.n

    def fields(self) -> dict[str, Any]:
        return {"m": self.m, "k": self.k, "n": self.n}

    def problem(self):
        from .problem import Problem

        return Problem(self)


def _read(e: dict[str, Any], uses: tuple[str, ...]) -> list[Shape]:
    s = Shape(e["m"], e["k"], e["n"], uses)
    if not all(isinstance(d, int) and d >= 1 for d in (s.m, s.k, s.n)):
        raise ValueError(f"{s.label}: m, k and n must be whole numbers of at least 1")
    return [s]


LISTS = lists.Lists(lists.FOLDER, "gemms", _read, "bench/harness/shapes.py")
available, load = LISTS.available, LISTS.load
