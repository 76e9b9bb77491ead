"""Lists of shapes: JSON files {"about": text, KEY: [{...}, ...]}, where an entry's "what" says what the shape is used for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

FOLDER = Path(__file__).resolve().parent.parent / "shapes"


class AnyShape(Protocol):
    """What the harness asks of a shape; a frozen dataclass with ``uses``."""

    uses: tuple[str, ...]  # "list: what", for each list that has it

    @property
    def label(self) -> str: ...
    @property
    def ops(self) -> int:
        """Multiplications and additions."""

    def fields(self) -> dict[str, Any]:
        """What a row of the report says of the shape, beside its label and uses."""

    def problem(self) -> Any:
        """Its operands; with ``check(result, output, bias, zero_point)``, which says what is wrong with a result."""


S = TypeVar("S", bound=AnyShape)


@dataclass(frozen=True)
class Lists(Generic[S]):
    """The lists of a folder. ``read(entry, uses)`` makes the shapes of an entry, and raises ValueError for what has no sense."""

    folder: Path
    key: str
    read: Callable[[dict[str, Any], tuple[str, ...]], list[S]]
    form: str  # where the form is described

    def available(self) -> list[str]:
        return sorted(p.stem for p in self.folder.glob("*.json"))

    def about(self, name: str) -> str:
        return json.loads((self.folder / f"{name}.json").read_text())["about"]

    def _read(self, name: str) -> list[S]:
        path = self.folder / f"{name}.json" if name in self.available() else Path(name)
        if not path.is_file():
            raise SystemExit(f"no shape list '{name}': give a JSON file or one of {', '.join(self.available())}")
        try:
            entries = json.loads(path.read_text())[self.key]
            return [s for e in entries for s in self.read(e, (f"{path.stem}: {e.get('what', '')}".rstrip(": "),))]
        except ValueError as e:
            if not isinstance(e, json.JSONDecodeError):
                raise SystemExit(f"{path}: {e}") from None
            raise SystemExit(f"{path} is not JSON: {e}") from None
        except (KeyError, TypeError, AttributeError) as e:
            raise SystemExit(f"{path} is not a shape list ({type(e).__name__}: {e}): see {self.form} for the form") from None

    def load(self, names: Sequence[str], pattern: str = "") -> list[S]:
        """The shapes of the lists (names or paths), a shape that several lists have once, in order of first mention.

        pattern: a regular expression searched in the label and the uses; empty keeps all.
        """
        merged: dict[str, S] = {}
        for name in names:
            for s in self._read(name):
                old = merged.get(s.label)
                merged[s.label] = s if old is None else replace(s, uses=old.uses + s.uses)
        try:
            wanted = re.compile(pattern)
        except re.error as e:
            raise SystemExit(f"--filter '{pattern}' is not a regular expression: {e}") from None
        return [s for s in merged.values() if any(wanted.search(text) for text in (s.label, *s.uses))]
