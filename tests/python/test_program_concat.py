"""Concatenations of a compiled program: inputs are computed in their part of the result, so that no byte moves.

That every program gives the bytes of its Python steps is asserted by the fixture compiled_equals_stepwise of conftest.py.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from onnx import helper

import qgemm
from onnx_nets import Builder, reference

SCALE, ZERO = 0.05, 128


def kernels(program) -> Counter:
    (c,) = program._compiled.values()
    return Counter(kernel for _, kernel, *_ in c.core.ops())


def run(b, *outputs, shape, rng, batches=(1, 3)) -> Counter:
    """The kernels of the compiled program, which are the same at every batch and give the bytes of the steps."""
    p = qgemm.load(b.model(*outputs))
    found = []
    for n in batches:
        p._compiled.clear()
        x = rng.standard_normal((n, *shape)).astype(np.float32)
        for got, want in zip(np.atleast_1d(p(x)) if len(outputs) == 1 else p(x), p._stepwise([x]), strict=False):
            assert np.array_equal(got, want if len(outputs) > 1 else want[0])
        found.append(kernels(p))
    assert all(f == found[0] for f in found)
    return found[0]


def grid(b, name, out=None):
    return b.q(name, SCALE, ZERO, **({} if out is None else {"out": out}))


def conv(b, rng, x, n, c, k, group=1, **attrs):
    w = b.weight(f"w{len(b.nodes)}", rng.integers(-128, 128, (n, c // group, *k)).astype(np.int8), np.full(n, 0.002))
    return grid(b, b.add("Conv", [x, w], f"c{len(b.nodes)}", group=group, **attrs))


def cat(b, *parts, axis=1):
    return grid(b, b.add("Concat", list(parts), f"cat{len(b.nodes)}", axis=axis))


def start(c=8, spatial=(6, 5)):
    b = Builder()
    b.input("x", ["n", c, *spatial])
    return b, grid(b, "x")


def test_every_producer_writes_its_part(rng, isa):
    b, x = start()
    stem = conv(b, rng, x, 16, 8, (1, 1))
    up = b.weight("up", rng.integers(-128, 128, (16, 6, 3, 3)).astype(np.int8), np.full(6, 0.003), axis=1)
    pool = dict(kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    parts = [
        conv(b, rng, stem, 24, 16, (1, 1)),
        conv(b, rng, stem, 7, 16, (3, 3), pads=[1, 1, 1, 1]),
        conv(b, rng, stem, 16, 16, (3, 3), group=16, pads=[1, 1, 1, 1]),
        grid(b, b.add("MaxPool", [stem], "max", **pool)),
        grid(b, b.add("AveragePool", [stem], "mean", **pool)),
        grid(b, b.add("Tanh", [stem], "table")),
        grid(b, b.add("Add", [stem, conv(b, rng, stem, 16, 16, (1, 1))], "sum")),
        grid(b, b.add("Mul", [stem, conv(b, rng, stem, 16, 16, (1, 1))], "product")),
        grid(b, b.add("ConvTranspose", [stem, up], "turned", pads=[1, 1, 1, 1])),
    ]
    conv(b, rng, cat(b, *parts), 8, 24 + 7 + 6 * 16 + 6, (1, 1))
    b.q(b.nodes[-1].output[0], SCALE, ZERO, out="y")
    found = run(b, "y", shape=(8, 6, 5), rng=rng)
    assert found["copy"] == 0 and found["numpy"] == 0 and found["conv2d"] == 6


def test_one_dimension(rng):
    b, x = start(spatial=(20,))
    x = conv(b, rng, x, 8, 8, (1,))
    parts = [conv(b, rng, x, 16, 8, (1,)), conv(b, rng, x, 5, 8, (3,), pads=[1, 1])]
    grid(b, conv(b, rng, cat(b, *parts), 8, 21, (1,)), out="y")
    assert run(b, "y", shape=(8, 20), rng=rng)["copy"] == 1  # of the planar input


def test_concatenations_that_grow_share_one_result(rng, isa):
    """A dense block: each concatenation holds all that was before, and a table reads it where it lies."""
    b, x = start()
    parts = [conv(b, rng, x, 16, 8, (1, 1))]
    for _ in range(3):
        joined = cat(b, *parts) if len(parts) > 1 else parts[0]
        twice = grid(b, b.add("Add", [joined, joined], f"twice{len(b.nodes)}"))
        parts.append(conv(b, rng, twice, 8, 16 + 8 * (len(parts) - 1), (3, 3), pads=[1, 1, 1, 1]))
    grid(b, b.add("MaxPool", [cat(b, *parts)], "m", kernel_shape=[2, 2]), out="y")
    found = run(b, "y", shape=(8, 6, 5), rng=rng)
    assert found["copy"] == 0 and found["lut"] == 3


def test_a_concatenation_inside_another(rng):
    b, x = start()
    a, c, d = (conv(b, rng, x, n, 8, (1, 1)) for n in (16, 8, 3))
    grid(b, conv(b, rng, cat(b, d, cat(b, a, c)), 4, 27, (1, 1)), out="y")
    assert run(b, "y", shape=(8, 6, 5), rng=rng)["copy"] == 0


def test_a_skip_connection_is_pooled_and_joined(rng):
    """U-Net: the skip's other reader takes pixels that lie apart."""
    b, x = start(spatial=(8, 8))
    skip = conv(b, rng, x, 16, 8, (3, 3), pads=[1, 1, 1, 1])
    deep = conv(b, rng, grid(b, b.add("MaxPool", [skip], "m", kernel_shape=[2, 2], strides=[2, 2])), 16, 16, (1, 1))
    up = b.weight("up", rng.integers(-128, 128, (16, 16, 2, 2)).astype(np.int8), np.full(16, 0.003), axis=1)
    turned = grid(b, b.add("ConvTranspose", [deep, up], "turned", strides=[2, 2]))
    grid(b, conv(b, rng, cat(b, skip, turned), 4, 32, (3, 3)), out="y")
    assert run(b, "y", shape=(8, 8, 8), rng=rng)["copy"] == 0


def normed(b, rng, x, n):
    """BatchNormalization that no layer can take in: a depthwise convolution of one tap."""
    params = [b.const(f"bn{k}_{len(b.nodes)}", rng.uniform(0.5, 1.5, n).astype(np.float32)) for k in range(4)]
    return grid(b, b.add("BatchNormalization", [x, *params], f"bn{len(b.nodes)}"))


def test_a_dense_block_with_its_norms_copies_nothing(rng, isa):
    """Norms and 1x1 convolutions read the part of the block that is there."""
    b, x = start()
    parts = [conv(b, rng, x, 16, 8, (1, 1))]
    for k in range(3):
        width = 16 + 8 * k
        joined = cat(b, *parts) if k else parts[0]
        inner = conv(b, rng, normed(b, rng, joined, width) if k % 2 else joined, 12, width, (1, 1))
        parts.append(conv(b, rng, inner, 8, 12, (3, 3), pads=[1, 1, 1, 1]))
    grid(b, b.add("MaxPool", [cat(b, *parts)], "m", kernel_shape=[2, 2]), out="y")
    found = run(b, "y", shape=(8, 6, 5), rng=rng)
    assert found["copy"] == 0 and found["conv2d depthwise"] == 1


def test_windows_over_a_part(rng, isa):
    """Strided, padded and dilated ones; an average that is a convolution with ones."""
    b, x = start()
    a, c = conv(b, rng, x, 24, 8, (1, 1)), conv(b, rng, x, 8, 8, (1, 1))
    joined = conv(b, rng, cat(b, a, c), 8, 32, (1, 1))
    wide = conv(b, rng, a, 24, 24, (3, 3), group=24, pads=[2, 2, 2, 2], dilations=[2, 2])
    strided = conv(b, rng, a, 24, 24, (3, 3), group=24, pads=[1, 1, 1, 1], strides=[2, 2])
    mean = grid(b, b.add("AveragePool", [a], "mean", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1))
    for k, y in enumerate((joined, wide, strided, mean)):
        b.add("Identity", [y], f"y{k}")
    assert run(b, "y0", "y1", "y2", "y3", shape=(8, 6, 5), rng=rng)["copy"] == 0


def test_floats_over_a_part(rng, isa):
    """Convolutions, pools and expressions without an encoding read floats with gaps, and write them."""
    b = Builder()
    b.input("x", ["n", 8, 6, 5])
    for name, shape in (("w", (8, 8, 1, 1)), ("v", (4, 8, 3, 3)), ("d", (8, 1, 3, 3)), ("last", (4, 20, 1, 1))):
        b.const(name, rng.standard_normal(shape).astype(np.float32))
    a, c = b.add("Conv", ["x", "w"], "a"), b.add("Conv", ["x", "v"], "c", pads=[1, 1, 1, 1])
    depth = b.add("Conv", [a, "d"], "depth", group=8, pads=[1, 1, 1, 1])
    b.add("Conv", [b.add("Concat", [a, c, depth], "joined", axis=1), "last"], "y")
    pooled = b.add("MaxPool", [a], "pooled", kernel_shape=[2, 2])
    b.add("GlobalAveragePool", [b.add("Mul", [pooled, pooled], "squared")], "z")
    b.add("GlobalMaxPool", [b.add("Tanh", [a], "t")], "u")
    found = run(b, "y", "z", "u", shape=(8, 6, 5), rng=rng)
    assert found["copy"] <= 4 and found["numpy"] == 0  # the input, the results


@pytest.mark.parametrize("groups", [2, 3])
def test_a_channel_shuffle_keeps_pixels_whole(rng, isa, groups):
    """ShuffleNet: reshape, transpose, reshape; half of the channels go through a 1x1 convolution, which reads them where they are."""
    b, x = start(c=12)
    a = conv(b, rng, x, 12, 12, (1, 1))
    for k, shape in enumerate(([0, groups, 12 // groups, 6, 5], [0, 12, 6, 5])):
        b.const(f"shape{k}", np.array(shape, np.int64))
    apart = grid(b, b.add("Reshape", [a, "shape0"], "apart"))
    turned = grid(b, b.add("Transpose", [apart], "turned", perm=[0, 2, 1, 3, 4]))
    mixed = grid(b, b.add("Reshape", [turned, "shape1"], "mixed"))
    b.const("sizes", np.array([4, 8], np.int64))
    b.nodes.append(helper.make_node("Split", [mixed, "sizes"], ["left", "right"], axis=1))
    grid(b, conv(b, rng, cat(b, "left", conv(b, rng, "right", 8, 8, (1, 1))), 8, 12, (1, 1)), out="y")
    found = run(b, "y", shape=(12, 6, 5), rng=rng)
    assert found["permute"] == 1 and found["copy"] <= 1, found  # left


def test_a_reader_that_needs_all_bytes_together_keeps_the_copy(rng):
    b, x = start()
    a, c = conv(b, rng, x, 16, 8, (1, 1)), conv(b, rng, x, 8, 8, (1, 1))
    joined = conv(b, rng, cat(b, a, c), 16, 24, (1, 1))
    grid(b, b.add("Add", [conv(b, rng, a, 16, 16, (3, 3), pads=[1, 1, 1, 1]), joined], "s"), out="y")
    assert run(b, "y", shape=(8, 6, 5), rng=rng)["copy"] == 1  # of a


def test_what_leaves_the_network_or_comes_twice_is_copied(rng):
    b, x = start()
    a = conv(b, rng, x, 16, 8, (1, 1))
    b.add("Identity", [cat(b, a, a)], "y")
    b.add("Identity", [a], "z")
    k = b.weight("k", rng.integers(0, 256, (1, 4, 6, 5)).astype(np.uint8), np.float32(SCALE), np.uint8(ZERO))
    b.add("Identity", [cat(b, k, conv(b, rng, x, 8, 8, (1, 1)))], "fixed")
    run(b, "y", "z", "fixed", shape=(8, 6, 5), rng=rng, batches=(1,))


def test_rows_one_after_the_other_need_no_gaps(rng):
    """Detection heads: images reshaped to rows and joined along them. With one image each head writes straight into the result."""
    b, x = start(spatial=(4, 4))
    heads = []
    for k in range(2):
        image = conv(b, rng, x, 12, 8, (3, 3), pads=[1, 1, 1, 1], strides=[k + 1, k + 1])
        rows = b.add("Transpose", [image], f"t{k}", perm=[0, 2, 3, 1])
        heads.append(b.add("Reshape", [rows, b.const(f"shape{k}", np.array([0, -1, 4], np.int64))], f"r{k}"))
    grid(b, cat(b, *heads), out="y")
    assert run(b, "y", shape=(8, 4, 4), rng=rng, batches=(1,))["copy"] == 0
    run(b, "y", shape=(8, 4, 4), rng=rng, batches=(3,))


def test_threads_and_calls_at_once(rng):
    torch = pytest.importorskip("torch")
    b, x = start(spatial=(24, 24))
    parts = [conv(b, rng, x, 64, 8, (3, 3), pads=[1, 1, 1, 1]) for _ in range(3)]
    grid(b, conv(b, rng, cat(b, *parts), 16, 192, (1, 1)), out="y")
    p = qgemm.load(b.model("y"))
    x = torch.from_numpy(rng.standard_normal((4, 8, 24, 24)).astype(np.float32))
    before, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(p(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(r, results[0]) for r in results)


def test_an_expression_takes_over_no_bytes_of_another_part(rng):
    """Two concatenations of equal size: the input of Tanh begins the one, its result ends the other, so that neither may be the
    other's memory."""
    b = Builder()
    b.input("x", [3, 4096])
    b.input("z", [1, 4096])
    b.add("Softmax", [b.add("Concat", [b.add("Exp", ["x"], "a"), b.add("Exp", ["z"], "b")], "w1", axis=0)], "r", axis=-1)
    b.add("Softmax", [b.add("Concat", [b.add("Sigmoid", ["z"], "c"), b.add("Tanh", ["a"], "t")], "w2", axis=0)], "s", axis=-1)
    m = b.model("r", "s")
    p = qgemm.load(m)
    x, z = rng.normal(size=(3, 4096)).astype(np.float32), rng.normal(size=(1, 4096)).astype(np.float32)
    for got, want in zip(p(x, z), reference(m, {"x": x, "z": z}), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4)
