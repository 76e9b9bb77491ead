"""A network and a batch size. An entry of a list: {"name": "resnet18"}, a name of bench/networks/zoo.py; each stands for both BATCHES."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import lists

FOLDER = lists.FOLDER / "models"
BATCHES = (1, 8)


@dataclass(frozen=True)
class Network:
    name: str
    batch: int
    uses: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.name} b{self.batch}"

    @property
    def ops(self) -> int:
        """0: networks are timed in milliseconds."""
        return 0

    def fields(self) -> dict[str, Any]:
        return {"model": self.name, "batch": self.batch}

    def problem(self):
        from .problem import Problem

        return Problem(self)


def _read(e: dict[str, Any], uses: tuple[str, ...]) -> list[Network]:
    if not isinstance(e["name"], str):
        raise ValueError(f"{e}: name must be a name of bench/networks/zoo.py")
    return [Network(e["name"], batch, uses) for batch in BATCHES]


LISTS = lists.Lists(FOLDER, "models", _read, "bench/harness/models/shapes.py")
