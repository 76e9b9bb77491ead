"""Programs behind Program.__call__: compiled once a shape, native but for islands, byte for byte what the Python steps give.

That every network of every test compiles to the same bytes is asserted by the fixture compiled_equals_stepwise of conftest.py.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import qgemm
from onnx_nets import Builder, reference
from qgemm import _core
from qgemm.errors import ShapeError


def floats(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def compiled(program):
    (c,) = program._compiled.values()
    return c


def kernels(program) -> list[str]:
    return [kernel for _, kernel, *_ in compiled(program).core.ops()]


def conv(b, rng, x, n, c, k, **attrs):
    w = b.weight(f"w{len(b.nodes)}", rng.integers(-128, 128, (n, c, k, k)).astype(np.int8), np.full(n, 0.002))
    return b.q(b.add("Conv", [x, w], f"c{len(b.nodes)}", **attrs), 0.05, 128)


def residual_net(rng, concat=False):
    b = Builder()
    b.input("x", ["n", 3, 16, 16])
    stem = conv(b, rng, b.q("x", 0.02, 128), 16, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1])
    branch = conv(b, rng, conv(b, rng, stem, 16, 16, 3, pads=[1, 1, 1, 1]), 16, 16, 1)
    joined = b.q(b.add("Add", [stem, branch], "sum"), 0.08, 120)
    pooled = b.q(b.add("MaxPool", [joined], "m", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 0.08, 120)
    if concat:
        side = b.q(b.add("Sigmoid", [pooled], "sig"), 1 / 255, 0)
        pooled = b.q(b.add("Concat", [pooled, side], "cat", axis=1), 0.08, 120)
    mean = b.q(b.add("GlobalAveragePool", [pooled], "g"), 0.03, 100)
    w = b.weight("fc", rng.integers(-128, 128, (10, 32 if concat else 16)).astype(np.int8), np.full(10, 0.01))
    b.q(b.add("Gemm", [b.add("Flatten", [mean], "f"), w], "z", transB=1), 0.1, 128, out="y")
    return b.model("y")


@pytest.mark.parametrize("concat", [False, True])
def test_a_convolutional_network_is_one_native_call(rng, isa, concat):
    p = qgemm.load(residual_net(rng, concat))
    for n in (1, 3):
        x = floats(rng, n, 3, 16, 16)
        assert np.array_equal(p(x), p._stepwise([x])[0]) and np.array_equal(p(x), p(x))
    assert all(c.native for c in p._compiled.values())
    for c in p._compiled.values():
        arena, minimum, _ = c.core.memory()
        assert minimum <= arena <= 1.3 * minimum + 64 * 20


def test_reshapes_cost_nothing_and_the_input_is_transposed_once(rng):
    p = qgemm.load(residual_net(rng))
    p(floats(rng, 1, 3, 16, 16))
    assert kernels(p) == [
        "quantize", "conv2d", "conv2d", "conv2d", "add", "max_pool2d", "avg_pool2d", "linear", "dequantize",
    ]  # fmt: skip


def test_moves_become_copies(rng):
    """Concat, Pad, Slice, Gather, DepthToSpace, Transpose, Resize and Tile of bytes, whatever the memory order."""
    b = Builder()
    b.input("x", ["n", 8, 6, 5])
    q = b.q("x", 0.05, 128)
    c = conv(b, rng, q, 8, 8, 1)  # channels-last from here on
    c = b.q(b.add("Concat", [c, q], "cat", axis=1), 0.05, 128)
    pads = b.const("pads", np.array([0, 0, 1, 2, 0, 0, 0, 1], np.int64))
    c = b.add("Pad", [c, pads], "pad")
    idx = b.const("idx", np.array([3, 1, 1, 15, 8, 9, 10, 2], np.int64))
    c = b.add("Gather", [c, idx], "gather", axis=1)
    ends = [b.const(k, np.array(v, np.int64)) for k, v in (("s", [1]), ("e", [7]), ("a", [2]), ("st", [2]))]
    c = b.add("Slice", [c, *ends], "slice")
    c = b.add("DepthToSpace", [c], "d2s", blocksize=2)
    c = b.add("Resize", [c, "", b.const("scales", np.array([1, 1, 2, 2], np.float32))], "up", mode="nearest",
              coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    c = b.add("Transpose", [c], "tr", perm=[0, 2, 1, 3])
    c = b.add("Tile", [c, b.const("reps", np.array([1, 1, 2, 1], np.int64))], "tile")
    b.q(c, 0.05, 128, out="y")
    p = qgemm.load(b.model("y"))
    for n in (1, 2):
        x = floats(rng, n, 8, 6, 5)
        assert np.array_equal(p(x), p._stepwise([x])[0])
    assert all(c.native for c in p._compiled.values())


@pytest.mark.parametrize("zero", [0, 1, 128])
def test_padding_ends_where_the_image_begins(rng, zero):
    """Also where the padding's byte is 0 and the tensor behind it starts at the first byte of its memory."""
    b = Builder()
    b.input("x", ["n", 3, 4, 5])
    b.add("Pad", [b.q("x", 0.05, zero), b.const("pads", np.array([0, 0, 1, 1, 0, 0, 0, 1], np.int64))], "pad")
    b.q("pad", 0.05, zero, out="y")
    p = qgemm.load(b.model("y"))
    for n in (1, 2):
        x = np.float32(0.05) * rng.integers(1, 100, (n, 3, 4, 5)).astype(np.float32)
        assert np.array_equal(p(x), np.pad(x, ((0, 0), (0, 0), (1, 0), (1, 1))))
    assert kernels_of_all(p) == {"quantize", "fill", "copy", "dequantize"}


def test_islands_between_native_segments(rng):
    b = Builder()
    b.input("x", ["n", 32])
    h = b.q("x", 0.05, 128)
    for k in range(3):
        w = b.weight(f"w{k}", rng.integers(-128, 128, (32, 32)).astype(np.int8), np.full(32, 0.003))
        h = b.q(b.add("Gemm", [h, w], f"g{k}", transB=1), 0.05, 128)
        h = b.q(b.add("Mul", [b.add("Celu", [h], f"s{k}"), b.add("LogSoftmax", [h], f"t{k}", axis=-1)], f"o{k}"), 0.02, 100)
    b.q(h, 0.02, 100, out="y")
    p = qgemm.load(b.model("y", "o1"))
    x = floats(rng, 5, 32)
    for got, want in zip(p(x), p._stepwise([x]), strict=True):
        assert np.array_equal(got, want)
    assert not compiled(p).native


@pytest.mark.parametrize("floats_too", [False, True])
@pytest.mark.parametrize("sequences", [1, 3])
def test_heads_are_not_copied(rng, isa, sequences, floats_too):
    """Attention reads queries, keys and values where the layers wrote them and writes its heads beside each other."""
    heads, length, width = 3, 5, 8
    b = Builder()
    b.input("x", [sequences, length, heads * width])
    h = b.q("x", 0.02, 128)
    parts = []
    for name, perm in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
        w = b.weight(name, rng.integers(-128, 128, (heads * width, heads * width)).astype(np.int8), np.full(heads * width, 0.002), axis=1)
        y = b.q(b.add("MatMul", [h, w], f"{name}_y"), 0.05, 128)
        y = b.add("Reshape", [y, b.const(f"{name}_shape", np.array([0, length, heads, width]))], f"{name}_heads")
        parts.append(b.add("Transpose", [y], f"{name}_t", perm=perm))
    scores = b.add("MatMul", parts[:2], "scores")
    weights = b.add("Softmax", [scores if floats_too else b.q(scores, 0.1, 128)], "weights", axis=-1)
    mixed = b.add("MatMul", [weights if floats_too else b.q(weights, 1 / 255, 0), parts[2]], "mixed")
    mixed = mixed if floats_too else b.q(mixed, 0.03, 128)
    mixed = b.add("Transpose", [mixed], "side_by_side", perm=[0, 2, 1, 3])
    y = b.add("Reshape", [mixed, b.const("flat", np.array([0, length, heads * width]))], "merged")
    b.add("Identity", [y], "y")
    p = qgemm.load(b.model("y"))
    x = floats(rng, sequences, length, heads * width)
    assert np.array_equal(p(x), p._stepwise([x])[0])
    tail = ["matmul", "softmax", *(["dequantize", "matmul floats", "copy"] if floats_too else ["matmul", "dequantize"])]
    assert kernels(p) == ["quantize", "linear", "linear", "linear", *tail]


def test_float_expressions_are_native(rng, isa):
    """Chains that read bytes, floats, truth values, integers and constants, spread over axes, in either memory order."""
    b = Builder()
    b.input("x", ["n", 6, 4, 5])
    b.input("keep", ["n", 1, 1, 5], "bool")
    b.input("ids", [5], "int64")
    image = conv(b, rng, b.q("x", 0.05, 128), 6, 6, 1)  # channels-last from here on
    scaled = b.add("Mul", [image, b.const("factors", rng.random((6, 1, 1)).astype(np.float32))], "scaled")
    hidden = b.add("Where", ["keep", scaled, b.const("floor", np.float32(-4.0))], "hidden")
    b.add("Add", [b.add("Sin", [hidden], "sin"), b.add("Cast", ["ids"], "numbers", to=1)], "y")
    b.q(b.add("Sub", ["x", hidden], "rest"), 0.1, 60, out="z")
    b.add("Not", [b.add("Less", ["x", b.const("limit", np.float32(0.3))], "low")], "high")
    b.add("Cast", ["high"], "w", to=1)
    p = qgemm.load(b.model("y", "z", "w"))
    for n in (1, 3):
        x, keep, ids = floats(rng, n, 6, 4, 5), rng.random((n, 1, 1, 5)) < 0.5, rng.integers(-9, 9, 5)
        for got, want in zip(p(x, keep, ids), p._stepwise([x, keep, ids]), strict=True):
            assert np.array_equal(got, want) and got.dtype == want.dtype
    assert all(c.native for c in p._compiled.values()) and "expression" in kernels_of_all(p)


def test_an_expression_may_take_the_place_of_what_it_reads(rng):
    b = Builder()
    b.input("x", ["n", 1000])
    b.add("Exp", [b.add("Softmax", [b.add("Neg", ["x"], "a")], "b", axis=-1)], "c")
    b.add("Add", ["c", b.add("LogSoftmax", ["c"], "d", axis=-1)], "y")
    b.add("Mul", ["y", "y"], "z")
    p = qgemm.load(b.model("z"))
    x = floats(rng, 3, 1000)
    assert np.array_equal(p(x), p._stepwise([x])[0])
    assert p.memory["arena_bytes"] <= 2 * (4 * 3000 + 64)


@pytest.mark.parametrize("dtype", ["int64", "int32"])
@pytest.mark.parametrize("axis", [0, 1])
def test_rows_taken_by_an_index_of_the_call(rng, dtype, axis):
    """An embedding: of bytes and of floats, with indices that count from the end, along either axis."""
    b = Builder()
    b.input("ids", ["n", 4], dtype)
    table = b.weight("words", rng.integers(-128, 128, (7, 5, 6)).astype(np.int8), np.float32(0.01))
    b.q(b.add("Gather", [table, "ids"], "taken", axis=axis), 0.01, 128, out="y")
    b.add("Gather", [b.const("floats", floats(rng, 7, 5, 6)), "ids"], "z", axis=axis)
    p = qgemm.load(b.model("y", "z"))
    for n in (1, 3):
        ids = rng.integers(-5, 5, (n, 4)).astype(dtype)
        for got, want in zip(p(ids), p._stepwise([ids]), strict=True):
            assert np.array_equal(got, want)
        with pytest.raises(ShapeError, match="index of 9"):
            p(np.where(ids == ids[0, 0], 9, ids).astype(dtype))
    assert all(c.native for c in p._compiled.values()) and "take" in kernels_of_all(p)


def test_floats_and_integers_are_moved_natively(rng):
    """What is on no grid moves as it is; bytes among floats become floats first."""
    b = Builder()
    b.input("x", ["n", 4, 6])
    b.input("ids", ["n", 6], "int64")
    x = b.add("Concat", ["x", b.const("more", floats(rng, 4, 6)[None]), b.q("x", 0.05, 100)], "cat", axis=0)
    x = b.add("Transpose", [b.add("Tanh", [x], "tanh")], "tr", perm=[0, 2, 1])
    x = b.add("Reshape", [x, b.const("s", np.array([0, -1], np.int64))], "flat")
    b.add("Pad", [x, b.const("pads", np.array([0, 1, 0, 2], np.int64))], "y")
    ids = b.add("Unsqueeze", ["ids", b.const("one", np.array([1], np.int64))], "wide")
    b.add("Cast", [b.add("Tile", [ids, b.const("t", np.array([1, 2, 1], np.int64))], "twice")], "z", to=1)
    p = qgemm.load(b.model("y", "z"))
    for n in (1, 3):
        x, ids = floats(rng, n, 4, 6), rng.integers(0, 99, (n, 6))
        for got, want in zip(p(x, ids), p._stepwise([x, ids]), strict=True):
            assert np.array_equal(got, want)
    assert all(c.native for c in p._compiled.values()) and "numpy" not in {s.kernel for s in p.steps}


def test_softmax_and_layer_norm_are_native(rng):
    b = Builder()
    b.input("x", ["n", 5, 24])
    h = b.q("x", 0.05, 128)
    g, s = (b.const(k, rng.uniform(0.5, 2, 24).astype(np.float32)) for k in ("gamma", "beta"))
    h = b.q(b.add("LayerNormalization", [h, g, s], "norm", axis=-1), 0.03, 100)
    b.q(b.add("Softmax", [h], "soft", axis=-1), 1 / 255, 0, out="y")
    b.add("Softmax", ["x"], "probs", axis=-1)
    p = qgemm.load(b.model("y", "probs"))
    x = floats(rng, 3, 5, 24)
    for got, want in zip(p(x), p._stepwise([x]), strict=True):
        assert np.array_equal(got, want)
    assert compiled(p).native and kernels(p) == ["quantize", "norm", "softmax", "softmax", "dequantize"]


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("axes", [(1,), (2, 3), (-1,), (1, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("image", [False, True])
def test_the_greatest_and_the_least_byte_are_native(rng, op, axes, keep, image):
    """image: of channels-last memory."""
    b = Builder()
    b.input("x", [2, 4, 3, 5])
    x = b.q("x", 0.05, 128)
    x = conv(b, rng, x, 4, 4, 1) if image else x
    y = b.add(op, [x, b.const("axes", np.array(axes, np.int64))], "m", keepdims=keep)
    b.q(y, 0.05, 128, out="y")
    m = b.model("y")
    p, x = qgemm.load(m), floats(rng, 2, 4, 3, 5)
    assert np.array_equal(p(x), p._stepwise([x])[0]) and p(x).shape == reference(m, {"x": x})[0].shape
    if not image:
        assert np.array_equal(p(x), reference(m, {"x": x})[0])
    (row,) = [r for r in qgemm.report(p) if r.op == op]
    assert compiled(p).native and (row.scheme, row.kernel) == ("bytes", "max_pool2d")


@pytest.mark.parametrize("axis", [0, 1, -2])
@pytest.mark.parametrize("held", ["bytes", "floats", "image"])
@pytest.mark.parametrize("result", ["u8", "u16", "floats"])
def test_a_softmax_along_another_axis_than_the_last_is_native(rng, axis, held, result):
    """A segmentation's classes are axis 1; "image": in channels-last memory, where they lie side by side."""
    b = Builder()
    b.input("x", [2, 4, 3, 5])
    x = "x" if held == "floats" else b.q("x", 0.05, 128)
    x = conv(b, rng, x, 4, 4, 1) if held == "image" else x
    b.add("Softmax", [x], "y" if result == "floats" else "soft", axis=axis)
    if result != "floats":
        b.q("soft", *((1 / 255, 0) if result == "u8" else (1 / 65535, 0, np.uint16)), out="y")
    p, x = qgemm.load(b.model("y")), floats(rng, 2, 4, 3, 5)
    assert np.array_equal(p(x), p._stepwise([x])[0]) and np.abs(p(x).sum(axis) - 1).max() < 0.01
    assert compiled(p).native and (held != "image" or axis != 1 or "copy" not in kernels(p))


@pytest.mark.parametrize("held", ["bytes", "floats"])
@pytest.mark.parametrize("mask", [(1, 1, 7, 9), (2, 1, 1, 9), (2, 3, 7, 1), (9,), "constant"])
def test_a_mask_goes_into_the_softmax(rng, isa, held, mask):
    """Causal, of padding, of rows, and a constant one; with places that are hidden, and the operators' own result."""
    b = Builder()
    b.input("x", [2, 3, 7, 9])
    x = b.q("x", 0.05, 128) if held == "bytes" else "x"
    values = np.where(
        rng.random((1, 1, 7, 9) if mask == "constant" else mask) < 0.3, np.float32(-np.finfo(np.float32).max), np.float32(0.25)
    )
    if mask == "constant":
        b.const("mask", values)
    else:
        b.input("mask", list(mask))
    b.add(
        "Softmax",
        [
            b.add("Add", ["mask", x] if held == "bytes" else [x, "mask"], "sum"),
        ],
        "y",
        axis=-1,
    )
    model = b.model("y")
    p = qgemm.load(model)
    inputs = [floats(rng, 2, 3, 7, 9), *([] if mask == "constant" else [values])]
    assert np.array_equal(p(*inputs), p._stepwise(inputs)[0])
    want = reference(model, dict(zip(("x", "mask"), inputs, strict=False)))[0]
    assert np.abs(p(*inputs) - want).max() < 1e-6
    assert [s.op for s in p.steps] == (["Quantize", "Softmax"] if held == "bytes" else ["Softmax"]) and compiled(p).native


def test_products_of_images_are_native(rng, isa):
    """Squeeze and excite: a factor a channel and image, from either side, of every image alike, and of full size."""
    b = Builder()
    b.input("x", ["n", 3, 6, 5])
    c = conv(b, rng, b.q("x", 0.02, 128), 24, 3, 1)
    mean = b.q(b.add("GlobalAveragePool", [c], "mean"), 0.03, 100)
    gate = b.q(b.add("Sigmoid", [conv(b, rng, mean, 24, 24, 1)], "gate"), 1 / 255, 0)
    c = b.q(b.add("Mul", [c, gate], "excite"), 0.05, 120)
    c = b.q(b.add("Mul", [gate, c], "again"), 0.05, 90)
    factor = b.q(b.const("factor", rng.random((1, 24, 1, 1)).astype(np.float32)), 1 / 255, 0)
    c = b.q(b.add("Mul", [c, factor], "scaled"), 0.03, 90)
    c = b.q(b.add("Add", [c, gate], "shifted"), 0.03, 90)
    b.q(b.add("Mul", [c, c], "square"), 0.1, 3, out="y")
    p = qgemm.load(b.model("y"))
    for n in (1, 3):
        x = floats(rng, n, 3, 6, 5)
        assert np.array_equal(p(x), p._stepwise([x])[0])
    assert all(c.native for c in p._compiled.values())
    assert kernels_of_all(p) >= {"mul", "add"} and "copy" not in kernels_of_all(p)


def kernels_of_all(program) -> set[str]:
    return {kernel for c in program._compiled.values() for _, kernel, *_ in c.core.ops()}


def test_resizing_transposed_and_volume_convolutions_are_native(rng, isa):
    b = Builder()
    b.input("x", ["n", 4, 5, 6])
    w = b.weight("w", rng.integers(-128, 128, (4, 6, 3, 3)).astype(np.int8), np.full(6, 0.003), axis=1)
    c = b.q(b.add("ConvTranspose", [b.q("x", 0.02, 128), w], "up", strides=[2, 2], pads=[1, 0, 0, 1], output_padding=[1, 0]), 0.05, 128)
    scales = b.const("scales", np.array([1, 1, 2, 1.5], np.float32))
    c = b.q(b.add("Resize", [c, "", scales], "wide", mode="linear"), 0.05, 120)
    b.q(c, 0.05, 120, out="y")
    p = qgemm.load(b.model("y"))
    v = Builder()
    v.input("x", ["n", 3, 5, 6, 7])
    w = v.weight("w", rng.integers(-128, 128, (8, 3, 2, 3, 3)).astype(np.int8), np.full(8, 0.003))
    v.q(v.add("Conv", [v.q("x", 0.02, 128), w], "volume", strides=[1, 2, 1], pads=[1, 0, 1, 0, 1, 1]), 0.05, 128, out="y")
    q = qgemm.load(v.model("y"))
    for n in (1, 2):
        for program, x in ((p, floats(rng, n, 4, 5, 6)), (q, floats(rng, n, 3, 5, 6, 7))):
            assert np.array_equal(program(x), program._stepwise([x])[0])
    assert kernels_of_all(p) >= {"conv_transpose2d", "resize_linear"} and kernels_of_all(q) >= {"conv3d"}
    assert all(c.native for c in (*p._compiled.values(), *q._compiled.values()))


def test_shapes_that_depend_on_values_run_stepwise(rng):
    b = Builder()
    b.input("x", ["n", 6])
    b.add("NonZero", [b.add("Relu", ["x"], "r")], "at")
    b.add("Cast", ["at"], "y", to=1)
    p = qgemm.load(b.model("y"))
    for x in (floats(rng, 2, 6), np.ones((2, 6), np.float32), -np.ones((2, 6), np.float32), floats(rng, 2, 6)):
        assert np.array_equal(p(x), np.stack(np.nonzero(np.maximum(x, 0))).astype(np.float32))


def test_many_shapes_and_callers_at_once(rng):
    p = qgemm.load(residual_net(rng))
    xs = [floats(rng, n, 3, 16, 16) for n in range(1, 13)] * 3
    want = [p._stepwise([x])[0] for x in xs]
    with ThreadPoolExecutor(6) as pool:
        for got, w in zip(pool.map(p, xs), want, strict=True):
            assert np.array_equal(got, w)
    assert len(p._compiled) <= 8


def test_torch_memory_formats_strides_and_types(rng):
    torch = pytest.importorskip("torch")
    p = qgemm.load(residual_net(rng))
    x = torch.from_numpy(floats(rng, 2, 3, 16, 16))
    y = p(x)
    wide = torch.zeros(2, 3, 16, 32)
    wide[..., ::2] = x
    for given in (x, x.contiguous(memory_format=torch.channels_last), wide[..., ::2], x.clone().requires_grad_(), torch.nn.Parameter(x)):
        for _ in range(2):  # the second time from the compiled program
            got = p(given)
            assert type(got) is torch.Tensor and torch.equal(got, y) and not got.requires_grad
    y2 = p(x)
    y2.zero_()
    assert torch.equal(p(x), y)
    with torch.inference_mode():
        assert torch.equal(p(x), y)


def test_a_result_keeps_channels_last_memory(rng):
    torch = pytest.importorskip("torch")
    b = Builder()
    b.input("x", ["n", 3, 8, 8])
    b.add("Identity", [conv(b, rng, b.q("x", 0.02, 128), 16, 3, 3)], "y")
    p = qgemm.load(b.model("y"))
    x = torch.from_numpy(floats(rng, 2, 3, 8, 8))
    first, again = p(x), p(x)
    assert torch.equal(first, again) and again.shape == (2, 16, 6, 6) and again.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(p(x.numpy()), first.numpy())


def test_threads_do_not_change_a_bit(rng):
    torch = pytest.importorskip("torch")
    p = qgemm.load(residual_net(rng))
    x = torch.from_numpy(floats(rng, 8, 3, 16, 16))
    before = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(p(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_a_sum_of_one_tensor_with_itself_and_a_broadcast_constant(rng):
    b = Builder()
    b.input("x", ["n", 4, 3])
    x = b.q("x", 0.05, 128)
    s = b.q(b.add("Add", [x, x], "twice"), 0.1, 128)
    k = b.weight("k", rng.integers(0, 256, (4, 1)).astype(np.uint8), np.float32(0.05), np.uint8(128))
    b.q(b.add("Add", [k, s], "more"), 0.1, 128, out="y")
    p = qgemm.load(b.model("y"))
    x = floats(rng, 2, 4, 3)
    assert np.array_equal(p(x), p._stepwise([x])[0]) and compiled(p).native


def test_the_runner_takes_only_what_it_was_compiled_for(rng):
    p = qgemm.load(residual_net(rng))
    x = floats(rng, 1, 3, 16, 16)
    assert _core.run_program(p._runner, x) is None  # nothing compiled yet
    p(x)
    assert np.array_equal(_core.run_program(p._runner, x), p(x))
    for other in (x.astype(np.float64), x[..., :8], np.asfortranarray(x), [x], x[0]):
        assert _core.run_program(p._runner, other) is None
    assert _core.run_program(p._runner, x, x) is None and _core.run_program(p._runner) is None
    with pytest.raises(TypeError):
        _core.run_program()
    with pytest.raises(ShapeError):
        p(x[0])


def test_memory_and_times_of_the_compiled_program(rng):
    p = qgemm.load(residual_net(rng))
    assert p.memory["arena_bytes"] == 0 < p.memory["weight_bytes"]
    x = floats(rng, 4, 3, 16, 16)
    p(x)
    m = p.memory
    # The residual sum: its two terms and a result that takes the place of one of them.
    assert m["minimum_bytes"] <= m["arena_bytes"] <= 1.3 * m["minimum_bytes"] and m["minimum_bytes"] == 3 * 4 * 16 * 64
    times = next(p._timed_calls((x,)))
    assert len(times) == len(p.steps) and all(t >= 0 for t in times) and times[1] > 0
    assert times[[s.op for s in p.steps].index("Flatten")] == 0


def test_results_on_sixteen_bit_grids_are_rounded_in_the_program(rng):
    """Behind a layer of bytes, a layer of 16 bits, a convolution (channels last), a softmax, a norm and a product of activations."""
    b = Builder()
    b.input("x", ["n", 4, 6, 6])
    wide = b.q(conv(b, rng, b.q("x", 0.02, 128), 8, 4, 3), 0.05, 128)
    w = b.weight("w", rng.integers(-128, 128, (8, 8, 1, 1)).astype(np.int8), np.full(8, 0.002))
    image = b.q(b.add("Conv", [wide, w], "c"), 1e-3, 30000, np.uint16)
    rows = b.q(b.add("Reshape", [image, b.const("shape", np.array([-1, 8, 16]))], "rows"), 1e-3, 30000, np.uint16)
    soft = b.q(b.add("Softmax", [rows], "soft", axis=-1), 1 / 65535, 0, np.uint16)
    gamma, beta = b.const("gamma", np.ones(16, np.float32)), b.const("beta", np.zeros(16, np.float32))
    norm = b.q(b.add("LayerNormalization", [soft, gamma, beta], "norm", axis=-1), 2e-4, 32768, np.uint16)
    v = b.weight("v", rng.integers(-128, 128, (20, 16)).astype(np.int8), np.full(20, 0.002))
    layer = b.q(b.add("MatMul", [norm, b.add("Transpose", [v], "vt")], "m"), 1e-4, 32768, np.uint16)
    both = b.q(b.add("MatMul", [layer, b.q(b.add("Transpose", [layer], "lt", perm=[0, 2, 1]), 1e-4, 32768, np.uint16)], "mm"), 1e-4, 20000,
               np.uint16)  # fmt: skip
    p = qgemm.load(b.model(both))
    x = floats(rng, 2, 4, 6, 6)
    assert np.array_equal(p(x), p._stepwise([x])[0]) and np.array_equal(p(x), p(x))
    assert compiled(p).native and kernels(p) == [
        "quantize", "conv2d", "conv2d", "expression", "copy", "copy", "softmax", "expression", "norm", "expression", "quantize", "linear16",
        "expression", "copy", "matmul floats", "expression",
    ]  # fmt: skip
