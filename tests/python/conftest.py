"""What the Python tests share: repeatable random data and a choice of instruction set paths."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def rng(request) -> np.random.Generator:
    """Seeded by the test's own name: repeatable alone, and different from its neighbours."""
    return np.random.default_rng(list(request.node.nodeid.encode()))


@pytest.fixture(params=["ref", "avx2", "avx512vnni", "avx512vbmi"])
def isa(request) -> str:
    """Every instruction set path in turn, forced for the whole test and put back after it."""
    from qgemm import _core

    if request.param not in _core.available_isas():
        pytest.skip(f"this CPU or build has no {request.param} path")
    before = _core.active_isa()
    _core.force_isa(request.param)
    yield request.param
    _core.force_isa(before)


@pytest.fixture(autouse=True)
def compiled_equals_stepwise(monkeypatch):
    """Every program that any test compiles gives the bytes of its Python steps, also when its memory has been used before."""
    from qgemm.program import Program, _execute

    compile_ = Program._compile

    def checked(self, arrays):
        known = set(map(id, self._compiled.values()))
        compiled = compile_(self, arrays)
        if compiled is not None and id(compiled) not in known:
            want = self._stepwise(arrays)
            workspace = compiled.workspace()
            for _ in range(2):
                got = workspace.run(arrays, _execute)
                for g, w, name in zip(got, want, self.graph.outputs, strict=True):
                    assert g.dtype == w.dtype and g.shape == w.shape, name
                    assert g.tobytes() == w.tobytes(), f"output '{name}'"
            compiled.idle.append(workspace)
        return compiled

    monkeypatch.setattr(Program, "_compile", checked)
