"""Shapes of products. An entry of a list, where what has its default may be left out:

    {"kind": "signed", "m": 128, "k": 768, "n": 3072, "batch": 1, "transposed": false, "what": text}

=========  ==============================================================================  ======================
kind       product                                                                         label
=========  ==============================================================================  ======================
signed     int8 x[M, K] by weights w[N, K], int8 or int32 out                              s8 128x768x3072
wide       uint16 x[M, K] by weights w[N, K], uint16 out                                   u16 128x768x3072
shared     float32 x[M, K] by the weights of several layers: "n" is a list; float32 out    128x768x768+768+768
attention  a[batch, M, K] by b[batch, K, N], both activations; "transposed": b[batch, N, K]  12*128x64x128 T
=========  ==============================================================================  ======================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import lists

FOLDER = lists.FOLDER / "products"
KINDS = ("signed", "wide", "shared", "attention")


@dataclass(frozen=True)
class Product:
    kind: str
    m: int
    k: int
    parts: tuple[int, ...]  # outputs of each layer; one where the kind is not shared
    batch: int = 1
    transposed: bool = False
    uses: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        return sum(self.parts)

    @property
    def label(self) -> str:
        prefix = {"signed": "s8 ", "wide": "u16 ", "shared": "", "attention": f"{self.batch}*"}[self.kind]
        return f"{prefix}{self.m}x{self.k}x{'+'.join(map(str, self.parts))}{' T' if self.transposed else ''}"

    @property
    def ops(self) -> int:
        return 2 * self.batch * self.m * self.k * self.n

    def fields(self) -> dict[str, Any]:
        return {"kind": self.kind, "batch": self.batch, "m": self.m, "k": self.k, "n": self.n}

    def problem(self):
        from . import problem

        return problem.KINDS[self.kind](self)


def _read(e: dict[str, Any], uses: tuple[str, ...]) -> list[Product]:
    if e["kind"] not in KINDS:
        raise ValueError(f"kind is '{e['kind']}': it must be one of {', '.join(KINDS)}")
    shared, attention = e["kind"] == "shared", e["kind"] == "attention"
    parts = tuple(e["n"]) if shared else (e["n"],)
    s = Product(e["kind"], e["m"], e["k"], parts, e.get("batch", 1), e.get("transposed", False), uses)
    if not all(isinstance(d, int) and d >= 1 for d in (s.m, s.k, s.batch, *parts)):
        raise ValueError(f"{s.label}: m, k, n and batch must be whole numbers of at least 1")
    if (s.batch > 1 or s.transposed) and not attention:
        raise ValueError(f"{s.label}: batch and transposed belong to the kind attention")
    return [s]


LISTS = lists.Lists(FOLDER, "products", _read, "bench/harness/products/shapes.py")
available, load = LISTS.available, LISTS.load
