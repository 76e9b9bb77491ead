#!/usr/bin/env python3
"""Disassemble the kernels and refuse a multiply-accumulate loop that touches the stack.

    cmake -S . -B build/native -DQGEMM_PYTHON=OFF -DQGEMM_TESTS=ON && cmake --build build/native
    python scripts/check_kernels.py build/native

A register tile that does not fit the registers is spilled to the stack by the compiler, silently, and runs several times slower. The
innermost loops are found by their backward jumps; one that multiplies and accumulates and also loads or stores relative to the stack or
frame pointer fails, and those instructions are printed. Kernels of the reference path are exempt. Needs objdump (binutils).
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(.*\S)")
JUMP = re.compile(r"^j\w+\s+([0-9a-f]+)\b")
MULTIPLY = re.compile(r"^v(pdpbusd|pdpwssd|pmadd|fmadd|pmulld)")
LEAVES = re.compile(r"^(j|ret|call)")
STACK = re.compile(r"\(%[re][sb]p\b|\[[re][sb]p\b")
# rbp holds data, not the frame, where a function has not set it up as one.
FRAME = re.compile(r"^mov\s+%rsp,%rbp$|^lea\s+\S*\(%rsp\),%rbp$")


@dataclass
class Loop:
    """The instructions from the target of a backward jump to the jump."""

    function: str
    instructions: list[tuple[int, str]]
    has_frame: bool

    def on_stack(self) -> list[tuple[int, str]]:
        wanted = STACK if self.has_frame else re.compile(r"\(%[re]sp\b")
        return [(at, text) for at, text in self.instructions if wanted.search(text)]


def functions(disassembly: str) -> dict[str, list[tuple[int, str]]]:
    """Function name -> [(address, instruction)] of ``objdump -d --no-show-raw-insn``."""
    found: dict[str, list[tuple[int, str]]] = {}
    name = ""
    for line in disassembly.splitlines():
        if m := re.match(r"^[0-9a-f]+ <(.*)>:$", line):
            name = m[1]
            found[name] = []
        elif name and (m := INSTRUCTION.match(line)):
            found[name].append((int(m[1], 16), m[2]))
    return found


def inner_loops(name: str, body: list[tuple[int, str]]) -> list[Loop]:
    """The loops that multiply and have no jump but their own: a tile's loop over k, a vector loop over elements."""
    index = {at: i for i, (at, _) in enumerate(body)}
    has_frame = any(FRAME.match(text) for _, text in body)
    found = []
    for i, (at, text) in enumerate(body):
        m = JUMP.match(text)
        first = index.get(int(m[1], 16)) if m and int(m[1], 16) <= at else None
        if first is None:
            continue
        texts = [t for _, t in body[first:i]]
        if any(MULTIPLY.match(t) for t in texts) and not any(LEAVES.match(t) for t in texts):
            found.append(Loop(name, body[first : i + 1], has_frame))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("build", type=Path, help="a build folder with the compiled kernels")
    args = parser.parse_args()
    objdump = shutil.which("objdump")
    if objdump is None:
        print("objdump is not installed: apt-get install binutils", file=sys.stderr)
        return 2
    objects = sorted(p for p in args.build.rglob("*__*.o") if "__ref" not in p.name)
    if not objects:
        print(f"{args.build} holds no compiled kernels (files named <kernel>__<isa>.cc.o); build it first", file=sys.stderr)
        return 2
    loops, bad = 0, []
    for path in objects:
        text = subprocess.run([objdump, "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True).stdout
        for name, body in functions(text).items():
            if not body:
                continue
            for loop in inner_loops(name, body):
                loops += 1
                if loop.on_stack():
                    bad.append((path, loop))
    for path, loop in bad:
        print(f"{path.name}: {loop.function}: a loop of {len(loop.instructions)} instructions touches the stack:")
        for at, instruction in loop.on_stack()[:6]:
            print(f"  {at:x}: {instruction}")
    print(f"{len(objects)} kernels, {loops} multiply-accumulate loops, {len(bad)} touch the stack")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
