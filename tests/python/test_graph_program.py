"""Program, report and load as a user sees them."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import qgemm
from onnx_nets import Builder, model, node
from qgemm.errors import ConfigError, DTypeError, QgemmError, ShapeError
from qgemm.program import Program


def small_net(rng, outputs=("y",)):
    """conv -> relu -> mean -> linear, all on uint8 grids."""
    b = Builder()
    b.input("x", ["n", 3, 8, 8])
    w = b.weight("conv.weight", rng.integers(-128, 128, (8, 3, 3, 3)).astype(np.int8), np.full(8, 0.01))
    c = b.q(b.add("Relu", [b.add("Conv", [b.q("x", 0.05, 128), w], "c", name="/conv/Conv")], "r", name="/act/Relu"), 0.05, 0)
    f = b.add("Flatten", [b.q(b.add("GlobalAveragePool", [c], "g", name="/pool/GlobalAveragePool"), 0.02, 0)], "f", name="/flat/Flatten")
    w = b.weight("fc.weight", rng.integers(-128, 128, (10, 8)).astype(np.int8), np.full(10, 0.01))
    b.q(b.add("Gemm", [f, w], "z", transB=1, name="/fc/Gemm"), 0.1, 128, out="y")
    return b.model(*outputs)


@pytest.fixture
def program(rng):
    return qgemm.load(small_net(rng))


@pytest.fixture
def x(rng):
    return rng.standard_normal((4, 3, 8, 8)).astype(np.float32)


def test_numpy_in_numpy_out_any_batch(program, x):
    y = program(x)
    assert isinstance(y, np.ndarray) and y.dtype == np.float32 and y.shape == (4, 10)
    for n in (0, 1, 3):
        assert np.array_equal(program(x[:n]), y[:n])


def test_torch_in_torch_out(program, x):
    torch = pytest.importorskip("torch")
    t = torch.from_numpy(x)
    y = program(t)
    assert isinstance(y, torch.Tensor) and np.array_equal(y.numpy(), program(x))
    assert torch.equal(program(t.to(memory_format=torch.channels_last)), y)
    assert torch.equal(program(t.clone().requires_grad_()), y) and not program(t).requires_grad


def test_inputs_that_do_not_fit(program, x):
    with pytest.raises(ShapeError, match=r"takes 1 input\(s\) \(x\), got 2"):
        program(x, x)
    with pytest.raises(ShapeError, match=r"'x' has shape \[3, 8, 8\]; the model takes \[any, 3, 8, 8\]"):
        program(x[0])
    with pytest.raises(ShapeError, match="takes"):
        program(x[:, :2])
    with pytest.raises(DTypeError, match="float64"):
        program(x.astype(np.float64))
    with pytest.raises(DTypeError, match="list"):
        program(x.tolist())
    torch = pytest.importorskip("torch")
    with pytest.raises(DTypeError, match="bfloat16"):
        program(torch.from_numpy(x).bfloat16())
    with pytest.raises(QgemmError, match="meta"):
        program(torch.empty(1, 3, 8, 8, device="meta"))


def test_the_input_is_not_written_and_the_output_is_the_callers(program, x):
    before = x.copy()
    y = program(x)
    y[:] = 0
    assert np.array_equal(x, before) and program(x).any()
    identity = qgemm.load(model([node("Identity", ["x"], "y")], {"x": ("float32", ["n", 2])}, ["y"]))
    v = np.ones((1, 2), np.float32)
    identity(v)[:] = 5
    assert v.tolist() == [[1, 1]]


def test_trace_has_every_tensor_as_it_is_held(program, x):
    env = program.trace(x)
    assert {k: v.dtype.name for k, v in env.items()} == dict.fromkeys(("x", "r", "g", "f", "y"), "uint8")
    qp = program.graph.tensors["y"].qparams
    assert np.array_equal((env["y"].astype(np.float32) - 128) * qp.scale, program(x))


def test_steps_run_alone(program, x):
    """What validate does: a step on chosen bytes."""
    env = program.trace(x)
    step = next(s for s in program.steps if s.name == "fc")
    given = {i: env[i] for i in step.inputs}
    step.run(given)
    assert np.array_equal(given["y"], env["y"]) and step.inputs == ("f",) and step.outputs == ("y",) and step.module == "fc"
    q = {"x": env["x"]}
    program.steps[0].run(q)  # bytes are taken as they are
    assert np.array_equal(q["x"], env["x"])


def test_pickle_and_deepcopy(program, x):
    for again in (pickle.loads(pickle.dumps(program)), copy.deepcopy(program)):
        assert isinstance(again, Program) and np.array_equal(again(x), program(x))


def test_threads_share_a_program(program, rng):
    xs = [rng.standard_normal((n, 3, 8, 8)).astype(np.float32) for n in (1, 2, 5, 8) * 8]
    want = [program(x) for x in xs]
    with ThreadPoolExecutor(8) as pool:
        for got, w in zip(pool.map(program, xs), want, strict=True):
            assert np.array_equal(got, w)


def test_several_outputs(rng):
    b = Builder()
    b.input("x", ["n", 4])
    b.add("Relu", ["x"], "a"), b.add("Neg", ["x"], "b")
    p = qgemm.load(b.model("a", "b"))
    a, n = p(x := rng.standard_normal((2, 4)).astype(np.float32))
    assert np.array_equal(a, np.maximum(x, 0)) and np.array_equal(n, -x) and p.outputs == ["a", "b"] and p.inputs == ["x"]


def test_a_constant_output():
    m = model([node("Relu", ["x"], "y"), node("Identity", ["c"], "z")], {"x": ("float32", ["n", 2])}, ["y", "z"], {"c": np.float32([3])})
    y, z = qgemm.load(m)(np.zeros((1, 2), np.float32))
    z[:] = 0
    assert qgemm.load(m)(np.zeros((1, 2), np.float32))[1].tolist() == [3]


def test_report(program):
    r = qgemm.report(program)
    assert [f"{row.name} {row.op} {row.scheme}" for row in r] == [
        "x Quantize u8",
        "conv Conv W8A8",
        "pool GlobalAveragePool u8",
        "flat Flatten bytes",
        "fc Linear W8A8",
    ]
    assert len(r) == 5 and r[1].weight_bytes > 8 * 27 and not r.floats and r.weight_bytes == sum(row.weight_bytes for row in r)
    text = str(r)
    assert "conv2d" in text and text.splitlines()[0].startswith("layer") and "2 W8A8" in text.splitlines()[-1]
    assert "5 steps" in repr(program)


def test_report_says_why_float(rng):
    b = Builder()
    b.input("x", ["n", 4])
    b.add("Softmax", ["x"], "y", name="/probs/Softmax")
    (row,) = qgemm.report(qgemm.load(b.model("y"))).floats
    assert row.name == "probs" and "input 'x' has no encoding" in row.reason and row.reason in str(qgemm.report(qgemm.load(b.model("y"))))


def test_a_bad_option_is_refused(rng):
    with pytest.raises(ConfigError, match="on_unsupported"):
        qgemm.load(small_net(rng), on_unsupported="ignore")


def test_errors_inside_name_the_layer():
    m = model([node("Add", ["a", "b"], "y", name="/mix/Add")], {"a": ("float32", ["n", 2]), "b": ("float32", ["m", 2])}, ["y"])
    with pytest.raises(ShapeError, match=r"'mix' \(Add\) with 'a' \[2, 2\], 'b' \[3, 2\]"):
        qgemm.load(m)(np.zeros((2, 2), np.float32), np.zeros((3, 2), np.float32))
