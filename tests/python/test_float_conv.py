"""Layers without an encoding: float32 on the engine, the bits of qgemm.numerics on every instruction set and thread count."""

from __future__ import annotations

import numpy as np
import pytest

import qgemm
from onnx_nets import Builder, reference
from qgemm import _core, numerics
from qgemm.errors import ShapeError
from qgemm.graph.floatlayers import pack

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


def conv(x, weight, bias, out, case=(), **bounds):
    kernel, groups, stride, padding, dilation = case or (weight.shape[2:], 1, (1, 1), (0, 0, 0, 0), (1, 1))
    _core.conv2d_f32(x, pack(weight, groups), bias, out, kernel, groups, stride, padding, dilation, **bounds)
    return out


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_engine_gives_the_specified_bits(case, rng, isa):
    batch, h, w, c, n, kernel, groups, stride, padding, dilation = case
    x, weight, bias = floats(rng, batch, h, w, c), floats(rng, n, c // groups, *kernel), floats(rng, n)
    where = kernel, groups, stride, padding, dilation
    for b in (bias, None):
        want = numerics.conv2d_f32(x, weight, b, stride, padding, dilation, groups)
        assert np.array_equal(conv(x, weight, b, np.empty_like(want), where), want)
    want = numerics.conv2d_f32(x, weight, bias, stride, padding, dilation, groups)
    assert np.array_equal(conv(x, weight, bias, np.empty_like(want), where, lo=0.0, hi=1.5), np.clip(want, 0, 1.5))
    got = conv(x, weight, bias, np.empty(want.shape, np.uint8), where, out_scale=0.03, out_zero_point=7, lo=7)
    assert np.array_equal(got, numerics.quantize(want, 0.03, 7, 7, 255))


@pytest.mark.parametrize("kernel, groups", [((3, 3), 1), ((1, 1), 1), ((3, 3), 96)])
def test_threads_do_not_change_a_bit(rng, kernel, groups):
    torch = pytest.importorskip("torch")
    x, weight, bias = floats(rng, 2, 30, 31, 96), floats(rng, 192 if groups == 1 else groups, 96 // groups, *kernel), floats(rng, 192)
    bias = bias[: len(weight)]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = np.empty((2, 31 - kernel[0], 32 - kernel[1], len(weight)), np.float32)
            results.append(conv(x, weight, bias, out, (kernel, groups, (1, 1), (0, 0, 0, 0), (1, 1))))
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(r, results[0]) for r in results)


def test_infinities_and_nan_pass(rng, isa):
    x = np.full((1, 1, 3, 4), 1.0, np.float32)
    x[0, 0, 0, 0], x[0, 0, 1, 0] = np.nan, np.inf
    for weight in (np.ones((20, 4, 1, 1), np.float32), np.full((4, 1, 1, 1), 4, np.float32)):
        groups = 1 if len(weight) == 20 else 4
        case = (1, 1), groups, (1, 1), (0,) * 4, (1, 1)
        out = conv(x, weight, None, np.empty((1, 1, 3, len(weight)), np.float32), case, lo=0.0, hi=6.0)[..., : 20 // groups]
        assert np.isnan(out[0, 0, 0, 0]) and out[0, 0, 1, 0] == 6 and (out[0, 0, 2] == 4).all()


def test_a_weight_of_another_shape_is_refused(rng):
    x, out = floats(rng, 1, 4, 4, 8), np.empty((1, 4, 4, 16), np.float32)
    packed = pack(floats(rng, 16, 8, 1, 1))
    window = (1, 1), 1, (1, 1), (0,) * 4, (1, 1)
    for given in (packed[:-1], pack(floats(rng, 16, 8, 3, 3)), pack(floats(rng, 40, 8, 1, 1))):
        with pytest.raises(ShapeError, match="no weight of 16 outputs"):
            _core.conv2d_f32(x, np.ascontiguousarray(given), None, out, *window)
    with pytest.raises(ShapeError, match="bias"):
        _core.conv2d_f32(x, packed, np.zeros(40, np.float32), out, *window)
    with pytest.raises(ShapeError, match="out has shape"):
        _core.conv2d_f32(x, packed, None, out[:, :2], *window)


POOLS = {
    # batch, h, w, channels, kernel, stride, padding, dilation
    "2x2": (2, 6, 8, 5, (2, 2), (2, 2), (0, 0, 0, 0), (1, 1)),
    "3x3, padded": (1, 7, 6, 33, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    "uneven": (1, 9, 5, 16, (3, 1), (1, 2), (0, 2, 1, 0), (1, 1)),
    "dilated": (1, 9, 8, 20, (2, 3), (1, 1), (1, 0, 1, 2), (2, 2)),
    "whole image": (3, 5, 7, 70, (5, 7), (1, 1), (0, 0, 0, 0), (1, 1)),
}


def strange(rng, *shape):
    """Floats among which are NaN, infinities and zeros of both signs."""
    x = floats(rng, *shape)
    at = rng.integers(0, x.size, max(x.size // 20, 1))
    x.reshape(-1)[at] = rng.choice(np.float32([np.nan, np.inf, -np.inf, 0.0, -0.0, -0.0]), at.size)
    return x


@pytest.mark.parametrize("case", POOLS.values(), ids=POOLS)
def test_pools_give_the_specified_bits(case, rng, isa):
    batch, h, w, c, *window = case
    for x in (floats(rng, batch, h, w, c), strange(rng, batch, h, w, c), np.zeros((batch, h, w, c), np.float32) * -1):
        want = numerics.max_pool2d_f32(x, *window)
        out = np.empty_like(want)
        _core.max_pool2d_f32(x, out, *window)
        assert out.tobytes() == want.tobytes()
        for with_pad in (False, True):
            want = numerics.avg_pool2d_f32(x, *window, with_pad)
            out, q = np.empty_like(want), np.empty(want.shape, np.uint8)
            _core.avg_pool2d_f32(x, out, *window, with_pad)
            assert out.tobytes() == want.tobytes()
            _core.avg_pool2d_f32(x, q, *window, with_pad, out_scale=0.02, out_zero_point=99)
            assert np.array_equal(q, numerics.quantize(want, 0.02, 99, 0, 255))


def test_pools_are_torchs(rng):
    torch = pytest.importorskip("torch")
    x = strange(rng, 2, 9, 8, 6)
    t = torch.from_numpy(x).permute(0, 3, 1, 2)
    got, window = np.empty((2, 5, 4, 6), np.float32), ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
    got = np.empty((2, 5, 4, 6), np.float32)
    _core.max_pool2d_f32(x, got, *window)
    np.testing.assert_array_equal(got, torch.nn.functional.max_pool2d(t, 3, 2, 1).permute(0, 2, 3, 1).numpy())
    for with_pad in (False, True):
        _core.avg_pool2d_f32(x, got, *window, with_pad)
        want = torch.nn.functional.avg_pool2d(t, 3, 2, 1, count_include_pad=with_pad).permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [*enumerate(["mean", "sum", "sum_of_squares", "max"])], ids=lambda kind: kind[1])
def test_reductions_give_the_specified_bits(kind, rng, isa):
    number, name = kind
    for shape in ((1, 1, 1), (3, 50, 17), (7, 3, 1), (2, 300, 64)):
        for x in (floats(rng, *shape), strange(rng, *shape)):
            want = numerics.reduce_f32(x, name)
            out = np.empty_like(want)
            _core.reduce_f32(x, out, number)
            assert out.tobytes() == want.tobytes()
    with pytest.raises(ShapeError, match="kind"):
        _core.reduce_f32(x, out, 4)
    with pytest.raises(ShapeError, match="nothing along N"):
        _core.reduce_f32(np.empty((2, 0, 3), np.float32), np.empty((2, 3), np.float32), number)


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2", "ReduceMax"])
def test_reductions_of_an_empty_batch(op):
    b = Builder()
    b.input("x", ["n", 3, 4, 5])
    b.const("axes", np.array([1, 3], np.int64))
    b.add(op, ["x", "axes"], "y", keepdims=0)
    p = qgemm.load(b.model("y"))
    assert p(np.empty((0, 3, 4, 5), np.float32)).shape == (0, 4)
    assert p(np.ones((2, 3, 4, 5), np.float32)).shape == (2, 4)


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


TRANSPOSED = {
    "2x2 stride 2": ((5, 6), (2, 2), {"strides": [2, 2]}),
    "4x4 stride 2, padded": ((5, 6), (4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "3x3 stride 2, more at the end": ((4, 4), (3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    "stride 1": ((5, 4), (3, 3), {"pads": [1, 1, 1, 1]}),
    "dilated, uneven": ((5, 4), (3, 2), {"strides": [2, 1], "dilations": [3, 2], "pads": [3, 1, 0, 2]}),
    "cropped by more than a step": ((5, 6), (5, 5), {"strides": [2, 2], "pads": [4, 3, 3, 4]}),
    "groups": ((3, 3), (3, 3), {"strides": [3, 2], "group": 2, "pads": [1, 0, 0, 1]}),
    "depthwise": ((3, 3), (2, 2), {"strides": [2, 2], "group": 6}),
    "one dimension": ((9,), (4,), {"strides": [2], "pads": [1, 1]}),
    "one position": ((1, 1), (2, 2), {"strides": [2, 2], "pads": [0, 0, 1, 1]}),
}


@pytest.mark.parametrize("case", TRANSPOSED.values(), ids=TRANSPOSED)
@pytest.mark.parametrize("bits", [None, 8])
def test_transposed_convolutions_are_native(rng, case, bits):
    sizes, kernel, attrs = case
    b = Builder()
    b.input("x", ["n", 6, *sizes])
    groups = attrs.get("group", 1)
    b.const("w", floats(rng, 6, 6 // groups if groups == 6 else 4, *kernel)), b.const("b", floats(rng, 6 if groups == 6 else 4 * groups))
    y = b.add("Relu", [b.add("ConvTranspose", ["x", "w", "b"], "c", **attrs)], "y" if bits is None else "r")
    m = b.model(y if bits is None else b.q(y, 0.05, 0, out="y"))
    p = qgemm.load(m)
    for n in (1, 3):
        x = floats(rng, n, 6, *sizes)
        np.testing.assert_allclose(p(x), reference(m, {"x": x})[0], rtol=1e-4, atol=1e-4 if bits is None else 0.0501)
    assert not islands(p) and "conv2d_f32" in {s.kernel for s in p.steps}


def test_a_transposed_convolution_with_gaps_is_numpys(rng):
    """A stride beyond the kernel leaves rows that no tap reaches."""
    b = Builder()
    b.input("x", ["n", 3, 4, 4])
    b.const("w", floats(rng, 3, 2, 2, 2))
    b.add("ConvTranspose", ["x", "w"], "y", strides=[3, 2])
    m = b.model("y")
    p, x = qgemm.load(m), floats(rng, 2, 3, 4, 4)
    np.testing.assert_allclose(p(x), reference(m, {"x": x})[0], rtol=1e-4, atol=1e-5)
    assert islands(p) == ["ConvTranspose"]


def islands(p) -> list[str]:
    return [p.steps[step].op for c in p._compiled.values() for step, _, _, _, island in c.core.ops() if island]


@pytest.mark.parametrize("bits", [None, 8, 16])
@pytest.mark.parametrize(
    "op", ["conv", "depthwise", "group", "max pool", "average pool", "global average", "global max", "linear", "mean", "norm"]
)
def test_float_layers_and_their_encodings_are_native(rng, op, bits):
    """A float input, and a result without an encoding, on an 8-bit grid or on a 16-bit one."""
    b = Builder()
    b.input("x", ["n", 8, 7, 6])
    for name, shape in (("w", (16, 8, 3, 3)), ("dw", (8, 1, 3, 3)), ("gw", (8, 2, 1, 1)), ("m", (6, 5)), ("axes", ())):
        b.const(name, np.array([1, 3], np.int64) if name == "axes" else floats(rng, *shape))
    window = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}
    y = {
        "conv": lambda: b.add("Conv", ["x", "w"], "y0", pads=[1, 1, 1, 1], strides=[2, 2]),
        "depthwise": lambda: b.add("Conv", ["x", "dw"], "y0", group=8),
        "group": lambda: b.add("Conv", ["x", "gw"], "y0", group=4),
        "max pool": lambda: b.add("MaxPool", ["x"], "y0", **window),
        "average pool": lambda: b.add("AveragePool", ["x"], "y0", **window),
        "global average": lambda: b.add("GlobalAveragePool", ["x"], "y0"),
        "global max": lambda: b.add("GlobalMaxPool", ["x"], "y0"),
        "linear": lambda: b.add("MatMul", ["x", "m"], "y0"),
        "mean": lambda: b.add("ReduceMean", ["x", "axes"], "y0", keepdims=0),
        "norm": lambda: b.add("ReduceL2", ["x", "axes"], "y0", keepdims=1),
    }[op]()
    if bits is not None:
        y = b.q(y, 16 / 2**bits, 2 ** (bits - 1), dtype=f"uint{bits}")
    m = b.model(y)
    p = qgemm.load(m)
    for n in (1, 3):
        x = floats(rng, n, 8, 7, 6)
        np.testing.assert_allclose(p(x), reference(m, {"x": x})[0], rtol=1e-4, atol=1e-4 if bits is None else 16.01 / 2**bits)
    assert not islands(p) and all(s.kernel != "numpy" for s in p.steps)
