"""What running the steps once tells about a network's tensors, and which of them are computed in place inside a concatenation.

A concatenation moves no bytes where each of its inputs is written, by whoever computes it, into its part of the result. That part
has the result's strides: channels of a pixel lie together, the next pixel's are a whole concatenated pixel away. A producer that
cannot write so, and a reader that cannot read so, would need a copy; then the concatenation makes it, as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .ir import Graph
from .layout import memory_order
from .native import Concat, NotNative
from .step import Env, Step

# Operators that may return their input, or a part of it, as it is. For any other one shared memory would be an accident.
_MAY_ALIAS = {
    "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Identity", "Expand", "Cast", "CastLike", "Dropout",
    "Clip", "Resize", "Pad", "Tile", "Concat", "Requantize", "Lut", "Quantize", "DepthToSpace", "SpaceToDepth", "Gather",
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd",
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Shape, byte strides and type of an array."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def of(cls, a: np.ndarray) -> Layout:
        return cls(a.shape, a.strides, a.dtype)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class Seen:
    """One step as it ran.

    results: its outputs. views: output -> inputs whose memory it may stand for, with the byte offset there; empty unless every output
    has one. shared: outputs that lie in memory of an input. values: the outputs themselves where they follow from shapes alone.
    """

    results: dict[str, Layout]
    views: dict[str, list[tuple[str, int]]]
    shared: frozenset[str]
    values: dict[str, np.ndarray] | None


def watch(steps: Sequence[Step], env: Env, run_step: Callable[[Step, Env], None], dead: Sequence[Sequence[str]]) -> list[Seen]:
    """Run the steps on ``env``. dead: the names that nobody reads after each step. Raises NotNative for an empty tensor."""
    seen, static = [], set()
    for step, gone in zip(steps, dead, strict=True):
        if any(i not in env for i in step.inputs):
            raise NotNative
        before = {i: env[i] for i in step.inputs}
        run_step(step, env)
        after = {o: env[o] for o in step.outputs}
        if any(a.size == 0 for a in after.values()):
            raise NotNative
        fixed = step.op in ("Shape", "Size") or all(i in static for i in step.inputs)
        views = {o: _origins(y, before) for o, y in after.items()} if step.op in _MAY_ALIAS else {}
        seen.append(
            Seen(
                {o: Layout.of(a) for o, a in after.items()},
                views if all(views.values()) else {},
                frozenset(o for o, a in after.items() if any(np.may_share_memory(a, x) for x in before.values())),
                after if fixed else None,
            )
        )
        static = static.union(after) if fixed else static.difference(after)
        for name in gone:
            env.pop(name, None)
    return seen


def _origins(y: np.ndarray, inputs: dict[str, np.ndarray]) -> list[tuple[str, int]]:
    start = y.__array_interface__["data"][0]
    return [(i, start - x.__array_interface__["data"][0]) for i, x in inputs.items() if x.dtype == y.dtype and np.may_share_memory(x, y)]


# A tensor: the step that makes it (-1: an input of the network) and its name, since a step may give its result the name of its input.
Tensor = tuple[int, str]


@dataclass(frozen=True)
class Slot:
    """A tensor's part of the result of a concatenation.

    whole: that result. offset: bytes. strides: the part's; None where it has no gaps, so that its maker writes it as ever.
    """

    whole: Tensor
    offset: int
    strides: tuple[int, ...] | None


@dataclass(frozen=True)
class _Joined:
    """A concatenation along ``axis``: its result, and its inputs with their first positions on that axis."""

    result: Tensor
    axis: int
    parts: list[Tensor | None]  # None: a constant
    starts: list[int]


class Places:
    """Which tensors get a slot."""

    def __init__(self, graph: Graph, steps: Sequence[Step], seen: Sequence[Seen], arrays: Sequence[np.ndarray]):
        self.steps = steps
        self.layouts: dict[Tensor, Layout] = {(-1, i): Layout.of(a) for i, a in zip(graph.inputs, arrays, strict=True)}
        self.slots: dict[Tensor, Slot] = {}
        self.origin: dict[Tensor, tuple[Tensor, int]] = {}  # of views: what they are a view of, and where in it they begin
        self.readers: dict[Tensor, list[int]] = {}  # steps
        self.known: set[Tensor] = set()  # before any call
        latest: dict[str, Tensor] = {i: (-1, i) for i in graph.inputs}
        joined = []
        for k, (step, s) in enumerate(zip(steps, seen, strict=True)):
            given = {i: latest[i] for i in step.inputs}
            for t in given.values():
                self.readers.setdefault(t, []).append(k)
            for o, layout in s.results.items():
                latest[o] = (k, o)
                self.layouts[k, o] = layout
                if s.values is not None:
                    self.known.add((k, o))
                elif s.views:
                    i, offset = s.views[o][0]
                    self.origin[k, o] = given[i], offset
            if isinstance(step.native, Concat) and s.values is None and not s.views:
                joined.append(self._joined((k, step.outputs[0]), step.native, given))
        self.final = {latest[o] for o in graph.outputs if o in latest}
        # The last one first: those before it may be parts of it.
        while joined:
            whole = joined.pop()
            for part, start in zip(whole.parts, whole.starts, strict=True):
                if part is not None:
                    self._give(part, whole, start)
            for other in joined:
                self._nest(other, whole)

    def _joined(self, result: Tensor, form: Concat, given: dict[str, Tensor]) -> _Joined:
        axis = form.axis % len(self.layouts[result].shape)
        parts = [given[i] if isinstance(i, str) else None for i in form.inputs]
        sizes = [(i.data if t is None else self.layouts[t]).shape[axis] for i, t in zip(form.inputs, parts, strict=True)]
        return _Joined(result, axis, parts, [sum(sizes[:j]) for j in range(len(sizes))])

    def _nest(self, inner: _Joined, outer: _Joined) -> None:
        """A concatenation whose inputs are, in turn, inputs of a later one is a part of that."""
        n = len(inner.parts)
        if inner.axis != outer.axis or None in inner.parts:
            return
        for at in range(len(outer.parts) - n + 1):
            if outer.parts[at : at + n] == inner.parts:
                self._give(inner.result, outer, outer.starts[at])
                return

    def _give(self, part: Tensor, whole: _Joined, start: int) -> None:
        """A slot for ``part``, or for what it is a view of, where that saves a copy."""
        layout, of_whole, outer = self.layouts[part], self.layouts[whole.result], self.slots.get(whole.result)
        strides = of_whole.strides if outer is None or outer.strides is None else outer.strides
        if layout.dtype != of_whole.dtype or not _dense(of_whole, of_whole.strides):
            return
        offset = start * strides[whole.axis]
        if _dense(layout, strides):
            # Without gaps any maker can write it, and any reader read it, provided the elements are in the right order.
            if not _same(layout, strides):
                return
            while part in self.origin:
                part, at = self.origin[part]
                if at or self.layouts[part].nbytes != layout.nbytes:
                    return
            if _dense(self.layouts[part], self.layouts[part].strides):
                self._take(part, Slot(whole.result, offset, None))
        elif part not in self.origin and self._copies(part) <= (1 if self._is_joined(part) else 0):
            self._take(part, Slot(whole.result, offset, strides))

    def _copies(self, part: Tensor) -> int:
        """How many readers need a copy of a tensor with gaps."""
        forms = [f for k in self.readers.get(part, []) if not isinstance(f := self.steps[k].native, Concat)]
        return sum(not getattr(form, "strided", False) for form in forms)

    def _is_joined(self, part: Tensor) -> bool:
        return part[0] >= 0 and isinstance(self.steps[part[0]].native, Concat)

    def _take(self, part: Tensor, slot: Slot) -> None:
        if part[0] >= 0 and part not in self.known and part not in self.final and part not in self.slots:
            self.slots[part] = slot


def _dense(layout: Layout, strides) -> bool:
    """True when an array of the layout's shape and type has no gaps with these strides."""
    step = layout.dtype.itemsize
    for i in reversed(memory_order(layout.shape, strides)):
        if layout.shape[i] != 1:
            if strides[i] != step:
                return False
            step *= layout.shape[i]
    return True


def _same(layout: Layout, strides) -> bool:
    return all(n == 1 or s == t for n, s, t in zip(layout.shape, layout.strides, strides, strict=True))
