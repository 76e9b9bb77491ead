"""Damaged and hostile models: every outcome is a result or a typed error, never a numpy traceback, a crash or a huge allocation."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import qgemm
from onnx_nets import Builder
from qgemm.errors import DTypeError, ModelFormatError, QgemmError


def victim():
    rng = np.random.default_rng(0)
    b = Builder()
    b.input("x", ["n", 3, 8, 8])
    w = b.weight("conv.weight", rng.integers(-128, 128, (8, 3, 3, 3)).astype(np.int8), np.full(8, 0.01), np.zeros(8))
    b.const("conv.bias", np.zeros(8, np.float32)), b.const("lo", np.float32(0)), b.const("hi", np.float32(6))
    c = b.add("Conv", [b.q("x", 0.05, 128), w, "conv.bias"], "c", pads=[1] * 4, strides=[1, 1], dilations=[1, 1], group=1)
    c = b.q(b.add("Clip", [c, "lo", "hi"], "r"), 0.05, 0)
    c = b.add("MaxPool", [c], "m", kernel_shape=[2, 2], strides=[2, 2], pads=[0] * 4)
    s = b.q(b.add("Mul", [c, b.q(b.add("Sigmoid", [c], "s"), 0.004, 0)], "silu"), 0.03, 5)
    b.const("pads", np.array([0, 0, 1, 0, 0, 0, 0, 1]))
    s = b.q(b.add("Concat", [s, c], "cat", axis=1), 0.04, 4)
    g = b.q(b.add("GlobalAveragePool", [b.add("Pad", [s, "pads"], "pad")], "g"), 0.02, 0)
    b.const("shape", np.array([0, -1]))
    w = b.weight("fc.weight", rng.integers(-8, 8, (16, 10)).astype(np.int8), np.full(10, 0.1), axis=1)
    b.const("fc.bias", np.zeros(10, np.float32))
    y = b.add("Add", [b.add("MatMul", [b.add("Reshape", [g, "shape"], "f"), w], "mm"), "fc.bias"], "z")
    b.q(y, 0.1, 128, out="y")
    return b.model("y")


OTHER_OPS = (
    "Conv Softmax Concat Slice Gather Pad MaxPool ConvTranspose Resize Einsum LayerNormalization Reshape Split Add Transpose".split()
)


def damage(m, rnd: random.Random):
    """One to three changes that a checker of types alone does not notice."""
    for _ in range(rnd.choice([1, 1, 2, 3])):
        node, tensor = rnd.choice(m.graph.node), rnd.choice(m.graph.initializer)
        wild = rnd.choice([0, -1, 2, 3, 7, 1 << 40, -(1 << 40)])
        kind = rnd.randrange(8)
        if kind == 0 and node.attribute:
            a = rnd.choice(node.attribute)
            if a.ints:
                a.ints[rnd.randrange(len(a.ints))] = wild
            else:
                a.i = wild
        elif kind == 1 and node.attribute:
            del node.attribute[rnd.randrange(len(node.attribute))]
        elif kind == 2:
            names = [t.name for t in m.graph.initializer] + [o for n in m.graph.node for o in n.output]
            node.input[rnd.randrange(len(node.input))] = rnd.choice(names)
        elif kind == 3 and tensor.dims:
            tensor.dims[rnd.randrange(len(tensor.dims))] = rnd.choice([0, 1, 2, 3, -1, 1 << 30])
        elif kind == 4:
            tensor.data_type = rnd.randrange(24)
        elif kind == 5:
            node.op_type = rnd.choice(OTHER_OPS)
        elif kind == 6 and len(node.input) > 1:
            del node.input[rnd.randrange(len(node.input))]
        elif kind == 7:
            try:
                a = numpy_helper.to_array(tensor)
            except ValueError:  # already damaged
                continue
            if a.dtype.kind in "fiu":
                bad = rnd.choice([np.nan, np.inf, -1, 0, 1e30, 3] if a.dtype.kind == "f" else [0, 1, 5])
                tensor.CopyFrom(numpy_helper.from_array(np.full(a.shape, bad, a.dtype), tensor.name))
    return m.SerializeToString()


def attempt(data):
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    try:
        with np.errstate(all="ignore"):
            qgemm.load(data)(x)
    except QgemmError as e:
        assert str(e)


def test_the_victim_is_well():
    p = qgemm.load(victim())
    assert not [s for s in p.steps if s.scheme == "float"]


@pytest.mark.parametrize("seed", range(8))
def test_damaged_structure(seed):
    rnd = random.Random(seed)
    for _ in range(25):
        m = onnx.ModelProto()
        m.CopyFrom(victim())
        attempt(damage(m, rnd))


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes(seed):
    rnd, data = random.Random(seed), victim().SerializeToString()
    for _ in range(50):
        b = bytearray(data)
        for _ in range(rnd.choice([1, 1, 2, 8])):
            b[rnd.randrange(len(b))] = rnd.randrange(256)
        attempt(bytes(b))


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(100, 160))
def test_damaged_at_length(seed):
    rnd = random.Random(seed)
    for _ in range(200):
        m = onnx.ModelProto()
        m.CopyFrom(victim())
        attempt(damage(m, rnd))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.constants.update(w_scale=np.ones(3, np.float32)), "'w_dq'.*3 scales for the 4 channels"),
        (lambda b: b.constants.update(w_scale=np.full(4, np.nan, np.float32)), "scale must be finite"),
        (lambda b: b.constants.update(bias=np.zeros(3, np.float32)), "'y'"),
    ],
    ids=["scales", "nan", "bias"],
)
def test_messages_name_the_tensor(change, message):
    b = Builder()
    b.input("x", ["n", 5])
    w = b.weight("w", np.ones((4, 5), np.int8), np.ones(4))
    b.const("bias", np.zeros(4, np.float32))
    b.add("Gemm", [b.q("x", 0.1, 3), w, "bias"], "y", name="y", transB=1)
    change(b)
    with pytest.raises(QgemmError, match=message):
        qgemm.load(b.model("y"))(np.zeros((1, 5), np.float32))


def test_a_constant_larger_than_memory():
    b = Builder()
    b.input("x", ["n", 4])
    b.const("shape", np.array([1 << 20, 1 << 22], np.int64))
    b.add("ConstantOfShape", ["shape"], "zeros", name="zeros")
    b.add("ReduceSum", ["zeros"], "sum", keepdims=0)
    b.add("Add", ["x", "sum"], "y")
    with pytest.raises(ModelFormatError, match="'zeros'"):
        qgemm.load(b.model("y"))


@pytest.mark.parametrize("model", [None, 3, {}])
def test_what_is_no_model(model):
    with pytest.raises(DTypeError, match=type(model).__name__):
        qgemm.load(model)


def test_scales_in_blocks_that_do_not_fit():
    b = Builder()
    b.input("x", ["n", 64])
    w = b.weight("w", np.ones((4, 64), np.int8), np.ones((4, 2)), axis=1, block_size=16)
    b.add("Gemm", ["x", w], "y", transB=1)
    with pytest.raises(ModelFormatError, match="blocks of 16"):
        qgemm.load(b.model("y"))
