"""Calibration without AIMET gives AIMET's encodings, and a program that answers as the simulation does."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from torch import nn  # noqa: E402

import qgemm  # noqa: E402
from qgemm.calibrate.observers import OBSERVERS, MinMax, Mse  # noqa: E402
from qgemm.calibrate.place import place  # noqa: E402
from qgemm.errors import ConfigError, DTypeError, QuantizationError, ShapeError, UnsupportedOpError  # noqa: E402
from qgemm.graph.ir import Graph, Node, QParams, Tensor  # noqa: E402
from qgemm.graph.passes.batchnorm import fold_batchnorm  # noqa: E402


def sqnr(want, got) -> float:
    want, got = np.asarray(want.detach(), np.float64), np.asarray(got, np.float64)
    return float(10 * np.log10((want**2).mean() / ((got - want) ** 2).mean()))


def vectors(n=3, batch=16, width=64):
    g = torch.Generator().manual_seed(1)
    return [torch.randn(batch, width, generator=g) for _ in range(n)]


def pictures(n=3, batch=4, size=16):
    g = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 3, size, size, generator=g) for _ in range(n)]


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 8)).eval()


class Branches(nn.Module):
    """Shared quantizers, a depthwise layer with Relu, a rescaled value, a convolution that is followed by nothing."""

    def __init__(self):
        super().__init__()
        self.c, self.d, self.r = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU()
        self.e, self.h, self.p = nn.Conv2d(8, 8, 1), nn.Hardswish(), nn.MaxPool2d(2)
        self.t, self.r2, self.l, self.ln = nn.ConvTranspose2d(16, 6, 2, 2), nn.ReLU(), nn.Linear(6 * 256, 5), nn.LayerNorm(5)

    def forward(self, x):
        y = self.r(self.d(self.c(x)))
        z = self.p(torch.cat([self.e(y), self.h(y) * 2.0], 1))
        return self.ln(self.l(torch.flatten(self.r2(self.t(z)), 1)))


# ---- against AIMET ----


def encodings_in_order(program):
    """Grids of the steps' results in order of execution, and those of the weights."""
    tensors = program.graph.tensors
    activations = [tensors[i].qparams for i in program.inputs]
    weights = []
    for n in program.graph.nodes:
        if n.op in ("Conv", "ConvTranspose", "Linear"):
            weights.append(tensors[n.inputs[1]])
        activations += [tensors[o].qparams for o in n.outputs]
    return activations, weights


def assert_ulp(a, b, maxulp=1):
    np.testing.assert_array_max_ulp(np.asarray(a, np.float32), np.asarray(b, np.float32), maxulp)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("make, data", [("net", "pictures"), ("mlp", "vectors"), ("branches", "pictures")])
def test_encodings_and_outputs_are_those_of_the_simulation(make, data, bits):
    pytest.importorskip("aimet_torch")
    from aimet_networks import Net, sane_statistics, simulate

    torch.manual_seed(0)
    model = {"net": lambda: sane_statistics(Net()), "mlp": mlp, "branches": Branches}[make]
    with torch.no_grad():
        model = model().eval()
    data = {"pictures": pictures, "vectors": vectors}[data]()
    ours = qgemm.quantize(model, calibration=data, config=qgemm.W8A8(weight_bits=bits))
    sim = simulate(copy.deepcopy(model), data, bits=bits)
    theirs = qgemm.from_aimet(sim, data[0])
    (a, wa), (b, wb) = encodings_in_order(ours), encodings_in_order(theirs)
    assert [n.op for n in ours.graph.nodes if n.op not in ("Reshape", "Flatten")] == [
        n.op for n in theirs.graph.nodes if n.op not in ("Reshape", "Flatten")
    ]
    assert len(a) == len(b) and len(wa) == len(wb) > 1
    for x, y in zip(a, b, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            assert_ulp(x.scale, y.scale)
            assert x.zero_point == y.zero_point and x.dtype == y.dtype
    for x, y in zip(wa, wb, strict=True):
        assert x.qparams.axis == y.qparams.axis and x.qparams.bits == y.qparams.bits == bits
        # AIMET keeps a symmetric range as its two ends and takes the scale from their difference: one rounding more.
        assert_ulp(x.qparams.scale, y.qparams.scale, 2)
        assert np.count_nonzero(x.data != y.data) <= x.data.size // 1000
    with torch.no_grad():
        want = sim.model(data[0]).as_subclass(torch.Tensor)
    lsb = float(ours.graph.tensors[ours.outputs[0]].qparams.scale)
    assert float((ours(data[0]) - want).abs().max()) <= 1.01 * lsb


# ---- whole networks ----


def test_plain_torch():
    from aimet_networks import Net

    torch.manual_seed(0)
    model, data = Net().eval(), pictures()
    state = copy.deepcopy(model.state_dict())
    fast = qgemm.quantize(model, calibration=data, config=qgemm.W8A8())
    assert sqnr(model(data[0]), fast(data[0])) > 25
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()) and not model.training
    assert fast(data[0][:3]).shape == (3, 10) and fast(data[0][:1].numpy()).shape == (1, 10)
    assert not qgemm.report(fast).floats
    mse = qgemm.quantize(model, calibration=iter(data), config=qgemm.W8A8(observer="mse"), on_unsupported="raise")  # any iterable
    assert sqnr(model(data[0]), mse(data[0])) > 25


def test_one_sample_at_a_time_is_the_same_calibration():
    model, data = mlp(), vectors()
    whole = qgemm.quantize(model, calibration=data)
    single = qgemm.quantize(model, calibration=[row[None].numpy() for x in data for row in x])
    for name, t in whole.graph.tensors.items():
        if t.qparams is not None:
            np.testing.assert_allclose(single.graph.tensors[name].qparams.scale, t.qparams.scale, rtol=1e-5)
    assert single(data[0]).shape == (16, 8)


def test_mobilenet_v2():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v2(width_mult=0.35, num_classes=10).eval()
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.weight.uniform_(0.8, 1.2), m.bias.normal_(0, 0.2), m.running_var.uniform_(0.3, 0.8)
    data = pictures(2, 2, 96)
    fast = qgemm.quantize(model, calibration=data)
    assert sqnr(model(data[0]), fast(data[0])) > 12
    assert not qgemm.report(fast).floats


def test_transformer_encoder():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 32), nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")).eval()
    data = [torch.randint(0, 50, (4, 12), generator=torch.Generator().manual_seed(k)) for k in range(2)]
    fast = qgemm.quantize(model, calibration=data)
    assert sqnr(model(data[0]), fast(data[0])) > 20
    assert {"W8A8"} == {r.scheme for r in qgemm.report(fast) if r.op == "Linear"}


def test_per_tensor_and_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 6), nn.Linear(4, 6, bias=False)

        def forward(self, x, y):
            return torch.relu(self.a(x) + self.b(y))

    torch.manual_seed(0)
    model, data = Two().eval(), [(torch.randn(5, 8), torch.randn(5, 4)) for _ in range(2)]
    fast = qgemm.quantize(model, calibration=data, config=qgemm.W8A8(per_channel=False))
    assert sqnr(model(*data[0]), fast(*data[0])) > 25
    assert all(t.qparams.per_tensor for t in fast.graph.constants() if t.qparams is not None)


def test_from_torch_computes_the_model():
    from aimet_networks import Net, sane_statistics

    torch.manual_seed(0)
    with torch.no_grad():
        model, x = sane_statistics(Net()).eval(), pictures(1)[0]
        program = qgemm.from_torch(model, x)
        torch.testing.assert_close(program(x), model(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(program(x[:1]), model(x[:1]), rtol=1e-4, atol=1e-5)
    assert {r.scheme for r in qgemm.report(program) if r.op in ("Conv", "Linear")} == {"float"}


# ---- observers ----


def test_minmax_keeps_the_extremes(rng):
    x = rng.normal(size=(4, 100)).astype(np.float32)
    o = MinMax()
    for row in x:
        o.update(row)
    assert o.range() == (x.min(), x.max())


def test_mse_leaves_less_error_than_minmax_and_ignores_order(rng):
    x = np.concatenate([rng.normal(size=200_000), [8.0]]).astype(np.float32)
    a, b = Mse(), Mse()
    for part in np.array_split(x, 7):
        a.update(part)
    for part in np.array_split(x[::-1], 3):
        b.update(part)
    assert a.range() == b.range() and np.array_equal(a.counts, b.counts) and a.counts.sum() == x.size

    def error(lo, hi):
        scale, zero = qgemm.numerics.activation_encoding(lo, hi)
        return np.square(qgemm.numerics.dequantize(qgemm.numerics.quantize(x, scale, zero, 0, 255), scale, zero) - x).mean()

    assert error(*a.range()) < 0.9 * error(float(x.min()), float(x.max()))


@pytest.mark.parametrize("kind", OBSERVERS.values())
@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 1e-42])
def test_constant_values_have_a_range(kind, value):
    o = kind()
    o.update(np.zeros(3, np.float32))
    o.update(np.full(5, value, np.float32))
    lo, hi = o.range()
    assert lo <= min(value, 0) * 0.5 and hi >= max(value, 0) * 0.5 and np.isfinite([lo, hi]).all()


# ---- placement and the pass ----


def chain(*ops, shapes=None):
    """x -> op -> op ...: every op with a weight reads ``w``."""
    g = Graph(inputs=["x"], outputs=[f"t{len(ops) - 1}"])
    g.tensors["x"] = Tensor("x", (None, 4, 8, 8))
    previous = "x"
    for k, (op, extra, attrs) in enumerate(ops):
        for name, data in extra.items():
            g.tensors[name] = Tensor(name, data.shape, "float32", data=data)
        g.tensor(f"t{k}").shape = (None, 4, 8, 8)
        g.nodes.append(Node(op, [previous, *extra], [f"t{k}"], dict(attrs), f"n{k}"))
        previous = f"t{k}"
    return g


W = {"w": np.ones((4, 4, 1, 1), np.float32)}
DW = {"w": np.ones((4, 1, 1, 1), np.float32)}


@pytest.mark.parametrize(
    "ops, want",
    [
        ([("Conv", W, {}), ("Relu", {}, {})], {"x", "t1"}),
        ([("Conv", W, {}), ("Clip", {}, {})], {"x", "t1"}),
        ([("Conv", W, {}), ("Sigmoid", {}, {})], {"x", "t0", "t1"}),
        ([("Conv", DW, {"group": 4}), ("Clip", {}, {})], {"x", "t0", "t1"}),
        ([("Conv", {"w": np.ones((4, 4, 1, 1, 1), np.float32)}, {}), ("Relu", {}, {})], {"x", "t0", "t1"}),
        ([("ConvTranspose", W, {}), ("Relu", {}, {})], {"x", "t1"}),
        ([("MaxPool", {}, {}), ("Transpose", {}, {})], {"x"}),
        ([("Sigmoid", {}, {}), ("Mul", {"c": np.float32([0.5])}, {})], {"x", "t0"}),
        ([("Sigmoid", {}, {}), ("Mul", {"c": np.float32([-0.5])}, {})], {"x", "t0", "t1"}),
    ],
)
def test_which_tensors_carry_a_quantizer(ops, want):
    assert set(place(chain(*ops)).quantizer) == want


def test_depthwise_and_relu_share_one_quantizer():
    p = place(chain(("Conv", DW, {"group": 4}), ("Relu", {}, {})))
    assert p.quantizer == {"x": "x", "t0": "t1", "t1": "t1"}


@pytest.mark.parametrize("op, groups", [("Conv", 1), ("Conv", 2), ("ConvTranspose", 1), ("ConvTranspose", 2), ("Linear", 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_batchnorm_folds(rng, op, groups, bias):
    from qgemm.program import Program

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    n_out = 6
    w = {"Conv": (6, 4 // groups, 3, 3), "ConvTranspose": (4, 6 // groups, 3, 3), "Linear": (6, 4)}[op]
    extra = {"w": draw(*w)} | ({"b": draw(n_out)} if bias else {})
    norm = {"gamma": draw(n_out), "beta": draw(n_out), "mean": draw(n_out), "var": draw(n_out) ** 2 + 0.5}
    g = chain((op, extra, {"group": groups} if op != "Linear" else {}), ("BatchNormalization", norm, {"epsilon": 1e-3}))
    shape = (3, 4) if op == "Linear" else (3, 4, 7, 7)
    for name in ("x", "t0", "t1"):
        g.tensors[name].shape = (None,) * len(shape)
    x = draw(*shape)
    want = Program(copy.deepcopy(g))(x)
    fold_batchnorm(g)
    assert [n.op for n in g.nodes] == [op] and g.nodes[0].outputs == ["t1"] and len(g.nodes[0].inputs) == 3
    np.testing.assert_allclose(Program(g)(x), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op, groups", [("Conv", 1), ("Conv", 2), ("ConvTranspose", 2)])
@pytest.mark.parametrize("shifted", [True, False])
def test_a_frozen_batchnorm_folds(rng, op, groups, shifted):
    """torchvision's detectors hold theirs as two constants."""
    from qgemm.program import Program

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    weight = {"w": draw(*((6, 4 // groups, 3, 3) if op == "Conv" else (4, 6 // groups, 3, 3)))}
    behind = [("Mul", {"k": draw(1, 6, 1, 1)}, {}), ("Add", {"s": draw(6, 1, 1)}, {})][: 2 if shifted else 1]
    g = chain((op, weight, {"group": groups}), *behind)
    for name in ("x", "t0", "t1"):
        g.tensors[name].shape = (None, 4 if name == "x" else 6, None, None)
    x = draw(3, 4, 7, 7)
    want = Program(copy.deepcopy(g))(x)
    fold_batchnorm(g)
    assert [n.op for n in g.nodes] == [op]
    np.testing.assert_allclose(Program(g)(x), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("k", [np.ones((1, 1, 1, 1), np.float32), np.ones((4, 4), np.float32), np.ones((4, 1, 1, 1), np.float32)])
def test_a_product_with_another_constant_does_not_fold(k):
    g = chain(("Conv", W, {}), ("Mul", {"k": k}, {}))
    g.tensors["t0"].shape = (None, 4, 4, 4)
    fold_batchnorm(g)
    assert [n.op for n in g.nodes] == ["Conv", "Mul"]


def test_batchnorm_stays_where_something_is_rounded_or_shared():
    norm = {k: np.ones(4, np.float32) for k in ("gamma", "beta", "mean", "var")}
    rounded = chain(("Conv", W, {}), ("BatchNormalization", norm, {}))
    rounded.tensors["t0"].qparams = QParams(np.float32(0.1), np.int32(0))
    shared = chain(("Conv", W, {}), ("BatchNormalization", norm, {}))
    shared.outputs.append("t0")
    integers = chain(("Conv", W, {}), ("BatchNormalization", norm, {}))
    integers.tensors["w"] = Tensor(
        "w", (4, 4, 1, 1), "int8", QParams(np.float32(1), np.int32(0), signed=True), np.ones((4, 4, 1, 1), np.int8)
    )
    for g in (rounded, shared, integers):
        fold_batchnorm(g)
        assert [n.op for n in g.nodes] == ["Conv", "BatchNormalization"]


# ---- what is refused ----


@pytest.mark.parametrize(
    "bad", [dict(observer="median"), dict(weight_bits=6), dict(weight_bits=True), dict(per_channel=1), dict(observer=3)]
)
def test_config_values(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        qgemm.W8A8(**bad)


def test_bad_calibration():
    model, x = mlp(), torch.randn(4, 64)
    with pytest.raises(ConfigError, match="no batches"):
        qgemm.quantize(model, calibration=[])
    with pytest.raises(DTypeError, match="iterable of batches"):
        qgemm.quantize(model, calibration=x)
    with pytest.raises(DTypeError, match="iterable of batches"):
        qgemm.quantize(model, calibration=None)
    with pytest.raises(ShapeError, match="batch 1.*shape"):
        qgemm.quantize(model, calibration=[x, torch.randn(4, 63)])
    with pytest.raises(DTypeError, match="batch 1"):
        qgemm.quantize(model, calibration=[x, x.double()])
    with pytest.raises(ShapeError, match="leave labels out"):
        qgemm.quantize(model, calibration=[x, (x, torch.zeros(4))])
    with pytest.raises(QuantizationError, match="NaN in tensor.*an input of the model, in batch 1"):
        qgemm.quantize(model, calibration=[x, torch.full((2, 64), float("nan"))])


def test_values_that_are_not_finite_name_their_layer():
    model = mlp()
    with torch.no_grad():
        model[2].bias[0] = float("inf")
    with pytest.raises(QuantizationError, match="infinity in tensor.*layer '3'"):
        qgemm.quantize(model, calibration=vectors())
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(QuantizationError, match="NaN"):
        qgemm.quantize(model, calibration=vectors())


def test_bad_models_and_configs():
    model, data = mlp(), vectors(1)
    with pytest.raises(ConfigError, match="needs no calibration"):
        qgemm.quantize(model, calibration=data, config=qgemm.W8A8Dynamic())
    with pytest.raises(ConfigError, match="parentheses"):
        qgemm.quantize(model, calibration=data, config=qgemm.W8A8)
    with pytest.raises(ConfigError, match="qgemm.quantize"):
        qgemm.quantize_(copy.deepcopy(model), qgemm.W8A8())
    with pytest.raises(ConfigError, match="on_unsupported"):
        qgemm.quantize(model, calibration=data, on_unsupported="skip")
    with pytest.raises(DTypeError, match="nn.Module"):
        qgemm.quantize(lambda x: x, calibration=data)
    model[1].train()
    with pytest.raises(ConfigError, match="training mode.*eval"):
        qgemm.quantize(model, calibration=data)
    with pytest.raises(ConfigError, match="training mode"):
        qgemm.from_torch(model.train(), data[0])


def test_operators_nobody_executes():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.det(x.reshape(-1, 8, 8))

    class Branching(nn.Module):
        def forward(self, x):
            return x if float(x.sum()) > 0 else -x

    for model in (Odd(), Branching()):
        with pytest.raises(UnsupportedOpError):
            qgemm.quantize(model.eval(), calibration=vectors(1))
