"""Layers without an encoding: float32 on the engine, the bits of qgemm.numerics on every instruction set and thread count."""

from __future__ import annotations

import numpy as np
import pytest

import qgemm
from onnx_nets import Builder, reference
from qgemm import _core, numerics
from qgemm.errors import ShapeError
from qgemm.graph.floatconv import pack

CASES = {
    # batch, h, w, channels, outputs, kernel, groups, stride, padding, dilation
    "one pixel": (1, 1, 1, 1, 1, (1, 1), 1, (1, 1), (0, 0, 0, 0), (1, 1)),
    "1x1": (2, 5, 7, 19, 33, (1, 1), 1, (1, 1), (0, 0, 0, 0), (1, 1)),
    "3x3": (1, 6, 5, 8, 40, (3, 3), 1, (1, 1), (1, 1, 1, 1), (1, 1)),
    "strided, uneven padding": (3, 9, 8, 3, 16, (3, 2), 1, (2, 3), (0, 1, 2, 3), (1, 1)),
    "dilated": (1, 8, 9, 4, 31, (3, 3), 1, (1, 1), (2, 2, 2, 2), (2, 2)),
    "groups": (2, 5, 5, 12, 102, (3, 3), 3, (1, 1), (1, 1, 1, 1), (1, 1)),
}


def floats(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_engine_gives_the_specified_bits(case, rng, isa):
    batch, h, w, c, n, kernel, groups, stride, padding, dilation = case
    x, weight, bias = floats(rng, batch, h, w, c), floats(rng, n, c // groups, *kernel), floats(rng, n)
    want = numerics.conv2d_f32(x, weight, bias, stride, padding, dilation, groups)
    for lo, hi in ((None, None), (0.0, 1.5)):
        out = np.empty(want.shape, np.float32)
        _core.conv2d_f32(x, pack(weight, groups), bias, out, kernel, stride, padding, dilation, lo, hi)
        assert np.array_equal(out, want if lo is None else np.clip(want, lo, hi))


def test_threads_do_not_change_a_bit(rng):
    torch = pytest.importorskip("torch")
    x, weight, bias = floats(rng, 2, 30, 31, 48), floats(rng, 200, 48, 3, 3), floats(rng, 200)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(np.empty((2, 28, 29, 200), np.float32))
            _core.conv2d_f32(x, pack(weight), bias, results[-1], (3, 3), (1, 1), (0, 0, 0, 0), (1, 1))
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(r, results[0]) for r in results)


def test_infinities_and_nan_pass(rng, isa):
    x = np.full((1, 1, 3, 4), 1.0, np.float32)
    x[0, 0, 0, 0], x[0, 0, 1, 0] = np.nan, np.inf
    out = np.empty((1, 1, 3, 20), np.float32)
    _core.conv2d_f32(x, pack(np.ones((20, 4, 1, 1), np.float32)), np.zeros(20, np.float32), out, (1, 1), (1, 1), (0,) * 4, (1, 1), 0.0, 6.0)
    assert np.isnan(out[0, 0, 0]).all() and (out[0, 0, 1] == 6).all() and (out[0, 0, 2] == 4).all()


def test_panels_that_are_not_the_weights_are_refused(rng):
    x, out = floats(rng, 1, 4, 4, 8), np.empty((1, 4, 4, 16), np.float32)
    panels = pack(floats(rng, 16, 8, 1, 1))
    for given, bias in ((panels[:, :, :-1], 16), (panels, 40), (pack(floats(rng, 16, 8, 3, 3)), 16)):
        with pytest.raises(ShapeError, match="panels"):
            _core.conv2d_f32(x, np.ascontiguousarray(given), np.zeros(bias, np.float32), out, (1, 1), (1, 1), (0,) * 4, (1, 1))
    with pytest.raises(ShapeError, match="out has shape"):
        _core.conv2d_f32(x, panels, np.zeros(16, np.float32), out[:, :2], (1, 1), (1, 1), (0,) * 4, (1, 1))


@pytest.mark.parametrize("spatial", [(9, 8), (15,)])
def test_layers_of_a_network(rng, isa, spatial):
    """Conv + Relu with a group, and a linear layer behind it, none of them with an encoding: one native call."""
    b = Builder()
    b.input("x", ["n", 6, *spatial])
    for name, shape in (("w", (32, 3, *[3] * len(spatial))), ("wb", (32,)), ("f", (10, 32)), ("fb", (10,))):
        b.const(name, floats(rng, *shape))
    y = b.add("Relu", [b.add("Conv", ["x", "w", "wb"], "c", group=2, pads=[1] * 2 * len(spatial))], "r")
    b.add("Gemm", [b.add("Flatten", [b.add("GlobalMaxPool", [y], "g")], "v"), "f", "fb"], "y", transB=1)
    m = b.model("y")
    p = qgemm.load(m)
    for n in (1, 3):
        x = floats(rng, n, 6, *spatial)
        np.testing.assert_allclose(p(x), reference(m, {"x": x})[0], rtol=1e-4, atol=1e-4)
    kernels = {kernel for c in p._compiled.values() for _, kernel, *_ in c.core.ops()}
    assert {s.kernel for s in p.steps if s.op == "Conv"} == {"conv2d_f32"} <= kernels
    assert all(s.reason for s in p.steps if s.op in ("Conv", "Linear"))


def test_a_depthwise_layer_stays_in_numpy(rng):
    b = Builder()
    b.input("x", ["n", 6, 5, 5])
    b.const("w", floats(rng, 6, 1, 3, 3))
    b.add("Conv", ["x", "w"], "y", group=6)
    p = qgemm.load(b.model("y"))
    x = floats(rng, 1, 6, 5, 5)
    np.testing.assert_allclose(p(x), reference(b.model("y"), {"x": x})[0], rtol=1e-4, atol=1e-4)
    assert [s.kernel for s in p.steps] == ["numpy"]
