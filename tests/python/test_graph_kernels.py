"""Layers on integer kernels against onnxruntime's float simulation of the same QDQ model, and the reasons where they stay float."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

import qgemm
from onnx_nets import Builder, reference
from qgemm.errors import ShapeError, UnsupportedOpError

pytest.importorskip("onnxruntime")

SX, ZX, SY, ZY = 0.05, 117, 0.31, 93


def program_and_reference(b: Builder, out: str, x: np.ndarray):
    m = b.model(out)
    p = qgemm.load(m)
    return p, p(x), reference(m, {"x": x})[0]


def check(b, x, y, scheme, *, scale=SY, zero=ZY, dtype=np.uint8):
    """Quantize ``y``, run, and hold it against the simulation: at most 1 LSB, and that for at most one output in 1,000."""
    out = b.q(y, scale, zero, dtype, out="out") if scale else y
    p, got, want = program_and_reference(b, out, x)
    assert got.shape == want.shape and got.dtype == np.float32
    if scale:
        steps = np.abs(got - want) / np.float32(scale)
        assert steps.max(initial=0) <= 1.01 and np.count_nonzero(steps > 0.01) <= max(1, got.size // 1000)
        assert len(np.unique(got)) > 4  # a test whose outputs all saturate proves nothing
    else:
        np.testing.assert_allclose(got, want, rtol=3e-5, atol=3e-4)
    assert [s.scheme for s in p.steps if s.weight_bytes] == [scheme]
    return p


def start(shape, sx=SX, zx=ZX, dtype=np.uint8):
    b = Builder()
    b.input("x", [None, *shape])
    return b, b.q("x", sx, zx, dtype)


def data(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32) * 2


WEIGHTS = {
    # scheme: low, high, onnx type, numpy type, zero points
    "W8A8 int8": (-128, 128, None, np.int8, False),
    "W8A8 uint8": (0, 256, None, np.uint8, True),
    "W4A8 int4": (-8, 8, TensorProto.INT4, np.int8, False),
    "W4A8 uint4": (0, 16, TensorProto.UINT4, np.uint8, True),
}


def weight(b, rng, kind, shape, per_channel=True, axis=0):
    low, high, onnx_type, dtype, zeros = WEIGHTS[kind]
    ints = rng.integers(low, high, shape).astype(dtype)
    n = shape[axis]
    scale = (rng.random(n) + 0.5) * (0.01 if high - low > 16 else 0.1) if per_channel else 0.01
    zero = None
    if zeros:
        zero = rng.integers(low + 2, high - 2, n if per_channel else ()).astype(dtype)
    return b.weight("w", ints, scale, zero, axis, onnx_type)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("k", [1, 31, 64])
def test_linear(rng, kind, per_channel, k):
    b, x = start([k])
    b.const("bias", data(rng, 17))
    y = b.add("Gemm", [x, weight(b, rng, kind, (17, k), per_channel), "bias"], "y", transB=1)
    check(b, data(rng, 65, k), y, kind.split()[0], scale=SY * k**0.5 / 4)


@pytest.mark.parametrize("leading", [(), (5,), (2, 3)])
def test_linear_with_leading_dimensions(rng, leading):
    b, x = start([*leading, 24])
    y = b.add("MatMul", [x, weight(b, rng, "W8A8 int8", (24, 12), axis=1)], "m")
    b.const("bias", data(rng, 12))
    check(b, data(rng, 4, *leading, 24), b.add("Add", [y, "bias"], "y"), "W8A8")


@pytest.mark.parametrize("scale", [SY, None])
def test_float_output_and_signed_activations(rng, scale):
    b, x = start([40], zx=-11, dtype=np.int8)
    y = b.add("Gemm", [x, weight(b, rng, "W8A8 int8", (9, 40))], "y", transB=1)
    check(b, data(rng, 33, 40), y, "W8A8", scale=scale, zero=-20, dtype=np.int8)


def test_sixteen_bit_output(rng):
    b, x = start([40])
    y = b.add("Gemm", [x, weight(b, rng, "W8A8 int8", (9, 40))], "y", transB=1)
    out = b.q(y, 0.001, 30000, np.uint16, out="out")
    p, got, want = program_and_reference(b, out, data(rng, 33, 40))
    assert [s.scheme for s in p.steps] == ["u8", "W8A8"]
    assert np.abs(got - want).max() <= 0.00101


def test_int32_bias_joins_the_accumulator(rng):
    """A bias on the accumulator's grid is an integer; on another grid it is its real value."""
    for factor in (1.0, 3.0):
        b, x = start([20])
        ws = (rng.random(6) * 0.02 + 0.005).astype(np.float32)
        w = b.weight("w", rng.integers(-128, 128, (6, 20)).astype(np.int8), ws)
        bias = b.weight("bias", rng.integers(-9999, 9999, 6).astype(np.int32), np.float32(SX) * ws * np.float32(factor))
        check(b, data(rng, 33, 20), b.add("Gemm", [x, w, bias], "y", transB=1), "W8A8")


@pytest.mark.parametrize("bits", [4, 8])
def test_blockwise_linear(rng, bits):
    low, onnx_type = (-8, TensorProto.INT4) if bits == 4 else (-128, TensorProto.INT8)
    b, x = start([96])
    w = b.weight(
        "w", rng.integers(low, -low, (10, 96)), rng.random((10, 3)) * 0.4 / -low + 0.01, axis=1, onnx_type=onnx_type, block_size=32
    )
    check(b, data(rng, 50, 96), b.add("Gemm", [x, w], "y", transB=1), f"W{bits}A8 g32")


CONVS = {
    "3x3": ((8, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
    "1x1": ((8, 3, 1, 1), {}),
    "stride, ragged padding": ((5, 3, 3, 2), {"pads": [0, 1, 2, 0], "strides": [2, 1]}),
    "dilation": ((4, 3, 3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    "groups": ((6, 1, 3, 3), {"group": 3, "pads": [1, 1, 1, 1]}),
    "depthwise": ((3, 1, 3, 3), {"group": 3, "pads": [1, 1, 1, 1]}),
    "same": ((4, 3, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same lower": ((4, 3, 2, 2), {"auto_pad": "SAME_LOWER", "strides": [1, 1]}),
    "valid": ((4, 3, 3, 3), {"auto_pad": "VALID"}),
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("name", CONVS)
def test_conv2d(rng, name, kind):
    shape, attrs = CONVS[name]
    b, x = start([3, 9, 11])
    b.const("bias", data(rng, shape[0]))
    y = b.add("Conv", [x, weight(b, rng, kind, shape), "bias"], "y", **attrs)
    p = check(b, data(rng, 3, 3, 9, 11), y, kind.split()[0], scale=SY / 2)
    assert ("depthwise" in p.steps[1].kernel) == (name == "depthwise")


@pytest.mark.parametrize(
    ("shape", "attrs"),
    [((6, 4, 3), {"pads": [2, 1]}), ((6, 2, 5), {"group": 2, "strides": [3]}), ((4, 1, 3), {"group": 4, "dilations": [2]}),
     ((6, 4, 4), {"auto_pad": "SAME_UPPER", "strides": [2]})],
)  # fmt: skip
def test_conv1d(rng, shape, attrs):
    b, x = start([4, 29])
    y = b.add("Conv", [x, weight(b, rng, "W8A8 int8", shape)], "y", **attrs)
    check(b, data(rng, 3, 4, 29), y, "W8A8", scale=SY / 2)


@pytest.mark.parametrize("act", ["Relu", "Clip"])
@pytest.mark.parametrize("scale", [SY / 4, None])
def test_fused_activation(rng, act, scale):
    b, x = start([3, 6, 6])
    b.const("lo", np.float32(-0.7)), b.const("hi", np.float32(2.2))
    c = b.add("Conv", [x, weight(b, rng, "W8A8 int8", (4, 3, 3, 3))], "c")
    y = b.add(act, [c] if act == "Relu" else [c, "lo", "hi"], "y")
    p = check(b, data(rng, 4, 3, 6, 6), y, "W8A8", scale=scale, zero=40)
    assert [s.op for s in p.steps] == ["Quantize", "Conv"]


def test_channels_last_memory_all_the_way(rng):
    """Layers hand each other channels-last views; the logical result is the reference's."""
    b, x = start([3, 12, 12])
    b.const("w1_b", data(rng, 8))
    c1 = b.q(b.add("Relu", [b.add("Conv", [x, weight(b, rng, "W8A8 int8", (8, 3, 3, 3)), "w1_b"], "c1", pads=[1] * 4)], "r1"), 0.1, 0)
    p1 = b.add("MaxPool", [c1], "p1", kernel_shape=[2, 2], strides=[2, 2])
    a1 = b.q(b.add("Add", [p1, p1], "a1"), 0.2, 0)
    g1 = b.q(b.add("GlobalAveragePool", [a1], "g1"), 0.05, 0)
    t1 = b.add("Transpose", [a1], "t1", perm=[0, 2, 3, 1])
    m = b.model(b.add("Flatten", [g1], "f1"), t1)
    v = data(rng, 2, 3, 12, 12)
    p = qgemm.load(m)
    for got, want in zip(p(v), reference(m, {"x": v}), strict=True):
        assert np.abs(got - want).max() <= 0.0501 if got.ndim == 2 else np.abs(got - want).max() <= 0.201
        assert got.shape == want.shape
    env = p.trace(v)
    assert env["r1"].transpose(0, 2, 3, 1).flags.c_contiguous and env["p1"].dtype == np.uint8
    assert not [s for s in p.steps if s.scheme == "float"]
    fortran = np.asfortranarray(v)  # any memory order of the input gives the same
    for a, b_ in zip(p(v), p(fortran), strict=True):
        assert np.array_equal(a, b_)


POOLS = [
    ("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1, "count_include_pad": 1}),
    ("GlobalAveragePool", {}),
]


@pytest.mark.parametrize(("op", "attrs"), POOLS)
def test_pools(rng, op, attrs):
    b, x = start([5, 7, 9])
    y = b.add(op, [x], "y", **attrs)
    if op != "MaxPool":
        y = b.q(y, 0.0317, 110)
    p, got, want = program_and_reference(b, y, data(rng, 3, 5, 7, 9))
    assert got.shape == want.shape and np.abs(got - want).max() <= (0 if op == "MaxPool" else 0.0318)
    assert np.mean(got != want) < 0.01 and p.steps[1].kernel.endswith("pool2d")


def test_pools_in_one_dimension(rng):
    for op, attrs in (("MaxPool", {"kernel_shape": [3], "strides": [2]}), ("AveragePool", {"kernel_shape": [4], "strides": [4]})):
        b, x = start([5, 21])
        y = b.add(op, [x], "y", **attrs)
        y = y if op == "MaxPool" else b.q(y, 0.0317, 110)
        p, got, want = program_and_reference(b, y, data(rng, 3, 5, 21))
        assert np.abs(got - want).max() <= 0.0318 and p.steps[1].kernel.endswith("pool2d")


@pytest.mark.parametrize("other", ["tensor", "channels", "scalar"])
def test_add(rng, other):
    b, x = start([5, 4, 6])
    if other == "tensor":
        y = b.add("Add", [x, b.q(b.add("Neg", ["x"], "n"), 0.07, 140)], "y")
    else:
        c = b.weight("c", rng.integers(0, 256, (5, 1, 1) if other == "channels" else (1,)).astype(np.uint8), 0.02, np.uint8(100))
        y = b.add("Add", [c, x], "y")
    p, got, want = program_and_reference(b, b.q(b.add("Relu", [y], "r"), 0.09, 0), data(rng, 3, 5, 4, 6))
    assert np.abs(got - want).max() <= 0.0901 and np.mean(got != want) < 0.01
    assert p.steps[-1].kernel == ("lut" if other == "scalar" else "add")


def test_matmul_of_two_activations_is_exact(rng):
    for k in (1, 16, 3000, 40_000):  # beyond 33,025 the engine's int32 could overflow and float64 takes over
        b, x = start([6, k])
        y = b.add("MatMul", [x, b.add("Transpose", [x], "t", perm=[0, 2, 1])], "y")
        p, got, _ = program_and_reference(b, b.q(y, k / 250, 30), v := data(rng, 2, 6, k))
        q = (p.trace(v)["x"].astype(np.int64) - ZX).astype(np.float64)
        acc = (q @ q.transpose(0, 2, 1)).astype(np.float32) * np.float32(float(np.float32(SX)) ** 2)
        s = np.float32(k / 250)
        want = (np.clip(np.rint(acc * (np.float32(1) / s)) + 30, 0, 255) - 30).astype(np.float32) * s
        assert np.array_equal(got, want) and p.steps[-1].scheme == "A8A8"


@pytest.mark.parametrize(
    ("left", "right"), [((2, 3, 4, 5), (5, 6)), ((4, 5), (2, 5, 6)), ((5,), (2, 5, 6)), ((2, 4, 5), (5,)), ((5,), (5,))]
)
def test_matmul_broadcasts(rng, left, right):
    b = Builder()
    b.input("x", list(left)), b.input("z", list(right))
    y = b.add("MatMul", [b.q("x", SX, ZX), b.q("z", 0.03, 90)], "y")
    m = b.model(b.q(y, 0.0937, 100))
    feeds = {"x": data(rng, *left), "z": data(rng, *right)}
    got, want = qgemm.load(m)(*feeds.values()), reference(m, feeds)[0]
    assert got.shape == want.shape and np.abs(got - want).max() <= 0.094 and np.mean(got != want) < 0.02


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize("out", [np.uint8, np.uint16, None])
def test_sixteen_bit_activations(rng, dtype, out):
    """Exact integers, where the simulation's float32 sum is 24 bits wide."""
    b, x = start([3, 200], 2e-4, 32768 if dtype == np.uint16 else 12, dtype)
    ints, ws = rng.integers(-128, 128, (7, 200)).astype(np.int8), (rng.random(7) * 0.01 + 0.001).astype(np.float32)
    b.const("bias", data(rng, 7))
    y = b.add("Add", [b.add("MatMul", [x, b.add("Transpose", [b.weight("w", ints, ws)], "wt")], "m"), "bias"], "y")
    if out:
        y = b.q(y, SY, 100, np.uint8) if out == np.uint8 else b.q(y, 1e-3, 30000, np.uint16)
    v = data(rng, 2, 3, 200)
    p, got, want = program_and_reference(b, y, v)
    assert [s.scheme for s in p.steps] == ["float", "W8A16"]
    lsb = {np.uint8: SY, np.uint16: 1e-3, None: 1e-3}[out]
    assert np.abs(got - want).max() <= 1.01 * lsb
    if out is None:
        xq = np.rint(p.trace(v)["x"].astype(np.float64) / np.float32(2e-4))
        acc = xq @ ints.T.astype(np.float64)
        exact = acc.astype(np.float32).astype(np.float64) * (np.float64(np.float32(2e-4)) * ws).astype(np.float32) + b.constants["bias"]
        np.testing.assert_array_equal(got, exact.astype(np.float32))


def test_concat_of_two_grids_and_bytes_that_move(rng):
    b, x = start([4, 6])
    z = b.q(b.add("Neg", ["x"], "n"), 0.03, 90)
    y = b.q(b.add("Concat", [x, z], "y", axis=1), 0.0637, 120)
    b.const("s", np.array([0, 4, 12])), b.const("starts", np.array([1])), b.const("ends", np.array([7]))
    y = b.add("Slice", [b.add("Reshape", [y, "s"], "r"), "starts", "ends", "starts"], "sl")
    p, got, want = program_and_reference(b, y, data(rng, 3, 4, 6))
    assert np.array_equal(got, want) and not [s for s in p.steps if s.op in ("Concat", "Reshape", "Slice") and s.scheme != "bytes"]


@pytest.mark.parametrize(("value", "scheme"), [(0.0, "bytes"), (-0.05 * 3, "bytes"), (0.333, "float")])
def test_padding_with_a_value(rng, value, scheme):
    b, x = start([2, 5])
    b.const("pads", np.array([0, 0, 1, 0, 0, 2])), b.const("v", np.float32(value))
    p, got, want = program_and_reference(b, b.add("Pad", [x, "pads", "v"], "y"), data(rng, 3, 2, 5))
    assert np.array_equal(got, want) and p.steps[-1].scheme == scheme


TRANSPOSED = {
    "2x2, stride 2": ((6, 5, 2, 2), {"strides": [2, 2]}),
    "4x4, stride 2, padded": ((6, 5, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "ragged": ((6, 5, 3, 2), {"strides": [3, 2], "pads": [0, 1, 2, 0], "output_padding": [1, 0]}),
    "dilated": ((6, 5, 3, 3), {"strides": [2, 2], "dilations": [2, 3], "pads": [2, 2, 2, 2]}),
    "groups": ((6, 2, 3, 3), {"group": 3, "strides": [2, 2]}),
    "depthwise": ((6, 1, 3, 3), {"group": 6, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "line": ((6, 5, 4), {"strides": [3], "pads": [1, 0]}),
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("name", TRANSPOSED)
def test_conv_transpose(rng, name, kind):
    shape, attrs = TRANSPOSED[name]
    size = [7, 9][: len(shape) - 2]
    b, x = start([6, *size])
    b.const("bias", data(rng, shape[1] * attrs.get("group", 1)))
    per_channel = attrs.get("group", 1) == 1 or shape[1] > 1
    y = b.add("ConvTranspose", [x, weight(b, rng, kind, shape, per_channel, axis=1), "bias"], "y", **attrs)
    p = check(b, data(rng, 3, 6, *size), b.add("Relu", [y], "r"), kind.split()[0])
    assert p.steps[1].kernel == "conv_transpose2d"


def test_a_transposed_convolution_says_what_does_not_fit(rng):
    b, x = start([None, None, None])
    y = b.add("ConvTranspose", [x, weight(b, rng, "W8A8 int8", (6, 5, 2, 2), axis=1)], "y", pads=[1, 1, 1, 1])
    p = qgemm.load(b.model(b.q(y, SY, ZY, out="out")))
    with pytest.raises(ShapeError, match="6 channels"):
        p(data(rng, 1, 5, 4, 4))
    with pytest.raises(ShapeError, match="leave nothing"):
        p(data(rng, 1, 6, 1, 1))


VOLUMES = {
    "3x3x3": ((8, 4, 3, 3, 3), {"pads": [1] * 6}),
    "few channels, ragged": ((5, 4, 2, 3, 1), {"pads": [0, 1, 0, 1, 0, 2], "strides": [2, 1, 2]}),
    "dilated": ((4, 4, 2, 2, 3), {"dilations": [2, 1, 2]}),
    "groups": ((6, 2, 3, 1, 3), {"group": 2}),
    "depthwise": ((4, 1, 3, 3, 3), {"group": 4, "pads": [1] * 6}),
    "same": ((4, 4, 3, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2, 2]}),
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("name", VOLUMES)
def test_conv3d(rng, name, kind):
    shape, attrs = VOLUMES[name]
    b, x = start([4, 5, 6, 7])
    y = b.add("Conv", [x, weight(b, rng, kind, shape)], "y", **attrs)
    p = check(b, data(rng, 2, 4, 5, 6, 7), y, kind.split()[0])
    assert p.steps[1].kernel == "conv3d"


@pytest.mark.parametrize("shape", [(4, 6, 7), (4, 1, 1), (1, 6, 7), (4, 6, 1)])
@pytest.mark.parametrize("swapped", [False, True])
def test_products(rng, shape, swapped):
    """The second factor as large as the first, one value a channel (squeeze-excite), or of a shape that is spread out."""
    b = Builder()
    b.input("x", [None, 4, 6, 7]), b.input("z", [None, *shape])
    x, z = b.q("x", SX, ZX), b.q("z", 0.02, 100)
    out = b.q(b.add("Mul", [z, x] if swapped else [x, z], "y"), 0.0973, ZY, out="out")
    m = b.model(out)
    p, feeds = qgemm.load(m), {"x": data(rng, 3, 4, 6, 7), "z": data(rng, 3, *shape)}
    got, want = p(feeds["x"], feeds["z"]), reference(m, feeds)[0]
    steps = np.abs(got - want) / np.float32(0.0973)
    assert steps.max() <= 1.01 and np.count_nonzero(steps > 0.01) <= 2 and len(np.unique(got)) > 4
    assert p.steps[-1].kernel == "mul"


@pytest.mark.parametrize("coord", ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"])
@pytest.mark.parametrize("size", [(12, 14), (6, 7), (9, 3), (1, 1), (17, 23)])
def test_linear_resize(rng, coord, size):
    """Exactly the float operator's values, rounded; and the simulation's within a step."""
    b, x = start([5, 6, 7])
    b.const("none", np.array([], np.float32)), b.const("sizes", np.array([3, 5, *size], np.int64))
    y = b.add("Resize", [x, "", "none", "sizes"], "y", mode="linear", coordinate_transformation_mode=coord)
    p, got, want = program_and_reference(b, b.q(y, 0.07, ZY, out="out"), data(rng, 3, 5, 6, 7))
    assert p.steps[-1].kernel == "resize_linear"
    steps = np.abs(got - want) / np.float32(0.07)
    assert got.shape == want.shape and steps.max() <= 1.01 and np.count_nonzero(steps > 0.01) <= max(2, got.size // 100)


def test_linear_resize_to_the_size_of_another_tensor(rng):
    """Segmentation heads: the sizes follow from a shape, and the batch is free."""
    b = Builder()
    b.input("x", [None, 5, 6, 7]), b.input("like", [None, 5, 12, 9])
    sizes = b.add("Shape", ["like"], "sizes")
    y = b.add("Resize", [b.q("x", SX, ZX), "", "", sizes], "y", mode="linear", coordinate_transformation_mode="half_pixel")
    m = b.model(b.q(y, 0.07, ZY, out="out"))
    p = qgemm.load(m)
    for n in (1, 3):
        feeds = {"x": data(rng, n, 5, 6, 7), "like": data(rng, n, 5, 12, 9)}
        steps = np.abs(p(feeds["x"], feeds["like"]) - reference(m, feeds)[0]) / np.float32(0.07)
        assert steps.max() <= 1.01 and np.count_nonzero(steps > 0.01) <= 2
    assert p.steps[-1].kernel == "resize_linear" and all(c.native for c in p._compiled.values())


def test_linear_resize_leaves_the_batch(rng):
    b = Builder()
    b.input("x", [None, 3, 4, 4]), b.input("sizes", [4], "int64")
    y = b.add("Resize", [b.q("x", SX, ZX), "", "", "sizes"], "y", mode="linear")
    p, sizes = qgemm.load(b.model(b.q(y, 0.07, ZY, out="out"))), np.array([1, 3, 8, 6])
    assert p(data(rng, 1, 3, 4, 4), sizes).shape == (1, 3, 8, 6)
    with pytest.raises(ShapeError, match="height and width only"):
        p(data(rng, 2, 3, 4, 4), sizes)


# ---- what stays float, and why ----


def float_reason(b, out):
    p = qgemm.load(b.model(out))
    with pytest.raises(UnsupportedOpError, match="would compute in float"):
        qgemm.load(b.model(out), on_unsupported="raise")
    (step,) = [s for s in p.steps if s.op in ("Conv", "Linear", "ConvTranspose")]
    images = step.op != "Linear" and len(p.graph.tensors[step.outputs[0]].shape) < 5
    assert step.scheme == "float" and step.kernel == ("product" if step.op == "Linear" else "conv2d_f32" if images else "numpy")
    return step.reason


def test_reasons(rng):
    b = Builder()
    b.input("x", [None, 20])
    w = weight(b, rng, "W8A8 int8", (6, 20))
    assert "has no encoding: run aimet_torch's prepare_model" in float_reason(b, b.add("Gemm", ["x", w], "y", transB=1))
    b, x = start([3, 6, 6], dtype=np.uint16)
    assert "16-bit activation" in float_reason(b, b.add("Conv", [x, weight(b, rng, "W8A8 int8", (6, 3, 3, 3))], "y"))
    b, x = start([20])
    b.const("w", data(rng, 6, 20))
    assert "weight 'w' has no encoding" in float_reason(b, b.add("Gemm", [x, "w"], "y", transB=1))
    b, x = start([20])
    w = b.weight("w", rng.integers(-999, 999, (6, 20)).astype(np.int16), 0.001)
    assert "16-bit weight" in float_reason(b, b.add("Gemm", [x, w], "y", transB=1))
    b, x = start([2, 2, 3, 3, 3])
    assert "4-d convolution" in float_reason(b, b.add("Conv", [x, weight(b, rng, "W8A8 int8", (4, 2, 2, 2, 2, 2))], "y"))
    b, x = start([4, 6, 6])
    w = weight(b, rng, "W8A8 int8", (4, 3, 2, 2))
    assert "axis 0" in float_reason(b, b.add("ConvTranspose", [x, w], "y"))
    b, x = start([4, 3, 3, 3])
    w = weight(b, rng, "W8A8 int8", (4, 3, 2, 2, 2), axis=1)
    assert "3-d transposed convolution" in float_reason(b, b.add("ConvTranspose", [x, w], "y"))
    b, x = start([70000], zx=0)
    w = b.weight("w", np.full((1, 70000), -128, np.int8), 0.001)
    assert "int32" in float_reason(b, b.add("Gemm", [x, w], "y", transB=1))


def test_float_layers_still_compute_the_simulation(rng):
    """An unquantized residual path: float convolutions between encodings, as an unprepared resnet has them."""
    b = Builder()
    b.input("x", [None, 3, 8, 8])
    w = weight(b, rng, "W8A8 int8", (3, 3, 3, 3))
    y = b.add("Add", ["x", b.add("Conv", ["x", w], "c", pads=[1] * 4)], "y")
    v = data(rng, 2, 3, 8, 8)
    p, got, want = program_and_reference(b, b.q(y, 0.1, 128), v)
    assert np.abs(got - want).max() <= 0.101 and np.mean(got != want) < 0.01
    assert [s.scheme for s in p.steps] == ["float", "float"]


def test_wrong_channels_and_too_small_images_name_the_layer(rng):
    b = Builder()
    b.input("x", [None, None, None, None])
    b.add("Conv", [b.q("x", SX, ZX), weight(b, rng, "W8A8 int8", (4, 3, 3, 3))], "y", name="/stem/Conv")
    p = qgemm.load(b.model("y"))
    with pytest.raises(ShapeError, match="'stem' takes 4 dimensions with 3 channels"):
        p(np.zeros((1, 4, 8, 8), np.float32))
    with pytest.raises(ShapeError, match="window of 3x3 does not fit"):
        p(np.zeros((1, 3, 2, 8), np.float32))
    assert p(np.zeros((0, 3, 8, 8), np.float32)).shape == (0, 4, 6, 6)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("spatial", [(5, 4), (7,)])
def test_batch_norm_with_no_layer_before_it(rng, isa, spatial, relu):
    """A depthwise convolution of one tap; factors of either sign, none among them."""
    b, x = start([70, *spatial])
    gamma = data(rng, 70)
    gamma[:3] = 0, 1e-30, -3
    for name, value in (("gamma", gamma), ("beta", data(rng, 70)), ("mean", data(rng, 70)), ("var", np.abs(data(rng, 70)) + 0.1)):
        b.const(name, value)
    y = b.add("BatchNormalization", [x, "gamma", "beta", "mean", "var"], "y", epsilon=1e-3)
    check(b, data(rng, 3, 70, *spatial), b.add("Relu", [y], "r") if relu else y, "u8", scale=0.1)
