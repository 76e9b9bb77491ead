"""Shape lists. A list is a JSON file: {"about": text, "gemms": [{"m": 128, "k": 768, "n": 3072, "what": text}, ...]}.

y[M, N] = x[M, K] @ w[N, K]^T; a shape is written MxKxN.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "shapes"


@dataclass(frozen=True)
class Shape:
    m: int
    k: int
    n: int
    uses: tuple[str, ...] = ()  # "list: what", for each list that has it

    @property
    def label(self) -> str:
        return f"{self.m}x{self.k}x{self.n}"

    @property
    def ops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.m * self.k * self.n


def available() -> list[str]:
    return sorted(p.stem for p in FOLDER.glob("*.json"))


def _read(name: str) -> list[Shape]:
    path = FOLDER / f"{name}.json" if name in available() else Path(name)
    if not path.is_file():
        raise SystemExit(f"no shape list '{name}': give a JSON file or one of {', '.join(available())}")
    try:
        entries = json.loads(path.read_text())["gemms"]
        shapes = [Shape(e["m"], e["k"], e["n"], (f"{path.stem}: {e.get('what', '')}".rstrip(": "),)) for e in entries]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as e:
        raise SystemExit(f"{path} is not a shape list ({type(e).__name__}: {e}): see bench/harness/shapes.py for the form") from None
    for s in shapes:
        if not all(isinstance(d, int) and d >= 1 for d in (s.m, s.k, s.n)):
            raise SystemExit(f"{path}: {s.label}: m, k and n must be whole numbers of at least 1")
    return shapes


def load(names: Sequence[str], pattern: str = "") -> list[Shape]:
    """The shapes of the lists (names in ``bench/shapes`` or paths), a shape that several lists have once, in order of first mention.

    pattern: a regular expression searched in the label and the uses; empty keeps all.
    """
    merged: dict[str, Shape] = {}
    for name in names:
        for s in _read(name):
            old = merged.get(s.label)
            merged[s.label] = s if old is None else Shape(s.m, s.k, s.n, old.uses + s.uses)
    try:
        wanted = re.compile(pattern)
    except re.error as e:
        raise SystemExit(f"--filter '{pattern}' is not a regular expression: {e}") from None
    return [s for s in merged.values() if any(wanted.search(text) for text in (s.label, *s.uses))]
