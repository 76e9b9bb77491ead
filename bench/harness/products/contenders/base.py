"""A contender of some kinds of product only."""

from __future__ import annotations

from ...contenders.base import Contender


class Kinds(Contender):
    kinds: tuple[str, ...]

    def takes(self, shape) -> bool:
        return shape.kind in self.kinds
