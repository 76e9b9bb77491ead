"""What the rows say: qgemm against the best peer, in ratios of times (above 1: qgemm is faster)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
# The FP32 and BF16 that a user has today; the packed ones count among the peers of any kind.
FLOATS = {"fp32": "torch FP32", "bf16": "torch BF16"}


def seconds(row: Row, statistic: str) -> dict[str, float]:
    """Contender -> seconds a call."""
    return {r["contender"]: r["seconds"][statistic] for r in row["results"]}


def best(row: Row, statistic: str, names: Iterable[str]) -> tuple[str, float] | None:
    """The fastest of ``names`` in this row."""
    taken = seconds(row, statistic)
    there = [(taken[n], n) for n in names if n in taken]
    return None if not there else (min(there)[1], min(there)[0])


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values))


class Names:
    """Names of contenders by side and output. Ours: the PyTorch operator, or the engine where torch is missing."""

    def __init__(self, contenders: Sequence[Mapping[str, Any]]):
        self.peers = [c["name"] for c in contenders if not c["ours"]]
        self._all = list(contenders)

    def peers_with(self, output: str) -> list[str]:
        return [c["name"] for c in self._all if not c["ours"] and c["output"] == output]

    def ours(self, output: str, row: Row) -> str | None:
        there = seconds(row, "min")
        return next((c["name"] for c in self._all if c["ours"] and c["output"] == output and c["name"] in there), None)


def compare(rows: Sequence[Row], statistic: str, ours: Callable[[Row], str | None], peers: Sequence[str]) -> dict[str, Any] | None:
    """Ratios over the rows that have both sides: how many, the share where qgemm is first, the geometric mean, the worst."""
    found = []
    for row in rows:
        name, rival = ours(row), best(row, statistic, peers)
        if name is not None and rival is not None:
            found.append((rival[1] / seconds(row, statistic)[name], row, rival[0]))
    if not found:
        return None
    ratios = [f[0] for f in found]
    ratio, row, peer = min(found, key=lambda f: f[0])
    return {
        "rows": len(found),
        "first": sum(r >= 1 for r in ratios) / len(ratios),
        "geometric_mean": geometric_mean(ratios),
        "worst": {"ratio": ratio, "shape": row["shape"], "threads": row["threads"], "peer": peer},
    }


def percent_of_peak(row: Row, taken: float) -> float:
    return 100 * row["ops"] / taken * 1e-9 / row["peak_gops"]


def peak_share(rows: Sequence[Row], names: Names, statistic: str) -> dict[str, Any] | None:
    """What qgemm with u8 out reaches of the peak over ``rows``; None where nothing tells."""
    values = []
    for row in rows:
        name = names.ours("u8", row)
        if name and row["peak_gops"]:
            values.append(percent_of_peak(row, seconds(row, statistic)[name]))
    return {"rows": len(values), "least": min(values), "geometric_mean": geometric_mean(values)} if values else None


def scaling(rows: Sequence[Row], names: Names, statistic: str, counts: Callable[[Row], bool]) -> dict[str, dict[str, Any]]:
    """Speed on n threads over speed on one, for each n, over the rows that ``counts``."""
    alone = {row["shape"]: row for row in rows if row["threads"] == 1}
    ratios: dict[str, list[tuple[float, str]]] = {}
    for row in rows:
        first = alone.get(row["shape"])
        if first is None or row["threads"] == 1 or not counts(row):
            continue
        name = names.ours("u8", row)
        if name and name in seconds(first, statistic):
            ratio = seconds(first, statistic)[name] / seconds(row, statistic)[name]
            ratios.setdefault(str(row["threads"]), []).append((ratio, row["shape"]))
    return {
        n: {"rows": len(r), "geometric_mean": geometric_mean([x for x, _ in r]), "worst": {"ratio": min(r)[0], "shape": min(r)[1]}}
        for n, r in ratios.items()
    }
