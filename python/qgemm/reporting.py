"""What runs where: one row a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import DTypeError
from .program import Program


@dataclass(frozen=True)
class Row:
    """name: the layer. scheme: "W8A8", "u8", "bytes" (only moved), "index" (shapes), "float". reason: why float, else ""."""

    name: str
    op: str
    scheme: str
    kernel: str
    weight_bytes: int
    reason: str
    module: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Report(Sequence):
    """Rows of a program in order of execution; prints as a table."""

    def __init__(self, rows: Sequence[Row]):
        self.rows = tuple(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]

    @property
    def floats(self) -> list[Row]:
        """Rows that compute in float32."""
        return [r for r in self.rows if r.scheme == "float"]

    @property
    def weight_bytes(self) -> int:
        return sum(r.weight_bytes for r in self.rows)

    def __str__(self) -> str:
        head = ("layer", "op", "scheme", "kernel", "weights", "why float")
        body = [(r.name, r.op, r.scheme, r.kernel, f"{r.weight_bytes:,}" if r.weight_bytes else "", r.reason) for r in self.rows]
        width = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]

        def line(row):
            cells = [c.rjust(w) if i == 4 else c.ljust(w) for i, (c, w) in enumerate(zip(row, width, strict=True))]
            return "  ".join(cells).rstrip()

        schemes = Counter(r.scheme for r in self.rows)
        totals = ", ".join(f"{n} {scheme}" for scheme, n in schemes.most_common())
        summary = f"{len(self.rows)} steps: {totals}; {self.weight_bytes:,} bytes of weights"
        return "\n".join([line(head), line(tuple("-" * w for w in width)), *map(line, body), summary])

    __repr__ = __str__


def report(program: Program) -> Report:
    """Every step of ``program``: scheme, kernel, bytes of packed weights, and the reason where it computes in float."""
    if not isinstance(program, Program):
        raise DTypeError(f"qgemm.report takes a qgemm.Program, got {type(program).__name__}; pass what from_aimet or load returned")
    return Report([Row(s.name, s.op, s.scheme, s.kernel, s.weight_bytes, s.reason, s.module, s.inputs, s.outputs) for s in program.steps])
