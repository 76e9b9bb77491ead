"""A :class:`qgemm.Program` as an ``nn.Module``: what ``Program(...)`` makes once torch has been imported.

Eager calls go straight to the program. Under ``torch.compile``, ``torch.export`` and ``torch.jit.trace`` a call is one node,
``torch.ops.qgemm.program(inputs, handle)``; the handle names a live program of this process.
"""

from __future__ import annotations

import secrets
import weakref
from typing import Any

import numpy as np
import torch

from .errors import ConfigError
from .ops._registry import register
from .program import Program

# Handles are random: a compiler's cache on disk, which keys by the constants of a graph, never meets another program under the same one.
_programs: weakref.WeakValueDictionary[int, TorchProgram] = weakref.WeakValueDictionary()


class TorchProgram(torch.nn.Module, Program):
    """See :class:`qgemm.Program`. It has no parameters and nothing to train: its ``state_dict`` is empty, and ``.eval()``, ``.train()`` and
    ``.to(dtype)`` change nothing. Outputs do not require grad."""

    def __init__(self, graph, on_unsupported: str = "float"):
        torch.nn.Module.__init__(self)
        self._handle = 1 + secrets.randbits(62)
        self._outcomes: dict[tuple, list[tuple[tuple[int, ...], torch.dtype]]] = {}
        Program.__init__(self, graph, on_unsupported)
        self._single = len(graph.outputs) == 1
        _programs[self._handle] = self

    def forward(self, *inputs):
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or torch._C._get_tracing_state() is not None:
            results = torch.ops.qgemm.program.default(list(inputs), self._handle)
            return results[0] if self._single else tuple(results)
        return Program.__call__(self, *inputs)

    def outcome(self, shapes: tuple[tuple[int, ...], ...]) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """(shape, dtype) of every output for inputs of these shapes: a run on zeros, remembered."""
        found = self._outcomes.get(shapes)
        if found is None:
            arrays = [np.zeros(s, spec.dtype) for s, spec in zip(shapes, self._specs, strict=True)]
            results = Program.__call__(self, *arrays)
            results = [results] if self._single else results
            found = self._outcomes[shapes] = [(tuple(r.shape), torch.from_numpy(r).dtype) for r in results]
        return found

    def extra_repr(self) -> str:
        return Program.__repr__(self)

    __repr__ = Program.__repr__

    def __getstate__(self) -> dict[str, Any]:
        # What a module has beside the program, where it is not what a fresh one has: its mode, hooks that somebody registered.
        fresh = torch.nn.Module().__dict__
        own = {k: v for k, v in self.__dict__.items() if k in fresh and v != fresh[k]}
        return {**Program.__getstate__(self), "module": own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Program.__setstate__(self, state)
        self.__dict__.update(state.get("module", {}))


TorchProgram.__name__ = TorchProgram.__qualname__ = "Program"


def _find(handle: int) -> TorchProgram:
    program = _programs.get(handle)
    if program is None:
        raise ConfigError(
            "this graph calls a qgemm program that does not exist in this process: a compiled or exported graph does not hold the "
            "program; keep that with qgemm.save, and compile or export again with the loaded one"
        )
    return program


def _run(inputs, program):
    results = Program.__call__(_find(program), *inputs)
    return [r.contiguous() for r in (results if isinstance(results, tuple) else (results,))]


def _fake(inputs, program):
    """Shapes of the outputs. A symbolic batch stays symbolic: sizes that differ between batches of 1 and 2 follow it linearly. Any other
    symbolic dimension is specialized."""
    p = _find(program)
    batch = next((x.shape[0] for x in inputs if x.dim() and not isinstance(x.shape[0], int)), None)

    def outcome(n):
        shapes = [tuple(n if i == 0 and not isinstance(s, int) else int(s) for i, s in enumerate(x.shape)) for x in inputs]
        return p.outcome(tuple(shapes))

    if batch is None:
        return [torch.empty(shape, dtype=dtype) for shape, dtype in outcome(1)]

    def size(one: int, two: int):
        if one == two:
            return one
        return batch * one if two == 2 * one else one + (two - one) * (batch - 1)

    return [
        torch.empty([size(a, b) for a, b in zip(one, two, strict=True)], dtype=dtype)
        for (one, dtype), (two, _) in zip(outcome(1), outcome(2), strict=True)
    ]


register("program(Tensor[] inputs, int program) -> Tensor[]", _run, _fake)
