"""Elementwise float32 in the engine: every function within 2 ulp or so of the truth, the same bits on every path, chains as one step."""

import math

import numpy as np
import pytest

pytest.importorskip("onnx")

import qgemm  # noqa: E402
from onnx_nets import Builder, model, node, reference  # noqa: E402
from qgemm import _core, errors  # noqa: E402
from qgemm.graph.expressions import _UNARY  # noqa: E402

GRID, SPEC = (1.0, 0), (1.0, 0, 0, 255)


def unary(name, x):
    out = np.empty_like(x)
    _core.Expression([GRID], [(0, _UNARY.index(name), 0, -1, -1)], [(0.0,) * 4], [1], [SPEC])([x], [out])
    return out


def numbers():
    rng = np.random.default_rng(0)
    spread = np.concatenate([rng.normal(0, s, 100_000) for s in (1e-4, 0.3, 2, 30)])
    return np.concatenate([spread, [0.0, -0.0, 1e-45, -1e-45, 88.7, -87.4, -103.0, 3.9999, 4.0, 0.625]]).astype(np.float32)


_erf = np.vectorize(math.erf, otypes=[np.float64])
TRUTH = {  # function -> (truth in float64, ulps)
    "Exp": (np.exp, 1.0),
    "Sigmoid": (lambda x: np.where(x < 0, np.exp(-np.abs(x)), 1) / (1 + np.exp(-np.abs(x))), 2.4),
    "Tanh": (np.tanh, 2.0),
    "Erf": (_erf, 2.0),
    "Sqrt": (lambda x: np.sqrt(np.maximum(x, 0)), 0.51),
    "Reciprocal": (lambda x: 1 / x, 0.51),
}


@pytest.mark.parametrize("name", TRUTH)
def test_functions_are_accurate(isa, name):
    x = numbers()
    truth, ulps = TRUTH[name]
    x = np.abs(x) if name == "Sqrt" else x[np.abs(x) > 1e-30] if name == "Reciprocal" else x
    if isa == "ref":
        x = x[::20]
    with np.errstate(all="ignore"):
        want = truth(x.astype(np.float64))
        got = unary(name, x)
        finite = np.abs(want) < 3.4e38
        step = np.spacing(np.abs(want[finite]).astype(np.float32)).astype(np.float64)
        assert (np.abs(got[finite] - want[finite]) / step).max() <= ulps
        assert np.isinf(got[~finite]).all()


def test_special_values(isa):
    x = np.array([np.inf, -np.inf, np.nan], np.float32)
    want = {"Exp": [np.inf, 0, np.nan], "Sigmoid": [1, 0, np.nan], "Tanh": [1, -1, np.nan], "Erf": [1, -1, np.nan],
            "Relu": [np.inf, 0, np.nan], "IsNaN": [0, 0, 1], "Gelu": [np.inf, np.nan, np.nan]}  # fmt: skip
    for name, values in want.items():
        np.testing.assert_array_equal(unary(name, x), np.float32(values), err_msg=name)


PLAIN = ("Neg Abs Floor Ceil Round Sign Relu Exp Sigmoid Tanh Erf HardSigmoid HardSwish Selu Softplus Softsign Mish Sin Cos Gelu").split()
UNARY = [*((op, {}) for op in PLAIN), ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}), ("LeakyRelu", {"alpha": 0.2}),
         ("Elu", {"alpha": 0.7}),
         ("Celu", {"alpha": 0.6}), ("ThresholdedRelu", {"alpha": 0.3}), ("Gelu", {"approximate": "tanh"})]  # fmt: skip


@pytest.mark.parametrize(("op", "attrs"), UNARY, ids=lambda v: v if isinstance(v, str) else "")
def test_operators(op, attrs):
    proto = model([node(op, ["x"], "y", **attrs)], {"x": ("float32", [None, 5])}, ["y"])
    x = np.random.default_rng(1).normal(0, 2, (7, 5)).astype(np.float32)
    fast = qgemm.load(proto)
    assert [s.kernel for s in fast.steps] == ["expression"]
    np.testing.assert_allclose(fast(x), reference(proto, {"x": x})[0], rtol=1e-5, atol=1e-6)


BINARY = ["Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "PRelu", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"]


@pytest.mark.parametrize("op", BINARY)
def test_operators_of_two_tensors(op):
    rng = np.random.default_rng(2)
    for shape in ((2, 3, 4), (4,), (3, 1), (1, 1, 1)):
        proto = model([node(op, ["a", "b"], "y")], {"a": ("float32", [None, 3, 4]), "b": ("float32", list(shape))},
                      {"y": ("bool" if op[0] in "LGE" else "float32", None)})  # fmt: skip
        a = np.round(rng.uniform(0.5, 3, (2, 3, 4)).astype(np.float32), 1)
        b = np.round(rng.uniform(0.5, 3, shape).astype(np.float32), 1)
        fast = qgemm.load(proto)
        assert [s.kernel for s in fast.steps] == ["expression"]
        got = fast(a, b)
        np.testing.assert_allclose(got, reference(proto, {"a": a, "b": b})[0], rtol=1e-6)
        assert got.dtype == (np.bool_ if op[0] in "LGE" else np.float32)


def test_a_chain_is_one_step_and_rounds_where_the_model_rounds(isa):
    """bytes -> (x * sigmoid(x) - b) -> clip -> bytes, with a broadcast row of constants."""
    rng = np.random.default_rng(3)
    b = Builder()
    x = b.q(b.input("x", [None, 6, 32]), 0.05, 120)
    b.const("row", rng.normal(0, 1, 32).astype(np.float32))
    b.const("lo", np.float32(-0.5))
    b.const("hi", np.float32(3))
    b.add("Sigmoid", [x], "s")
    b.add("Mul", [x, "s"], "m")
    b.add("Sub", ["m", "row"], "d")
    y = b.q(b.add("Clip", ["d", "lo", "hi"], "c"), 0.02, 30)
    proto = b.model(y)
    fast = qgemm.load(proto)
    assert [s.kernel for s in fast.steps] == ["quantize", "expression"]
    data = rng.normal(0, 2, (5, 6, 32)).astype(np.float32)
    got, want = fast(data), reference(proto, {"x": data})[0]
    assert np.abs(got - want).max() <= 0.0201 and (got != want).mean() < 1e-3


def test_conditions_and_masks():
    """The mask arithmetic of attention: integers to floats, comparisons, Where, in one chain."""
    nodes = [node("Cast", ["m"], "f", to=1), node("Sub", ["one", "f"], "i"), node("Greater", ["i", "half"], "hidden"),
             node("Where", ["hidden", "low", "x"], "y")]  # fmt: skip
    constants = {"one": np.float32(1), "half": np.float32(0.5), "low": np.float32(-3.4e38)}
    proto = model(nodes, {"m": ("int64", [None, 1, 4]), "x": ("float32", [None, 3, 4])}, ["y"], constants)
    m = np.array([[[1, 1, 0, 1]], [[0, 1, 1, 1]]], np.int64)
    x = np.random.default_rng(4).normal(0, 1, (2, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(qgemm.load(proto)(m, x), reference(proto, {"m": m, "x": x})[0])


def test_bad_expressions_are_refused():
    x, out = np.zeros((2, 3), np.float32), np.empty((2, 3), np.float32)
    e = _core.Expression([GRID], [(0, 1, 0, -1, -1)], [(0.0,) * 4], [1], [SPEC])
    with pytest.raises(errors.ShapeError, match="inputs"):
        e([x, x], [out])
    with pytest.raises(errors.ShapeError, match="broadcast"):
        e([np.zeros((2, 4), np.float32)], [out])
    with pytest.raises(errors.DTypeError):
        e([x.astype(np.float64)], [out])
    with pytest.raises(errors.LayoutError, match="overlaps"):
        big = np.zeros((3, 3), np.float32)
        e([big[:2]], [big[1:]])
    with pytest.raises(errors.ShapeError, match="operation 0"):
        _core.Expression([GRID], [(1, 0, 0, 1, -1)], [(0.0,) * 4], [1], [SPEC])
    with pytest.raises(errors.QuantizationError):
        _core.Expression([(0.0, 0)], [(0, 1, 0, -1, -1)], [(0.0,) * 4], [1], [SPEC])
