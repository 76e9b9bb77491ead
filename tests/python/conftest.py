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
