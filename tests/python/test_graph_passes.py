"""Each pass alone, before and after, on the smallest graph that shows it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

import qgemm
from onnx_nets import Builder, reference
from qgemm.errors import QuantizationError
from qgemm.graph.from_onnx import import_onnx
from qgemm.graph.grids import dequantize, fake_quantize, quantize, shift
from qgemm.graph.ir import Graph, Node, QParams, Tensor
from qgemm.graph.passes import run_all
from qgemm.graph.passes.batch import free_batch
from qgemm.graph.passes.cleanup import drop_dead, drop_identities
from qgemm.graph.passes.constants import fold_constants
from qgemm.graph.passes.factor import absorb_factors
from qgemm.graph.passes.fuse_relu import fuse_relu
from qgemm.graph.passes.grid import moves_bytes, propagate_grids
from qgemm.graph.passes.linear import form_linear
from qgemm.graph.passes.lut import make_tables
from qgemm.graph.passes.mask import fuse_masks
from qgemm.graph.passes.mean import mean_to_pool
from qgemm.graph.passes.norm import form_norms
from qgemm.graph.passes.qdq import fold_qdq
from qgemm.graph.passes.shapes import fold_shapes
from qgemm.graph.passes.signs import normalize_signs


def u8(scale=0.1, zero=10):
    return QParams(np.float32(scale), np.int32(zero))


def graph(nodes, shapes: dict, consts: dict | None = None, grids: dict | None = None, inputs=("x",), outputs=("y",)) -> Graph:
    g = Graph([Node(op, list(i), list(o), dict(a), name=o[0]) for op, i, o, a in nodes], inputs=list(inputs), outputs=list(outputs))
    for k, s in shapes.items():
        g.tensors[k] = Tensor(k, s)
    for k, v in (consts or {}).items():
        g.tensors[k] = Tensor(k, np.shape(v), str(np.asarray(v).dtype), data=np.asarray(v))
    for n in g.nodes:
        for o in n.outputs:
            g.tensor(o)
    for k, q in (grids or {}).items():
        g.tensors[k].qparams = q
    return g


def ops(g):
    return [n.op for n in g.nodes]


# ---- constants ----


def test_constants_fold_through_several_nodes():
    g = graph(
        [("Transpose", ["w"], ["wt"], {"perm": [1, 0]}), ("Mul", ["wt", "two"], ["w2"], {}), ("MatMul", ["x", "w2"], ["y"], {})],
        {"x": (None, 3)}, {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "two": np.float32(2)},
    )  # fmt: skip
    fold_constants(g)
    assert ops(g) == ["MatMul"] and g.tensors["w2"].data.tolist() == [[0, 6], [2, 8], [4, 10]]


def test_dequantized_constant_keeps_its_integers():
    b = Builder()
    b.input("x", [None, 4])
    ints = np.array([[1, -2, 3, -4]] * 2, np.int8)
    b.add("MatMul", ["x", b.add("Transpose", [b.weight("w", ints, [0.5, 0.25])], "wt")], "y")
    g = import_onnx(b.model("y"))
    fold_constants(g)
    t = g.tensors["wt"]
    assert ops(g) == ["MatMul"] and t.data.tolist() == ints.T.tolist() and t.qparams.axis == 1  # the Transpose after DQ moved the axis


def test_float_weight_through_quantize_and_dequantize(rng):
    scale = np.float32([0.013, 0.021])
    ints = rng.integers(-128, 128, (2, 50)).astype(np.int8)
    b = Builder()
    b.input("x", [None, 50])
    b.const("w", ints.astype(np.float32) * scale[:, None])
    w = b.q("w", scale, np.zeros(2), np.int8, axis=0)
    b.add("Gemm", ["x", w], "y", transB=1)
    g = import_onnx(b.model("y"))
    fold_constants(g)
    assert np.array_equal(g.tensors[w].data, ints) and g.tensors[w].qparams.axis == 0


def lpbq(rng):
    ints, steps = rng.integers(-8, 8, (4, 64)), rng.integers(1, 17, (4, 2)).astype(np.uint8)
    meta = np.float32([0.001, 0.002, 0.003, 0.004])
    b = Builder()
    b.input("x", [None, 64])
    scale = b.weight("w_scale2", steps, meta)
    b.const("w_q", helper.make_tensor("w_q", TensorProto.INT4, [4, 64], ints.ravel().tolist()))
    b.add("DequantizeLinear", ["w_q", scale], "w", axis=1, block_size=32)
    b.add("Gemm", ["x", "w"], "y", transB=1)
    return b.model("y"), ints, steps, meta


def test_lpbq_expands_exactly_to_int8(rng):
    m, ints, steps, meta = lpbq(rng)
    g = import_onnx(m)
    fold_constants(g)
    t = g.tensors["w"]
    assert t.qparams.bits == 8 and t.qparams.axis == 0 and not t.qparams.block_size
    assert np.array_equal(t.data, ints * np.repeat(steps, 32, axis=1))
    assert np.array_equal(t.qparams.scale, meta)


def test_blockwise_stays_blockwise(rng):
    b = Builder()
    b.input("x", [None, 64])
    w = b.weight("w", rng.integers(-8, 8, (4, 64)), rng.random((4, 2)) + 0.1, axis=1, onnx_type=TensorProto.INT4, block_size=32)
    b.add("Gemm", ["x", w], "y", transB=1)
    g = import_onnx(b.model("y"))
    fold_constants(g)
    assert g.tensors[w].qparams.block_size == 32 and g.tensors[w].qparams.scale.shape == (4, 2)


# ---- qdq ----


def qdq_net(extra_reader=False, twice=False, on_input=False):
    b = Builder()
    b.input("x", [None, 4])
    t = "x" if on_input else b.add("Relu", ["x"], "t")
    y = b.q(t, 0.1, 3)
    if twice:
        y = b.q(y, 0.2, 5)
    b.add("Neg", [y], "y")
    outs = ["y"]
    if extra_reader:
        outs.append(b.add("Abs", [t], "z"))
    g = import_onnx(b.model(*outs))
    fold_constants(g)
    fold_qdq(g)
    return g


def test_qdq_moves_onto_the_tensor():
    g = qdq_net()
    assert ops(g) == ["Relu", "Neg"] and g.tensors["t"].qparams.same(u8(0.1, 3)) and g.nodes[1].inputs == ["t"]
    g = qdq_net(on_input=True)
    assert ops(g) == ["Neg"] and g.tensors["x"].qparams.same(u8(0.1, 3))


def test_an_unrounded_reader_keeps_its_value():
    g = qdq_net(extra_reader=True)
    assert ops(g) == ["Relu", "Requantize", "Neg", "Abs"] and g.tensors["t"].qparams is None
    assert g.nodes[-1].inputs == ["t"] and g.nodes[2].inputs == g.nodes[1].outputs


def test_two_encodings_in_a_row_are_two_roundings():
    g = qdq_net(twice=True)
    assert ops(g) == ["Relu", "Requantize", "Neg"]
    assert g.tensors["t"].qparams.same(u8(0.1, 3)) and g.tensors[g.nodes[1].outputs[0]].qparams.same(u8(0.2, 5))


def test_the_output_keeps_its_name():
    b = Builder()
    b.input("x", [None, 4])
    b.q(b.add("Relu", ["x"], "t"), 0.1, 3, out="y")
    g = import_onnx(b.model("y"))
    fold_constants(g)
    fold_qdq(g)
    assert ops(g) == ["Relu"] and g.nodes[0].outputs == ["y"] and g.tensors["y"].qparams.same(u8(0.1, 3))


def test_input_rounded_and_returned(rng):
    b = Builder()
    b.input("x", [None, 4])
    b.q("x", 0.1, 3, out="y")
    x = rng.standard_normal((2, 4)).astype(np.float32)
    np.testing.assert_array_equal(qgemm.load(b.model("y"))(x), fake_quantize(x, u8(0.1, 3)))


def test_halves_that_disagree_stay():
    b = Builder()
    b.input("x", [None, 4])
    b.const("s", np.float32(0.1)), b.const("s2", np.float32(0.2)), b.const("z", np.uint8(3))
    b.add("QuantizeLinear", ["x", "s", "z"], "q")
    b.add("DequantizeLinear", ["q", "s2", "z"], "y")
    m = b.model("y")
    g = import_onnx(m)
    fold_qdq(g)
    assert ops(g) == ["QuantizeLinear", "DequantizeLinear"]
    x = np.float32([[0, 1, 2, -3]])
    assert np.array_equal(qgemm.load(m)(x), reference(m, {"x": x})[0])


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_a_bad_scale_names_the_tensor(scale):
    b = Builder()
    b.input("x", [None, 4])
    b.q(b.add("Relu", ["x"], "act"), scale, 3, out="y")
    with pytest.raises(QuantizationError, match="'act'.*scale must be finite"):
        qgemm.load(b.model("y"))


# ---- signs ----


def test_signed_activations_become_unsigned_and_weights_signed():
    g = graph([("MatMul", ["x", "w"], ["y"], {})], {"x": (None, 2)}, {"w": np.array([[0, 255]], np.uint8).T}, {
        "x": QParams(np.float32(0.1), np.int32(0), 8, True), "w": QParams(np.float32(0.5), np.int32(128), 8, False),
    })  # fmt: skip
    normalize_signs(g)
    assert g.tensors["x"].qparams.same(u8(0.1, 128))
    w = g.tensors["w"]
    assert w.data.dtype == np.int8 and w.data.ravel().tolist() == [-128, 127] and w.qparams.zero_point == 0 and w.qparams.signed


@pytest.mark.parametrize(("bits", "signed"), [(4, True), (8, True), (8, False), (16, False), (2, False)])
def test_a_grid_of_either_sign_is_the_same_grid(bits, signed, rng):
    qp = QParams(np.float32(0.07), np.int32(1 if signed else 1), bits, signed)
    other, by = shift(qp, not signed)
    x = rng.standard_normal(1000).astype(np.float32) * 5
    assert np.array_equal(quantize(x, qp).astype(int) + by, quantize(x, other)) and np.array_equal(
        fake_quantize(x, qp), fake_quantize(x, other)
    )


# ---- linear ----


@pytest.mark.parametrize(("op", "attrs", "transposed"), [("Gemm", {"transB": 1}, False), ("Gemm", {}, True), ("MatMul", {}, True)])
def test_linear(op, attrs, transposed, rng):
    w = rng.integers(-128, 128, (3, 5)).astype(np.int8)
    stored, axis = (w.T.copy(), 1) if transposed else (w, 0)
    g = graph([(op, ["x", "w"], ["y"], attrs)], {"x": (None, 5)}, {"w": stored},
              {"w": QParams(np.float32([1, 2, 3]), np.zeros(3, np.int32), 8, True, axis)})  # fmt: skip
    form_linear(g)
    t = g.tensors[g.nodes[0].inputs[1]]
    assert ops(g) == ["Linear"] and np.array_equal(t.data, w) and t.qparams.axis == 0


def test_matmul_and_add_are_one_linear():
    for bias, fits in (
        (np.float32([1, 2, 3]), True),
        (np.float32(1), True),
        (np.ones((1, 3), np.float32), True),
        (np.ones((2, 1), np.float32), False),
    ):
        g = graph([("MatMul", ["x", "w"], ["m"], {}), ("Add", ["b", "m"], ["y"], {})], {"x": (None, 2, 5), "m": (None, 2, 3)},
                  {"w": np.ones((5, 3), np.float32), "b": bias})  # fmt: skip
        form_linear(g)
        assert ops(g) == (["Linear"] if fits else ["Linear", "Add"])
    assert g.nodes[0].outputs == ["m"]


def test_a_rounded_matmul_keeps_its_add_apart():
    g = graph([("MatMul", ["x", "w"], ["m"], {}), ("Add", ["m", "b"], ["y"], {})], {"x": (None, 5)},
              {"w": np.ones((5, 3), np.float32), "b": np.ones(3, np.float32)}, {"m": u8()})  # fmt: skip
    form_linear(g)
    assert ops(g) == ["Linear", "Add"]


@pytest.mark.parametrize("equation", ["bi,oi->bo", "bi,io->bo", "oi,bi->bo", "io, bi -> bo", "bsi,oi->bso", "bsi,io->bso", "oi,bsi->bso"])
def test_an_einsum_by_a_constant_is_a_layer(equation, rng):
    """Whatever the order of its axes and operands: the weight keeps its integers, and the layer is an integer one."""
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    left = "o" in terms[0]  # the weight
    weight, lead = terms[not left], [3] * (len(terms[left]) - 1)
    w, scale = rng.integers(-128, 128, (4, 6)).astype(np.int8), np.float32([0.01, 0.02, 0.03, 0.04])
    b = Builder()
    b.input("x", ["n", *lead[1:], 6])
    given = [b.q("x", 0.02, 128), b.weight("w", w if weight == "oi" else w.T, scale, axis=weight.index("o"))]
    b.add("Einsum", given[::-1] if left else given, "y", equation=equation)
    model = b.model(b.q("y", 0.2, 128))
    g = import_onnx(model)
    assert "Einsum" in ops(g)
    run_all(g)
    (n,) = [n for n in g.nodes if n.op == "Linear"]
    t = g.tensors[n.inputs[1]]
    assert np.array_equal(t.data, w) and t.qparams.axis == 0 and np.array_equal(t.qparams.scale, scale)
    program = qgemm.load(model, on_unsupported="raise")
    assert [r.scheme for r in qgemm.report(program) if r.op == "Linear"] == ["W8A8"]
    x = rng.normal(size=[*lead, 6]).astype(np.float32)
    exact = fake_quantize(x, u8(0.02, 128)) @ (w * scale[:, None]).T
    assert np.abs(program(x) - exact).max() <= 0.1001


@pytest.mark.parametrize("attrs", [{"alpha": 0.5}, {"transA": 1}, {"beta": 2.0}])
def test_other_gemms_stay(attrs):
    g = graph([("Gemm", ["x", "w", "b"], ["y"], attrs)], {"x": (5, 5)}, {"w": np.ones((5, 3), np.float32), "b": np.ones(3, np.float32)})
    form_linear(g)
    assert ops(g) == ["Gemm"]


# ---- fuse_relu ----


def conv_then(*acts, grids=None, consts=None):
    names = ["c"] + [f"a{i}" for i in range(len(acts) - 1)] + ["y"]
    nodes = [("Conv", ["x", "w"], ["c"], {})]
    nodes += [(op, [names[i], *extra], [names[i + 1]], {}) for i, (op, *extra) in enumerate(acts)]
    return graph(nodes, {"x": (None, 3, 4, 4)}, {"w": np.ones((2, 3, 1, 1), np.float32), **(consts or {})}, grids)


def test_relu_becomes_a_bound():
    g = conv_then(("Relu",), grids={"y": u8()})
    fuse_relu(g)
    assert ops(g) == ["Conv"] and g.nodes[0].attrs == {"lo": 0.0} and g.nodes[0].outputs == ["y"]


def test_bounds_intersect():
    g = conv_then(("Relu",), ("Clip", "lo", "hi"), consts={"lo": np.float32(-1), "hi": np.float32(6)})
    fuse_relu(g)
    assert ops(g) == ["Conv"] and g.nodes[0].attrs == {"lo": 0.0, "hi": 6.0}


def test_a_rounded_intermediate_is_not_fused():
    g = conv_then(("Relu",), grids={"c": u8(), "y": u8(0.2)})
    fuse_relu(g)
    assert ops(g) == ["Conv", "Relu"]


def test_a_second_reader_or_a_returned_value_is_not_fused():
    g = conv_then(("Relu",))
    g.nodes.append(Node("Neg", ["c"], ["z"]))
    g.tensor("z")
    g.outputs.append("z")
    fuse_relu(g)
    assert "Relu" in ops(g)
    g = conv_then(("Relu",))
    g.outputs.append("c")
    fuse_relu(g)
    assert "Relu" in ops(g)


# ---- mean ----


@pytest.mark.parametrize("keep", [0, 1])
def test_mean_over_space_is_a_pool(keep):
    g = graph(
        [("ReduceMean", ["x", "axes"], ["y"], {"keepdims": keep})], {"x": (None, 3, 4, 4), "y": (None, 3)}, {"axes": np.array([-1, 2])}
    )
    mean_to_pool(g)
    assert ops(g) == (["GlobalAveragePool"] if keep else ["GlobalAveragePool", "Flatten"])
    g = graph([("ReduceMean", ["x", "axes"], ["y"], {})], {"x": (None, 3, 4, 4)}, {"axes": np.array([1])})
    mean_to_pool(g)
    assert ops(g) == ["ReduceMean"]


# ---- grid ----


def test_grids_travel_both_ways():
    g = graph([("Conv", ["x", "w"], ["c"], {}), ("MaxPool", ["c"], ["p"], {"kernel_shape": [2, 2]}), ("Flatten", ["p"], ["y"], {})],
              {"x": (None, 3, 4, 4)}, {"w": np.ones((2, 3, 1, 1), np.float32)}, {"p": u8()})  # fmt: skip
    propagate_grids(g)
    assert g.tensors["c"].qparams.same(u8()) and g.tensors["y"].qparams.same(u8())
    assert all(moves_bytes(g, n) for n in g.nodes[1:])


def test_a_grid_does_not_reach_another_reader():
    g = graph([("Relu", ["x"], ["t"], {}), ("Flatten", ["t"], ["y"], {}), ("Neg", ["t"], ["z"], {})], {"x": (None, 3)}, None, {"y": u8()},
              outputs=("y", "z"))  # fmt: skip
    propagate_grids(g)
    assert g.tensors["t"].qparams is None


def test_a_change_of_grid_is_explicit():
    g = graph([("Flatten", ["x"], ["y"], {})], {"x": (None, 3)}, None, {"x": u8(0.1), "y": u8(0.2)})
    propagate_grids(g)
    assert ops(g) == ["Flatten", "Requantize"] and moves_bytes(g, g.nodes[0])
    grids = {"x": u8(0.1), "z": u8(0.2), "y": u8(0.2)}
    g = graph([("Concat", ["x", "z"], ["y"], {"axis": 1})], {"x": (None, 3), "z": (None, 3)}, None, grids, inputs=("x", "z"))
    propagate_grids(g)
    assert ops(g) == ["Requantize", "Concat"] and moves_bytes(g, g.nodes[1])


def test_padding_must_lie_on_the_grid():
    for value, fits in ((0.0, True), (0.5, True), (0.55, False), (999.0, False)):
        g = graph(
            [("Pad", ["x", "p", "v"], ["y"], {})], {"x": (None, 3)}, {"p": np.array([0, 1, 0, 1]), "v": np.float32(value)}, {"x": u8(0.5)}
        )
        propagate_grids(g)
        assert (g.tensors["y"].qparams is not None) == fits


# ---- lut ----


def table_net(build, in_grid, out_grid):
    """y = build(x) between two grids, as (model, program)."""
    b = Builder()
    b.input("x", [None, 256])
    y = build(b, b.q("x", *in_grid))
    b.q(y, *out_grid, out="out")
    m = b.model("out")
    return m, qgemm.load(m)


def gelu_by_erf(b, x):
    b.const("r2", np.float32(np.sqrt(2))), b.const("one", np.float32(1)), b.const("half", np.float32(0.5))
    e = b.add("Add", [b.add("Erf", [b.add("Div", [x, "r2"], "d")], "e"), "one"], "e1")
    return b.add("Mul", [b.add("Mul", [x, e], "m"), "half"], "g")


def silu(b, x):
    return b.add("Mul", [x, b.q(b.add("Sigmoid", [x], "s"), 1 / 255, 0)], "m")


def affine(b, x):
    b.const("k", np.float32([3.0])), b.const("c", np.float32(-1))
    return b.add("Add", [b.add("Mul", [x, "k"], "m"), "c"], "a")


FUNCTIONS = {
    "relu": lambda b, x: b.add("Relu", [x], "f"),
    "sigmoid": lambda b, x: b.add("Sigmoid", [x], "f"),
    "gelu": lambda b, x: b.add("Gelu", [x], "f"),
    "hardswish": lambda b, x: b.add("HardSwish", [x], "f"),
    "leaky": lambda b, x: b.add("LeakyRelu", [x], "f", alpha=0.1),
    "tanh": lambda b, x: b.add("Tanh", [x], "f"),
    "requantize": lambda b, x: x,
    "square": lambda b, x: b.add("Mul", [x, x], "f"),
    "gelu_by_erf": gelu_by_erf,
    "silu": silu,
    "affine": affine,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tables_equal_the_simulation(name):
    """All 256 inputs, against onnxruntime computing the float function with the model's own roundings."""
    scale, zero = np.float32(0.041), 120
    m, p = table_net(FUNCTIONS[name], (scale, zero), (0.023, 77))
    assert [s.op for s in p.steps] == ["Quantize", "Lut"]
    x = ((np.arange(256, dtype=np.float32) - zero) * scale)[None]
    want = reference(m, {"x": x})[0]
    # Our functions round once from float64; a library's float32 function may lie an ulp away, which matters at a tie only.
    assert np.count_nonzero(p(x) != want) <= 1
    assert np.abs(p(x) - want).max() <= 0.0231


def test_an_identity_table_moves_nothing():
    g = graph([("Relu", ["x"], ["y"], {})], {"x": (None, 4)}, None, {"x": u8(0.1, 0), "y": u8(0.1, 0)})
    p = qgemm.Program(run_all(g))
    assert [s.kernel for s in p.steps] == ["quantize", "view"]


def test_no_table_for_two_tensors_or_a_vector():
    g = graph([("Mul", ["x", "z"], ["y"], {})], {"x": (None, 4), "z": (None, 4)}, None, {k: u8() for k in "xyz"}, inputs=("x", "z"))
    make_tables(g)
    assert ops(g) == ["Mul"]
    g = graph([("Mul", ["x", "k"], ["y"], {})], {"x": (None, 4)}, {"k": np.ones(4, np.float32)}, {k: u8() for k in "xy"})
    make_tables(g)
    assert ops(g) == ["Mul"]
    g = graph([("Relu", ["x"], ["y"], {})], {"x": (None, 4)}, None, {"x": u8()})
    make_tables(g)
    assert ops(g) == ["Relu"]


# ---- batch ----


def fixed_batch(n, *nodes, outputs=("y",), shapes=None, consts=None):
    g = graph(nodes, {"x": (n, 4, 6), **(shapes or {})}, consts, outputs=outputs)
    free_batch(g)
    return g


@pytest.mark.parametrize("n", [1, 8])
def test_a_fixed_batch_is_freed(n):
    target = {"s": np.array([n, -1])}
    g = fixed_batch(n, ("Relu", ["x"], ["r"], {}), ("Reshape", ["r", "s"], ["y"], {}), shapes={"r": (n, 4, 6), "y": (n, 24)}, consts=target)
    assert g.tensors["x"].shape == (None, 4, 6) and g.tensors["y"].shape == (None, 24)
    assert g.tensors[g.nodes[1].inputs[1]].data.tolist() == [0, -1]
    p = qgemm.Program(g)
    for batch in (1, 3, 8):
        assert p(np.ones((batch, 4, 6), np.float32)).shape == (batch, 24)


MIXING = {
    "transpose": ("Transpose", ["x"], ["y"], {"perm": [1, 0, 2]}),
    "softmax over samples": ("Softmax", ["x"], ["y"], {"axis": 0}),
    "sum over samples": ("ReduceSum", ["x", "zero"], ["y"], {}),
    "reshape across samples": ("Reshape", ["x", "half"], ["y"], {}),
    "one constant a sample": ("Add", ["x", "each"], ["y"], {}),
    "concat of samples": ("Concat", ["x", "x"], ["y"], {"axis": 0}),
    "gather of samples": ("Gather", ["x", "zero"], ["y"], {"axis": 0}),
    "shape": ("Shape", ["x"], ["y"], {}),
}


@pytest.mark.parametrize("name", MIXING)
def test_a_batch_that_samples_share_stays_fixed(name):
    consts = {"zero": np.array([0]), "half": np.array([4, -1]), "each": np.ones((8, 1, 1), np.float32)}
    g = fixed_batch(8, MIXING[name], shapes={"y": (4, 48) if "reshape" in name else (8, 4, 6)}, consts=consts)
    assert g.tensors["x"].shape == (8, 4, 6)


# ---- cleanup ----


def test_identities_and_dead_nodes_leave():
    g = graph([("Identity", ["x"], ["i"], {}), ("Dropout", ["i"], ["d"], {}), ("Relu", ["d"], ["r"], {}), ("Identity", ["r"], ["y"], {}),
               ("Neg", ["x"], ["unused"], {})], {"x": (None, 3)})  # fmt: skip
    drop_identities(g)
    drop_dead(g)
    assert [(n.op, n.inputs, n.outputs) for n in g.nodes] == [("Relu", ["x"], ["y"])] and "unused" not in g.tensors


def test_an_identity_with_a_grid_of_its_own_is_a_rounding():
    g = graph([("Identity", ["x"], ["y"], {})], {"x": (None, 3)}, None, {"x": u8(0.1), "y": u8(0.2)})
    drop_identities(g)
    assert ops(g) == ["Requantize"]


def test_grids_convert_both_ways(rng):
    qp = QParams(rng.random(3).astype(np.float32) + 0.01, np.int32([1, 2, 3]), 8, False, 1)
    q = rng.integers(0, 256, (4, 3, 5)).astype(np.uint8)
    assert np.array_equal(quantize(dequantize(q, qp), qp), q)
    assert quantize(np.float32([np.nan, np.inf, -np.inf]), u8(0.1, 10)).tolist() == [10, 255, 0]


# ---- sizes ----


def test_known_sizes_become_constants():
    """Heads split off as exporters write it: the batch is open, all else is known; 1 / sqrt(d) follows from the shapes."""
    g = graph(
        [
            ("Shape", ["x"], ["s"], {}),
            ("Gather", ["s", "zero"], ["batch"], {}),
            ("Gather", ["s", "two"], ["width"], {}),
            ("Div", ["width", "heads"], ["d"], {}),
            ("Unsqueeze", ["d", "axes"], ["d1"], {}),
            ("Unsqueeze", ["batch", "axes"], ["b1"], {}),
            ("Concat", ["b1", "middle", "d1"], ["target"], {"axis": 0}),
            ("Reshape", ["x", "target"], ["r"], {}),
            ("Transpose", ["r"], ["t"], {"perm": [0, 2, 1, 3]}),
            ("Shape", ["t"], ["ts"], {}),
            ("Slice", ["ts", "from", "to"], ["last"], {}),
            ("Cast", ["last"], ["real"], {"to": 1}),
            ("Sqrt", ["real"], ["root"], {}),
            ("Mul", ["t", "root"], ["y"], {}),
        ],
        {"x": (None, 5, 24), "t": (None, 3, 5, None)},
        {"zero": np.int64(0), "two": np.int64(2), "heads": np.int64(3), "axes": np.array([0]), "middle": np.array([5, 3]),
         "from": np.array([-1]), "to": np.array([2**63 - 1])},
    )  # fmt: skip
    fold_shapes(g)
    assert ops(g) == ["Shape", "Gather", "Unsqueeze", "Concat", "Reshape", "Transpose", "Shape", "Mul"]
    assert g.tensors["d1"].data.tolist() == [8] and g.tensors["d1"].data.dtype == np.int64
    assert g.tensors["t"].shape == (None, 3, 5, 8)
    assert g.tensors["root"].data == np.sqrt(np.float32(8)) and g.tensors["root"].data.dtype == np.float32


def test_a_folded_number_keeps_its_encoding():
    nodes = [("Shape", ["x"], ["s"], {}), ("Gather", ["s", "one"], ["d"], {}), ("Cast", ["d"], ["real"], {"to": 1}),
             ("Sqrt", ["real"], ["root"], {}), ("Mul", ["x", "root"], ["y"], {})]  # fmt: skip
    g = graph(nodes, {"x": (None, 7)}, {"one": np.int64(1)}, {"root": u8(0.5, 0)})
    fold_shapes(g)
    assert ops(g) == ["Shape", "Mul"]
    assert g.tensors["root"].data == 5 and dequantize(g.tensors["root"].data, g.tensors["root"].qparams) == 2.5


def test_vectors_that_broadcast_to_much_are_not_folded():
    axes = {f"c{i}": np.arange(64).reshape([64 if a == i else 1 for a in range(8)]) for i in range(8)}
    nodes = [("Shape", ["x"], ["s"], {}), ("Gather", ["s", "one"], ["d"], {}), ("Max", ["d", *axes], ["y"], {})]
    g = graph(nodes, {"x": (None, 7)}, {"one": np.int64(1), **axes})
    fold_shapes(g)
    assert ops(g) == ["Shape", "Max"]


def test_the_first_axis_counts_as_open():
    g = graph([("Shape", ["x"], ["s"], {}), ("Gather", ["s", "zero"], ["y"], {})], {"x": (4, 5)}, {"zero": np.int64(0)})
    fold_shapes(g)
    assert ops(g) == ["Shape", "Gather"]


# ---- factors ----


def attention(op="Mul", factor=0.25, more=()):
    return graph(
        [
            (op, ["q", "c"], ["scaled"], {}),
            ("Transpose", ["scaled"], ["t"], {"perm": [0, 2, 1]}),
            ("MatMul", ["k", "t"], ["y"], {}),
            *more,
        ],
        {"q": (None, 4, 8), "k": (None, 4, 8), "scaled": (None, 4, 8)}, {"c": np.float32(factor)},
        {"q": u8(0.1), "k": u8(0.2)}, inputs=("q", "k"),
    )  # fmt: skip


@pytest.mark.parametrize("op, factor, scale", [("Mul", 0.25, 0.025), ("Div", 8.0, 0.0125)])
def test_a_factor_before_a_product_goes_into_the_grid(op, factor, scale):
    g = attention(op, factor)
    absorb_factors(g)
    assert ops(g) == ["Lut", "Transpose", "MatMul"] and g.nodes[0].attrs["table"].tolist() == list(range(256))
    for name in ("scaled", "t"):
        assert g.tensors[name].qparams.scale == np.float32(scale) and g.tensors[name].qparams.zero_point == 10


@pytest.mark.parametrize(
    "g", [attention(factor=-1.0), attention(factor=0.0), attention(factor=np.inf), attention(factor=1e-44),
          attention(more=[("Relu", ["t"], ["z"], {})]),
          attention(more=[("Split", ["t"], ["u", "v"], {"axis": 1}), ("MatMul", ["k", "u"], ["w"], {}), ("Relu", ["v"], ["z"], {})])],
    ids=["negative", "zero", "infinite", "tiny", "read by another", "a part read by another"],
)  # fmt: skip
def test_other_factors_stay(g):
    absorb_factors(g)
    assert g.nodes[0].op == "Mul" and g.tensors["t"].qparams is None


def test_a_factor_far_before_its_product():
    moves = [("Transpose", [f"t{i}"], [f"t{i + 1}"], {"perm": [0, 2, 1]}) for i in range(1500)]
    g = graph([("Mul", ["x", "c"], ["t0"], {}), *moves, ("MatMul", ["t1500", "k"], ["y"], {})],
              {k: (None, 4, 4) for k in ("x", "k")}, {"c": np.float32(0.5)}, {"x": u8(), "k": u8()}, inputs=("x", "k"))  # fmt: skip
    absorb_factors(g)
    assert g.nodes[0].op == "Lut" and g.tensors["t1500"].qparams.scale == np.float32(0.05)


def test_a_product_of_scaled_bytes_is_an_integer_product(rng):
    b = Builder()
    b.input("x", ["n", 6, 16])
    q, k = b.q("x", 0.02, 120), b.q(b.add("Neg", ["x"], "minus"), 0.03, 130)
    scaled = b.add("Mul", [q, b.const("c", np.float32(0.25))], "scaled")
    b.add("MatMul", [scaled, b.add("Transpose", [k], "kt", perm=[0, 2, 1])], "y")
    p = qgemm.load(b.model("y"))
    assert "matmul" in [s.kernel for s in p.steps] and not [s for s in p.steps if s.scheme == "float" and s.op in ("Mul", "MatMul")]
    x = rng.standard_normal((2, 6, 16)).astype(np.float32)
    want = reference(b.model("y"), {"x": x})[0]
    assert np.abs(p(x) - want).max() <= 1e-5 * np.abs(want).max()


# ---- norms written out ----


def written_out(square="Pow", root="Reciprocal", grids=None, axes=-1, keepdims=1, epsilon=1e-5, weight=(4,), more=(), power=2):
    squares = ("Pow", ["x", "power"], ["s"], {}) if square == "Pow" else ("Mul", ["x", "x"], ["s"], {})
    end = [("Reciprocal", ["r"], ["i"], {}), ("Mul", ["i", "x"], ["n"], {})] if root == "Reciprocal" else [("Div", ["x", "r"], ["n"], {})]
    nodes = [squares, ("ReduceMean", ["s", "axes"], ["m"], {"keepdims": keepdims}), ("Add", ["m", "eps"], ["v"], {}),
             ("Sqrt", ["v"], ["r"], {}), *end, ("Mul", ["w", "n"], ["y"], {}), *more]  # fmt: skip
    consts = {"power": np.float32(power), "axes": np.array([axes]), "eps": np.float32(epsilon), "w": np.ones(weight, np.float32)}
    return graph(nodes, {"x": (None, 3, 4), "s": (None, 3, 4)}, consts, grids)


@pytest.mark.parametrize("square", ["Pow", "Mul"])
@pytest.mark.parametrize("root", ["Reciprocal", "Div"])
@pytest.mark.parametrize("axes", [-1, 2])
def test_a_norm_written_out_is_one_operation(square, root, axes):
    g = written_out(square, root, axes=axes)
    form_norms(g)
    assert [(n.op, n.inputs, n.outputs) for n in g.nodes] == [("RMSNormalization", ["x", "w"], ["y"])]
    assert g.nodes[0].attrs["axis"] == -1 and g.nodes[0].attrs["epsilon"] == pytest.approx(1e-5)


def test_a_weight_that_is_none_of_the_last_axis_stays_a_product():
    g = written_out(weight=(3, 1))
    form_norms(g)
    assert ops(g) == ["RMSNormalization", "Mul"] and g.nodes[0].inputs == ["x"]


@pytest.mark.parametrize(
    "g", [written_out(grids={"m": u8()}), written_out(grids={"s": u8()}), written_out(axes=1), written_out(keepdims=0),
          written_out(epsilon=-1.0), written_out(more=[("Relu", ["r"], ["z"], {})]), written_out(epsilon=np.full([1] * 4, 1e-5)),
          written_out(power=np.full([1] * 4, 2))],
    ids=["rounded mean", "rounded square", "another axis", "no axis kept", "negative", "read by another", "more dimensions",
         "an exponent of more dimensions"],
)  # fmt: skip
def test_other_norms_stay_as_they_are(g):
    before = ops(g)
    form_norms(g)
    assert ops(g) == before


# ---- masks ----


def masked(grids=None, mask=(None, 1, 1, 9), axis=-1, more=()):
    return graph(
        [("Add", ["mask", "x"], ["sum"], {}), ("Softmax", ["sum"], ["y"], {"axis": axis}), *more],
        {"x": (None, 3, 7, 9), "mask": mask, "sum": (None, 3, 7, 9)}, None, grids, inputs=("x", "mask"),
    )  # fmt: skip


@pytest.mark.parametrize("grids", [{"x": u8()}, None])
def test_a_mask_joins_its_softmax(grids):
    g = masked(grids)
    fuse_masks(g)
    assert [(n.op, n.inputs) for n in g.nodes] == [("Softmax", ["x", "mask"])]


@pytest.mark.parametrize(
    "g", [masked({"sum": u8()}), masked({"mask": u8()}), masked(axis=1), masked(more=[("Relu", ["sum"], ["z"], {})])],
    ids=["rounded sum", "rounded mask", "another axis", "read by another"],
)  # fmt: skip
def test_other_sums_stay_before_their_softmax(g):
    before = ops(g)
    fuse_masks(g)
    assert ops(g) == before


def attention_of_two(mask):
    """A softmax of masked scores, exported with a batch of 2."""
    given = ("x", "mask") if mask is None else ("x",)
    shapes = {"x": (2, 3, 4, 4), "sum": (2, 3, 4, 4), "y": (2, 3, 4, 4), **({"mask": (2, 1, 1, 4)} if mask is None else {})}
    nodes = [("Add", ["x", "mask"], ["sum"], {}), ("Softmax", ["sum"], ["y"], {"axis": -1})]
    return run_all(graph(nodes, shapes, {} if mask is None else {"mask": mask}, inputs=given))


def test_a_fixed_batch_is_freed_with_the_mask_of_each_sample(rng):
    g = attention_of_two(None)
    assert ops(g) == ["Softmax"] and g.tensors["x"].shape[0] is None
    x, mask = rng.standard_normal((3, 3, 4, 4)).astype(np.float32), rng.standard_normal((3, 1, 1, 4)).astype(np.float32)
    e = np.exp((x + mask).astype(np.float64))
    np.testing.assert_allclose(qgemm.Program(g)(x, mask), e / e.sum(-1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("samples, free", [(1, True), (2, False)])
def test_a_constant_mask_frees_the_batch_when_all_samples_share_it(samples, free):
    g = attention_of_two(np.ones((samples, 1, 1, 4), np.float32))
    assert ops(g) == ["Softmax"] and (g.tensors["x"].shape[0] is None) == free
