"""Every numpy operator against onnxruntime on small models, and the promise that the list of operators is complete."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import qgemm
from onnx_nets import model, node, reference
from qgemm.graph.floatops import OPS

pytest.importorskip("onnxruntime")

F, INT = "float32", np.int64
RNG = np.random.default_rng(3)


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*v):
    return np.array(v, INT)


X4 = (2, 3, 6, 5)
# (operator, input shape, further constants, attributes[, opset])
CASES = [
    *[
        (op, X4, [], {})
        for op in (
            "Relu",
            "Sigmoid",
            "Tanh",
            "Erf",
            "Exp",
            "Softsign",
            "Softplus",
            "HardSwish",
            "Abs",
            "Neg",
            "Floor",
            "Ceil",
            "Round",
            "Sign",
            "Sin",
            "Cos",
            "Identity",
            "Reciprocal",
            "Elu",
            "Selu",
            "Celu",
            "LeakyRelu",
            "Mish",
            "HardSigmoid",
            "ThresholdedRelu",
            "GlobalAveragePool",
            "GlobalMaxPool",
            "Flatten",
            "Dropout",
        )
    ],
    ("Gelu", X4, [], {}),
    ("Gelu", X4, [], {"approximate": "tanh"}),
    ("HardSigmoid", X4, [], {"alpha": 1 / 6}),
    ("LeakyRelu", X4, [], {"alpha": 0.2}),
    ("Elu", X4, [], {"alpha": 0.5}),
    ("Celu", X4, [], {"alpha": 2.0}),
    ("Clip", X4, [np.float32(-0.3), np.float32(0.6)], {}),
    ("Clip", X4, [None, np.float32(0.6)], {}),
    ("PRelu", X4, [f(3, 1, 1)], {}),
    ("Add", X4, [f(3, 1, 1)], {}),
    ("Sub", X4, [f(5)], {}),
    ("Mul", X4, [f(1)], {}),
    ("Div", X4, [f(6, 5)], {}),
    ("Pow", X4, [np.float32(2)], {}),
    ("Pow", X4, [np.float32(3)], {}),
    ("Min", X4, [f(5), f(6, 5)], {}),
    ("Max", X4, [f(5)], {}),
    ("Mod", X4, [f(5)], {"fmod": 1}),
    ("Softmax", X4, [], {"axis": 1}),
    ("Softmax", X4, [], {}),
    ("LogSoftmax", X4, [], {"axis": -1}),
    ("LayerNormalization", (2, 7, 8), [f(8), f(8)], {"epsilon": 1e-6}),
    ("LayerNormalization", X4, [f(6, 5)], {"axis": 2}),
    ("InstanceNormalization", X4, [f(3), f(3)], {}),
    ("GroupNormalization", (2, 6, 4, 4), [f(6), f(6)], {"num_groups": 3}),
    ("RMSNormalization", (2, 7, 8), [f(8)], {}, 23),
    ("BatchNormalization", X4, [f(3), f(3), f(3), np.abs(f(3)) + 0.1], {"epsilon": 1e-3}),
    ("ReduceMean", X4, [ints(2, 3)], {"keepdims": 0}),
    ("ReduceMean", X4, [ints(1)], {}),
    ("ReduceSum", X4, [ints(-1)], {}),
    ("ReduceMean", X4, [], {"axes": [2, 3]}, 13),
    ("ReduceMean", X4, [], {}, 13),
    ("ReduceMax", X4, [ints(3)], {}),
    ("ReduceMin", X4, [ints(0)], {"keepdims": 0}),
    ("ReduceL2", X4, [ints(1)], {}),
    ("ReduceL1", X4, [ints(1)], {}),
    ("ReduceProd", X4, [ints(1)], {}),
    ("ReduceSumSquare", X4, [ints(1)], {}),
    ("ReduceLogSumExp", X4, [ints(1)], {}),
    ("ReduceLogSumExp", X4, [ints(-1, 1)], {"keepdims": 0}),
    ("ReduceLogSumExp", X4, [], {}),
    ("Reshape", X4, [ints(0, -1, 5)], {}),
    ("Flatten", X4, [], {"axis": 2}),
    ("Flatten", X4, [], {"axis": 0}),
    ("Transpose", X4, [], {"perm": [0, 2, 3, 1]}),
    ("Transpose", X4, [], {}),
    ("Squeeze", (2, 1, 3, 1), [ints(1)], {}),
    ("Squeeze", (2, 1, 3, 1), [], {}),
    ("Unsqueeze", X4, [ints(0, -1)], {}),
    ("Slice", X4, [ints(1), ints(5), ints(2)], {}),
    ("Slice", X4, [ints(-1), ints(-99), ints(3), ints(-1)], {}),
    ("Slice", X4, [ints(0, 1), ints(2, 99), ints(0, 3), ints(1, 2)], {}),
    ("Gather", X4, [ints(0, 2, -1)], {"axis": 1}),
    ("Gather", X4, [np.array(1, INT)], {"axis": 2}),
    ("GatherElements", (2, 3), [np.array([[0, 2, -1]], INT)], {"axis": 1}),
    ("GatherND", (2, 3, 4), [np.array([[0, 2], [1, -1]], INT)], {}),
    ("GatherND", (2, 3, 4), [np.array([[[2], [0]], [[-1], [1]]], INT)], {"batch_dims": 1}),
    ("ScatterND", (4, 3), [np.array([[1], [-1]], INT), f(2, 3)], {}),
    ("ScatterND", (4, 3), [np.array([[1, 2], [1, 2], [0, 0]], INT), f(3)], {"reduction": "add"}),
    ("ScatterElements", (3, 4), [np.array([[0, 2], [1, -1]], INT), f(2, 2)], {"axis": 1}),
    ("ScatterElements", (3, 4), [np.array([[0, 0, 0, 0], [0, 2, 0, 1]], INT), f(2, 4)], {"axis": 0, "reduction": "max"}),
    ("Pad", X4, [ints(0, 0, 1, 2, 0, 0, 0, 1), np.float32(0.5)], {}),
    ("Pad", X4, [ints(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "reflect"}),
    ("Pad", X4, [ints(1, 2), None, ints(3)], {"mode": "edge"}),
    ("Pad", X4, [ints(0, 0, -1, 1, 0, 0, -2, 0)], {}),
    ("Expand", (3, 1), [ints(2, 1, 4)], {}),
    ("Tile", (2, 3), [ints(2, 2)], {}),
    ("Trilu", (4, 4), [], {"upper": 0}),
    ("Concat", X4, [f(2, 1, 6, 5), f(2, 2, 6, 5)], {"axis": 1}),
    ("DepthToSpace", (1, 8, 3, 3), [], {"blocksize": 2}),
    ("DepthToSpace", (1, 8, 3, 3), [], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", (1, 2, 4, 6), [], {"blocksize": 2}),
    ("CumSum", X4, [np.array(2, INT)], {}),
    ("CumSum", X4, [np.array(-1, INT)], {"exclusive": 1}),
    ("CumSum", X4, [np.array(1, INT)], {"exclusive": 1, "reverse": 1}),
    ("MatMul", (2, 4, 5), [f(2, 5, 3)], {}),
    ("MatMul", (5,), [f(5, 3)], {}),
    ("Gemm", (4, 5), [f(3, 5), f(3)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", (5, 4), [f(5, 3)], {"transA": 1}),
    ("Gemm", (4, 5), [f(5, 3), f(4, 1)], {}),
    ("Einsum", (2, 3, 4), [f(2, 4, 5)], {"equation": "bij,bjk->bik"}),
    ("Einsum", (2, 3, 1), [f(2, 4, 5)], {"equation": "bij,bjk->bik"}),
    ("Einsum", (2, 3, 4), [f(2, 5, 1)], {"equation": "bij,bkj->bik"}),
    ("Conv", X4, [f(4, 3, 3, 3), f(4)], {"pads": [1, 1, 1, 1]}),
    ("Conv", X4, [f(6, 1, 3, 2)], {"group": 3, "strides": [2, 1], "dilations": [1, 2], "pads": [0, 1, 2, 0]}),
    ("Conv", X4, [f(4, 3, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", X4, [f(4, 3, 2, 2)], {"auto_pad": "SAME_LOWER"}),
    ("Conv", (2, 4, 9), [f(6, 2, 3), f(6)], {"group": 2, "pads": [2, 1], "strides": [2]}),
    ("Conv", (1, 2, 5, 5, 5), [f(3, 2, 2, 2, 2)], {}),
    ("ConvTranspose", X4, [f(3, 2, 3, 3), f(2)], {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 0]}),
    ("ConvTranspose", (1, 4, 5), [f(4, 2, 3)], {"group": 2, "dilations": [2]}),
    ("MaxPool", X4, [], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    ("MaxPool", X4, [], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", (1, 2, 9), [], {"kernel_shape": [3], "dilations": [2]}),
    ("AveragePool", X4, [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("AveragePool", X4, [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", X4, [], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", (1, 2, 9), [], {"kernel_shape": [4], "strides": [3]}),
    (
        "AveragePool",
        (1, 1, 6, 6),
        [],
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    (
        "Resize",
        X4,
        [None, np.array([1, 1, 2, 2], np.float32)],
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    ("Resize", X4, [None, None, ints(2, 3, 9, 7)], {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}),
    ("Resize", X4, [None, None, ints(2, 3, 11, 3)], {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ("Resize", X4, [None, None, ints(2, 3, 7, 1)], {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}),
    ("Resize", X4, [None, np.array([1, 1, 1.5, 2], np.float32)], {"mode": "nearest"}),
    ("Where", X4, None, {}),
    ("Cast", X4, [], {"to": 7}),
    ("ArgMax", X4, [], {"axis": 1}),
    ("ArgMin", X4, [], {"axis": 3, "keepdims": 0}),
    ("Shape", X4, [], {}),
    ("Shape", X4, [], {"start": 1, "end": 3}),
    ("Size", X4, [], {}),
]
OUT_TYPE = {"Cast": "int64", "ArgMax": "int64", "ArgMin": "int64", "Shape": "int64", "Size": "int64"}


def identify(case):
    return f"{case[0]}-{','.join(f'{k}={v}' for k, v in case[3].items())}-{'x'.join(map(str, case[1]))}"


@pytest.mark.parametrize("case", CASES, ids=identify)
def test_operator_equals_onnxruntime(case):
    op, shape, consts, attrs, *rest = case
    x = f(*shape)
    if consts is None:  # Where: the condition is computed from x
        nodes = [node("Greater", ["x", "zero"], "c"), node("Where", ["c", "x", "other"], "y")]
        m = model(nodes, {"x": (F, shape)}, ["y"], {"zero": np.float32(0), "other": f(5)})
    else:
        names = ["x"] + ["" if c is None else f"c{k}" for k, c in enumerate(consts)]
        values = {f"c{k}": c for k, c in enumerate(consts) if c is not None}
        opset = rest[0] if rest else 21
        m = model(
            [node(op, names, "y", **attrs)],
            {"x": (F, shape)},
            {"y": (OUT_TYPE.get(op, F), shape if op == "GroupNormalization" else None)},
            values,
            opset,
        )
    try:
        (want,) = reference(m, {"x": x})
    except Exception as e:
        if "NOT_IMPLEMENTED" not in str(e) and "NotImplemented" not in type(e).__name__:
            raise
        pytest.skip(f"onnxruntime has no {op}")
    got = qgemm.load(m)(x)
    assert got.shape == want.shape and got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def test_split_and_several_outputs():
    x = f(2, 7, 3)
    m = model([node("Split", ["x", "s"], ["a", "b"], axis=1)], {"x": (F, [None, 7, 3])}, ["a", "b"], {"s": ints(3, 4)})
    a, b = qgemm.load(m)(x)
    assert np.array_equal(a, x[:, :3]) and np.array_equal(b, x[:, 3:])
    m = model([node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2)], {"x": (F, [2, 7, 3])}, ["a", "b"])
    assert [y.shape[1] for y in qgemm.load(m)(x)] == [r.shape[1] for r in reference(m, {"x": x})] == [4, 3]


def test_integer_arithmetic_truncates_towards_zero():
    nodes = [node("Cast", ["x"], "i", to=7), node("Div", ["i", "d"], "y")]
    m = model(nodes, {"x": (F, [4])}, {"y": ("int64", [4])}, {"d": ints(2)})
    x = np.array([7, -7, 3, -1], np.float32)
    assert qgemm.load(m)(x).tolist() == [3, -3, 1, 0]


@pytest.mark.parametrize(
    "x, reverse, want",
    [([1, 1e20, 2], 0, [0, 1, 1e20]), ([np.inf, 1, 2], 0, [0, np.inf, np.inf]), ([2, 1e20, 1], 1, [1e20, 1, 0])],
)
def test_an_exclusive_sum_adds_only_what_came_before(x, reverse, want):
    m = model([node("CumSum", ["x", "axis"], "y", exclusive=1, reverse=reverse)], {"x": (F, [3])}, ["y"], {"axis": np.array(0, INT)})
    assert qgemm.load(m)(np.float32(x)).tolist() == np.float32(want).tolist()


def test_shape_arithmetic_follows_the_batch():
    nodes = [
        node("Shape", ["x"], "s"),
        node("Gather", ["s", "zero"], "b"),
        node("Unsqueeze", ["b", "axis"], "b1"),
        node("Concat", ["b1", "rest"], "target", axis=0),
        node("Reshape", ["x", "target"], "r"),
        node("ConstantOfShape", ["target"], "ones", value=helper.make_tensor("v", 1, [1], [1.0])),
        node("Add", ["r", "ones"], "y"),
    ]
    m = model(nodes, {"x": (F, ["n", 6])}, ["y"], {"zero": np.array(0, INT), "axis": ints(0), "rest": ints(2, 3)})
    p = qgemm.load(m)
    for n in (1, 5):
        x = f(n, 6)
        assert np.array_equal(p(x), x.reshape(n, 2, 3) + 1)


def test_every_operator_appears_in_a_test():
    """A new entry of OPS needs a case here, or a line in this list that says where it is tested."""
    elsewhere = {
        "Linear", "Requantize", "QuantizeLinear", "DequantizeLinear", "ConstantOfShape", "Greater", "Split",
        "Not", "IsNaN", "Log", "Sqrt", "Swish", "Sum", "Equal", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor", "CastLike",
        "TopK", "Range", "NonZero", "ReduceLogSum",
    }  # fmt: skip
    assert not set(OPS) - {c[0] for c in CASES} - elsewhere


LOGIC = ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]


@pytest.mark.parametrize("op", LOGIC)
def test_comparisons(op):
    x = np.array([-1, 0, 1, 2], np.float32)
    m = model([node(op, ["x", "one"], "y")], {"x": (F, [4])}, {"y": ("bool", [4])}, {"one": np.float32(1)})
    assert np.array_equal(qgemm.load(m)(x), reference(m, {"x": x})[0])


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(op):
    nodes = [node("Greater", ["x", "zero"], "a"), node("Less", ["x", "one"], "b"), node(op, ["a", "b"], "c"), node("Not", ["c"], "y")]
    m = model(nodes, {"x": (F, [4])}, {"y": ("bool", [4])}, {"one": np.float32(1), "zero": np.float32(0)})
    x = np.array([-1, 0, 0.5, 2], np.float32)
    assert np.array_equal(qgemm.load(m)(x), reference(m, {"x": x})[0])


@pytest.mark.parametrize("op", ["ReduceL1", "ReduceMin", "ReduceLogSum", "ReduceLogSumExp"])
@pytest.mark.parametrize("keep", [0, 1])
def test_reductions_written_out_are_native(op, keep):
    m = model([node(op, ["x", "axes"], "y", keepdims=keep)], {"x": (F, ["n", 3, 4])}, ["y"], {"axes": ints(1, -1)})
    p, x = qgemm.load(m), np.abs(f(2, 3, 4))
    np.testing.assert_allclose(p(x), reference(m, {"x": x})[0], rtol=2e-6)
    assert op not in [n.op for n in p.graph.nodes] and all(c.native for c in p._compiled.values())


def test_log_sum_exp_of_infinities():
    m = model([node("ReduceLogSumExp", ["x", "axes"], "y", keepdims=0)], {"x": (F, ["n", 3])}, ["y"], {"axes": ints(1)})
    x = np.float32([[-np.inf] * 3, [1, np.inf, 2], [-np.inf, 5, -np.inf], [1, np.nan, 2], [3e38, -3e38, 0]])
    assert np.array_equal(qgemm.load(m)(x), np.float32([-np.inf, np.inf, 5, np.nan, 3e38]), equal_nan=True)


def test_positive_domain_and_rare_operators():
    x = np.abs(f(3, 4)) + 0.1
    for op in ("Log", "Sqrt"):
        m = model([node(op, ["x"], "y")], {"x": (F, [3, 4])}, ["y"])
        np.testing.assert_allclose(qgemm.load(m)(x), reference(m, {"x": x})[0], rtol=1e-6)
    m = model([node("Sum", ["x", "x", "c"], "y")], {"x": (F, [3, 4])}, ["y"], {"c": f(4)})
    np.testing.assert_allclose(qgemm.load(m)(x), reference(m, {"x": x})[0], rtol=1e-6)
    m = model([node("TopK", ["x", "k"], ["v", "i"])], {"x": (F, [3, 4])}, {"v": (F, None), "i": ("int64", None)}, {"k": ints(2)})
    for a, b in zip(qgemm.load(m)(x), reference(m, {"x": x}), strict=True):
        assert np.array_equal(a, b)
    nodes = [node("IsNaN", ["x"], "n"), node("CastLike", ["n", "x"], "z"), node("NonZero", ["z"], "y")]
    m = model(nodes, {"x": (F, [3])}, {"y": ("int64", None)})
    assert qgemm.load(m)(np.array([1, np.nan, 2], np.float32)).tolist() == [[1]]
    nodes = [
        node("Shape", ["x"], "s"),
        node("Gather", ["s", "zero"], "n"),
        node("Range", ["zero", "n", "one"], "r"),
        node("Cast", ["r"], "y", to=1),
    ]
    m = model(nodes, {"x": (F, [None, 2])}, ["y"], {"zero": np.array(0, INT), "one": np.array(1, INT)})
    assert qgemm.load(m)(f(5, 2)).tolist() == [0, 1, 2, 3, 4]


def test_quantize_and_dequantize_that_stand_alone():
    """A model that returns integers has no DequantizeLinear to pair with."""
    m = model([node("QuantizeLinear", ["x", "s", "z"], "y")], {"x": (F, [None, 3])}, {"y": ("uint8", None)},
              {"s": np.float32(0.1), "z": np.uint8(7)})  # fmt: skip
    assert qgemm.load(m)(np.array([[0, 0.25, -5]], np.float32)).tolist() == [[7, 9, 0]]
    m = model(
        [node("DequantizeLinear", ["x", "s", "z"], "y")], {"x": ("uint8", [None, 3])}, ["y"], {"s": np.float32(0.5), "z": np.uint8(7)}
    )
    assert qgemm.load(m)(np.array([[7, 9, 0]], np.uint8)).tolist() == [[0, 1, -3.5]]
