#!/usr/bin/env python3
"""The table of kernels in docs/kernels.md, made from csrc/kernels/kernels.def.

    python scripts/kernel_table.py            write it between the page's markers
    python scripts/kernel_table.py --check    only say whether it is current (exit code 1 when not)

Reads the list itself, not a build, so that the table holds the kernels of every instruction set whatever machine makes it.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "csrc/kernels"
PAGE = ROOT / "docs/kernels.md"
BEGIN, END = "<!-- kernels.def: begin -->\n", "<!-- kernels.def: end -->\n"
ROW = re.compile(r"^QGEMM_KERNEL\((\w+), (\w+), (\d+), (\d+), (\w+)\)$", re.M)


class Kernel(NamedTuple):
    op: str
    types: str
    mr: int
    nr: int
    isa: str

    @property
    def name(self) -> str:
        return f"{self.op}_{self.types}_{self.mr}x{self.nr}__{self.isa}"

    @property
    def path(self) -> Path:
        return KERNELS / (f"ref/{self.op}_{self.types}__ref.cc" if self.isa == "ref" else f"{self.name}.cc")


def kernels() -> list[Kernel]:
    """The rows of kernels.def, in order."""
    return [Kernel(op, types, int(mr), int(nr), isa) for op, types, mr, nr, isa in ROW.findall((KERNELS / "kernels.def").read_text())]


def table(rows: list[Kernel]) -> str:
    """Operations down, instruction sets across; a cell's kernels are their tiles, each a link to its file."""
    isas = list(dict.fromkeys(k.isa for k in rows))
    lines = ["| operation | types | " + " | ".join(isas) + " |", "|---|---|" + "---|" * len(isas)]
    for op in dict.fromkeys(k.op for k in rows):
        of_op = [k for k in rows if k.op == op]
        cells = []
        for isa in isas:
            links = [f"[{k.mr}x{k.nr}](../{k.path.relative_to(ROOT).as_posix()})" for k in of_op if k.isa == isa]
            cells.append(", ".join(links) or "-")
        lines.append(f"| `{op}` | {of_op[0].types} | " + " | ".join(cells) + " |")
    count = ", ".join(f"{sum(k.isa == isa for k in rows)} {isa}" for isa in isas)
    return "\n".join(lines) + f"\n\n{len(rows)} kernels: {count}.\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the page is not current")
    args = parser.parse_args()
    rows = kernels()
    absent = [k.path.relative_to(ROOT).as_posix() for k in rows if not k.path.exists()]
    if absent:
        print("kernels.def names kernels that have no file: " + ", ".join(absent), file=sys.stderr)
        return 1
    page = PAGE.read_text()
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        print(f"{PAGE.relative_to(ROOT)} has lost its markers {BEGIN.strip()} {END.strip()}", file=sys.stderr)
        return 1
    head, rest = page.split(BEGIN)
    new = head + BEGIN + table(rows) + END + rest.split(END)[1]
    if args.check:
        if new == page:
            return 0
        print(f"{PAGE.relative_to(ROOT)}: the table is not kernels.def's; run  python scripts/kernel_table.py", file=sys.stderr)
        return 1
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
