"""Constants that a small file blows up to gigabytes: refused before anything is computed."""

from __future__ import annotations

import time

import numpy as np
import pytest

import qgemm
from onnx_nets import model, node
from qgemm.errors import ModelFormatError
from qgemm.graph.passes import growth

BIG = 1 << 17  # squared: 16 Gi elements


def f(*shape):
    return np.ones(shape, np.float32)


def i(*values):
    return np.array(values, np.int64)


RESIZE = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
BOMBS = {
    "ConstantOfShape": ([i(BIG, BIG)], {}),
    "Expand": ([f(1), i(BIG, BIG)], {}),
    "Tile": ([f(4, 4), i(BIG, BIG)], {}),
    "Range": ([np.array(0, np.int64), np.array(1 << 34, np.int64), np.array(1, np.int64)], {}),
    "Pad": ([f(1, 1), i(0, BIG, BIG, 0)], {}),
    "Resize": (
        [f(1, 1, 2, 2), None, np.array([1, 1, BIG, BIG], np.float32)],
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"},
    ),
    "Add": ([f(BIG, 1), f(1, BIG)], {}),
    "Where": ([np.ones((BIG, 1), bool), f(1, BIG), f(1)], {}),
    "MatMul": ([f(BIG, 1), f(1, BIG)], {}),
    "Gemm": ([f(BIG, 1), f(1, BIG)], {}),
    "Gather": ([f(1, BIG), np.zeros(BIG, np.int64)], {}),
    "GatherND": ([f(1, BIG), np.zeros((BIG, 1), np.int64)], {}),
    "Einsum": ([f(BIG), f(BIG)], {"equation": "i,j->ij"}),
    "Conv": ([f(1, 1, 4, 4), f(1, 1, 1, 1)], {"pads": [BIG, BIG, 0, 0]}),
    "ConvTranspose": ([f(1, 1, 4, 4), f(1, 1, 1, 1)], {"strides": [BIG, BIG]}),
    "MaxPool": ([f(1, 1, 4, 4)], {"pads": [BIG, BIG, 0, 0], "kernel_shape": [1 << 18, 1 << 18], "strides": [1, 1]}),
    "AveragePool": ([f(1, 1, 4, 4)], {"pads": [BIG, BIG, 0, 0], "kernel_shape": [1 << 18, 1 << 18], "strides": [1, 1]}),
}


def net(op, constants, attrs):
    names = ["" if c is None else f"c{k}" for k, c in enumerate(constants)]
    inits = {n: c for n, c in zip(names, constants, strict=True) if n}
    nodes = [node(op, names, "big", **attrs), node("ReduceSum", ["big"], "sum", keepdims=0), node("Add", ["x", "sum"], "y")]
    return model(nodes, {"x": ("float32", ["n", 2])}, ["y"], inits)


@pytest.mark.parametrize("op", BOMBS)
def test_a_bomb_is_refused_at_once(op):
    start = time.perf_counter()
    with pytest.raises(ModelFormatError, match=rf"\({op}\) makes a constant of up to [0-9,]+ bytes .* 1,073,741,824"):
        qgemm.load(net(op, *BOMBS[op]))
    assert time.perf_counter() - start < 5


SMALL = {
    "ConstantOfShape": ([i(8, 8)], {}),
    "Expand": ([f(1), i(8, 8)], {}),
    "Tile": ([f(2, 2), i(3, 3)], {}),
    "Range": ([np.array(5, np.int64), np.array(0, np.int64), np.array(-1, np.int64)], {}),
    "Pad": ([f(1, 1), i(0, 2, -1, 0)], {}),
    "Resize": ([f(1, 1, 2, 2), None, np.array([1, 1, 2, 2], np.float32)], RESIZE),
    "Add": ([f(8, 1), f(1, 8)], {}),
    "MatMul": ([f(3, 8, 2), f(2, 8)], {}),
    "Gemm": ([f(2, 8), f(2, 9)], {"transA": 1}),
    "Gather": ([f(1, 8), np.zeros(4, np.int64)], {}),
    "GatherND": ([f(2, 3, 8), np.zeros((2, 4, 1), np.int64)], {"batch_dims": 1}),
    "Einsum": ([f(8), f(9)], {"equation": "i,j->ij"}),
    "Conv": ([f(1, 2, 4, 4), f(3, 2, 3, 3)], {"pads": [1, 1, 1, 1]}),
    "ConvTranspose": ([f(1, 2, 4, 4), f(2, 3, 3, 3)], {"strides": [2, 2]}),
    "MaxPool": ([f(1, 1, 4, 4)], {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3], "strides": [1, 1]}),
    "NonZero": ([f(3, 4)], {}),
}


@pytest.mark.parametrize("op", SMALL)
def test_the_bound_is_one(op):
    """The estimate is at least what comes out, and a load of honest constants goes through."""
    constants, attrs = SMALL[op]
    from qgemm.graph.floatops import OPS
    from qgemm.graph.ir import Node

    budget = growth.Budget()
    budget.take(Node(op, [], [], attrs, "n"), constants)
    if op == "ConstantOfShape":
        attrs = {"value": f(1)}
    result = OPS[op](attrs)(*constants)
    result = result[0] if isinstance(result, tuple) else result
    budget = growth.Budget(int(result.nbytes) - sum(c.nbytes for c in constants if c is not None) - 1)
    if budget.limit >= 0:
        with pytest.raises(ModelFormatError):
            budget.take(Node(op, [], [], attrs, "n"), constants)


def test_many_small_ones_are_one_large_one():
    shape = {f"c{k}": i(1 << 9, 1 << 14) for k in range(40)}  # 32 MiB each
    nodes = []
    for k in range(40):
        nodes += [node("ConstantOfShape", [f"c{k}"], f"b{k}"), node("ReduceSum", [f"b{k}"], f"s{k}", keepdims=0)]
        nodes.append(node("Add", ["x" if k == 0 else f"y{k - 1}", f"s{k}"], f"y{k}"))
    with pytest.raises(ModelFormatError, match="c|b"):
        qgemm.load(model(nodes, {"x": ("float32", ["n", 2])}, ["y39"], shape))


def test_weights_that_are_only_moved_do_not_count():
    budget, w = growth.Budget(1000), f(512, 512)
    from qgemm.graph.ir import Node

    for op in ("Transpose", "Cast", "Identity", "Mul", "Reshape"):
        budget.take(Node(op, [], [], {}, "n"), [w])
    assert budget.left == 1000
