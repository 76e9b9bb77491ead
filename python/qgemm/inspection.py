"""A program as text: its graph, what its memory holds, what is float and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .reporting import report


@dataclass(frozen=True)
class Memory:
    """Bytes of a program on inputs of certain shapes.

    weights: packed for this CPU. activations: all tensors of one inference together. peak: what must be live at once at the least,
    inputs and outputs included. at: the layer where that is.
    """

    weights: int
    activations: int
    peak: int
    at: str


def memory(program, inputs: tuple) -> Memory:
    """What one inference on ``inputs`` holds. Tensors that are views of others count once."""
    env = program.trace(*inputs)
    steps = program.steps
    owner = {name: _owner(a) for name, a in env.items()}
    size = {owner[name][0]: owner[name][1] for name in owner}
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    ends = [*[(-1, n) for n in program.graph.inputs], *[(len(steps), n) for n in program.graph.outputs]]
    for k, names in [*ends, *[(k, n) for k, s in enumerate(steps) for n in (*s.inputs, *s.outputs)]]:
        if names in owner:
            o = owner[names][0]
            first[o], last[o] = min(k, first.get(o, k)), max(k, last.get(o, k))
    live = [sum(size[o] for o in size if o in first and first[o] <= k <= last[o]) for k in range(len(steps))]
    at = int(np.argmax(live)) if live else 0
    return Memory(sum(s.weight_bytes for s in steps), sum(size.values()), max(live, default=0), steps[at].name if steps else "")


def _owner(a: np.ndarray) -> tuple[int, int]:
    """(identity, bytes) of the memory that an array lies in."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return id(a), a.nbytes


def describe(program, inputs: tuple | None) -> str:
    """The program as text. inputs: an example, for shapes and memory; without one they are left out."""
    graph, lines = program.graph, []
    for title, names in (("input", graph.inputs), ("output", graph.outputs)):
        for name in names:
            t = graph.tensors[name]
            lines.append(f"{title} {name} [{', '.join('?' if d is None else str(d) for d in t.shape or ())}]: {_grid(t)}")
    env = program.trace(*inputs) if inputs is not None else {}
    made = {o: s.name for s in program.steps for o in s.outputs}
    head = ("layer", "op", "reads", "output", "grid")
    rows = []
    for s in program.steps:
        reads = ", ".join(dict.fromkeys(made[i] if i in made and made[i] != s.name else i for i in s.inputs))
        o = s.outputs[0]
        rows.append((s.name, s.op, reads, " x ".join(map(str, env[o].shape)) if o in env else "", _grid(graph.tensors[o])))
    width = [max(len(r[i]) for r in (head, *rows)) for i in range(len(head))]
    lines.append("")
    for row in (head, tuple("-" * w for w in width), *rows):
        lines.append("  ".join(c.ljust(w) for c, w in zip(row, width, strict=True)).rstrip())
    found = report(program)
    lines += ["", str(found), ""]
    if found.floats:
        lines.append("in float32:")
        lines += [f"  {r.name} ({r.op}): {r.reason}" for r in found.floats]
    else:
        lines.append("in float32: nothing")
    if inputs is not None:
        m = memory(program, inputs)
        shapes = ", ".join(" x ".join(map(str, x.shape)) for x in inputs)
        lines.append(
            f"memory for an input of {shapes}: {m.weights:,} bytes of weights; of {m.activations:,} bytes of tensors at least "
            f"{m.peak:,} live at once (in {m.at})"
        )
        program(*inputs)
        planned = program.memory
        lines.append(
            f"arena of one call, without the caller's own inputs and outputs: {planned['arena_bytes']:,} bytes, at the least "
            f"{planned['minimum_bytes']:,}"
        )
    return "\n".join(lines)


def _grid(t) -> str:
    q = t.qparams
    if q is None:
        return t.dtype if t.dtype != "float32" else "float"
    if not q.per_tensor:
        return f"{q.dtype} per channel"
    return f"{q.dtype}, scale {float(q.scale):.6g}, zero_point {int(q.zero_point)}"
