"""``qgemm.aimet.accelerate``: the simulation on integer kernels says what it said before, and ``restore`` leaves no trace."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

pytest.importorskip("aimet_torch")
import torch  # noqa: E402
from aimet_torch.nn.base import BaseQuantizationMixin  # noqa: E402
from aimet_torch.quantsim import QuantizationSimModel  # noqa: E402
from torch import nn  # noqa: E402

import qgemm  # noqa: E402
from aimet_networks import MLP, Audio, Encoder, Net  # noqa: E402
from qgemm.errors import ConfigError, DTypeError  # noqa: E402
from qgemm.exporting import quiet  # noqa: E402


def simulate(model, data, bits=8, activations=8, before=None):
    with quiet(), torch.no_grad():
        sim = QuantizationSimModel(model.eval(), data[0], default_param_bw=bits, default_output_bw=activations)
        if before is not None:
            before(sim)
        sim.compute_encodings(lambda m: [m(x) for x in data])
    return sim


def images(n=2, size=32):
    g = torch.Generator().manual_seed(3)
    return [torch.randn(4, 3, size, size, generator=g) for _ in range(n)]


class Small(nn.Module):
    """A conv with its ReLU, a pool, a linear layer: every kind of integer module in three lines."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        self.conv2, self.act, self.flat, self.fc = nn.Conv2d(16, 8, 3, 2), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 7 * 7, 10)

    def forward(self, x):
        return self.fc(self.flat(self.act(self.conv2(self.pool(self.relu(self.conv(x)))))))


def small(**kwargs):
    torch.manual_seed(0)
    return simulate(Small(), images(), **kwargs), images()


def run(model, x):
    with torch.no_grad():
        return model(x).as_subclass(torch.Tensor).clone()


def quantized(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, BaseQuantizationMixin)}


def module_inputs(model, x):
    """Module name -> (arguments, output) of the simulation, arguments with their encodings."""
    seen, handles = {}, []
    for name, m in quantized(model).items():
        handles.append(m.register_forward_hook(lambda _m, args, out, n=name: seen.__setitem__(n, (args, out))))
    run(model, x)
    for h in handles:
        h.remove()
    return seen


NETWORKS = {
    "net": (Net, lambda: [torch.randn(8, 3, 96, 96) for _ in range(2)]),
    "mlp": (MLP, lambda: [torch.randn(1024, 64) for _ in range(2)]),
    "audio": (Audio, lambda: [torch.randn(8, 2, 4096) for _ in range(2)]),
    "encoder": (Encoder, lambda: [torch.randn(8, 128, 64) for _ in range(2)]),
}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_module_agrees_on_the_simulations_own_input(network, bits):
    torch.manual_seed(1)
    make, data = NETWORKS[network]
    model, data = make(), data()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.reset_parameters()
    sim = simulate(model, data, bits)
    plain = copy.deepcopy(sim.model)
    report = qgemm.aimet.accelerate(sim)
    modules, count, differing = quantized(sim.model), 0, 0
    for name, (args, want) in module_inputs(plain, data[0]).items():
        with torch.no_grad():
            got = modules[name](*args)
        assert type(got) is type(want) and got.shape == want.shape and got.stride() == want.stride(), name
        if (quantizer := modules[name].output_quantizers[0]) is None:
            continue
        steps = torch.round((got - want).as_subclass(torch.Tensor) / quantizer.get_scale()).abs()
        assert steps.max() <= 1, name
        count, differing = count + steps.numel(), differing + int((steps > 0).sum())
    assert differing <= 1 + count * 10e-6, f"{differing} of {count}"
    # A pool's output shows no encoding, so what reads it knows the grid only within an accelerated run.
    after_pool = {"conv3"} if network == "audio" else set()
    assert {r.module for r in report.accelerated if not r.integer_calls} == after_pool, report


def test_a_whole_network_and_back():
    sim, (x, _) = small()
    want, names = run(sim.model, x), list(sim.model.state_dict())
    values = {k: v.clone() for k, v in sim.model.state_dict().items() if isinstance(v, torch.Tensor)}
    report = qgemm.aimet.accelerate(sim)
    got = run(sim.model, x)
    assert (got - want).abs().max() <= 1.01 * sim.model.fc.output_quantizers[0].get_scale()
    assert list(sim.model.state_dict()) == names
    assert [r.module for r in report] == list(quantized(sim.model))
    assert {r.module for r in report.accelerated} == {"conv", "relu", "pool", "conv2", "act", "fc"}
    assert all(r.integer_calls == 1 and r.other_calls == 0 for r in report.accelerated), report
    assert "6 of 7 quantized modules" in str(report)
    qgemm.aimet.restore(sim)
    assert torch.equal(run(sim.model, x), want)
    assert not any("forward" in m.__dict__ for m in sim.model.modules())
    assert all(torch.equal(sim.model.state_dict()[k], v) for k, v in values.items())
    qgemm.aimet.restore(sim)


def test_accelerating_twice_changes_nothing():
    sim, (x, _) = small()
    qgemm.aimet.accelerate(sim)
    first, forward = run(sim.model, x), sim.model.fc.forward
    report = qgemm.aimet.accelerate(sim)
    assert sim.model.fc.forward == forward and len(report.accelerated) == 6
    assert torch.equal(run(sim.model, x), first)
    assert report[-1].integer_calls == 2
    qgemm.aimet.restore(sim)
    assert "forward" not in sim.model.fc.__dict__


def halve_data(m):
    m.conv2.weight.data.mul_(0.5)


def add_in_place(m):
    with torch.no_grad():
        m.fc.bias.add_(0.25)


def other_weight(m):
    m.conv.weight = nn.Parameter(torch.randn(16, 3, 3, 3) * 0.1)


def other_encoding(m):
    m.relu.output_quantizers[0].set_range(0.0, 0.7)


def other_weight_encoding(m):
    q = m.conv.param_quantizers["weight"]
    q.set_range(q.get_min() * 0.5, q.get_max() * 0.5)


def fewer_bits(m):
    q = m.fc.param_quantizers["weight"]
    low, high = q.get_min(), q.get_max()
    q.qmin, q.qmax = -8, 7
    q.set_range(low, high)


def load(m):
    torch.manual_seed(9)
    state = m.state_dict()
    m.load_state_dict({k: v * 0.9 if k.endswith("conv.weight") else v for k, v in state.items()})


def no_quantizer(m):
    m.relu.output_quantizers[0] = None


def padding(m):
    m.conv2.padding = (1, 1)
    m.fc = copy.deepcopy(m.fc)
    m.fc.weight = nn.Parameter(torch.randn(10, 8 * 8 * 8))
    m.fc.in_features = 8 * 8 * 8


@pytest.mark.parametrize(
    "change",
    [halve_data, add_in_place, other_weight, other_encoding, other_weight_encoding, fewer_bits, load, no_quantizer, padding],
    ids=lambda f: f.__name__,
)
def test_a_change_is_noticed(change):
    sim, (x, _) = small()
    qgemm.aimet.accelerate(sim)
    before = run(sim.model, x)
    torch.manual_seed(5)
    change(sim.model)
    got = run(sim.model, x)
    qgemm.aimet.restore(sim)
    want = run(sim.model, x)
    assert not torch.equal(before, want)  # the change shows
    step = sim.model.fc.output_quantizers[0].get_scale()
    assert (got - want).abs().max() <= 2.01 * step and (got != want).float().mean() < 0.1


def test_calibrating_an_accelerated_simulation_gives_the_same_encodings():
    sim, data = small()
    other, _ = small()
    qgemm.aimet.accelerate(sim)
    wide = [3 * x for x in data]
    with torch.no_grad():
        for s in (sim, other):
            s.compute_encodings(lambda m: [m(x) for x in wide])
    for (name, a), (_, b) in zip(sim.model.named_parameters(), other.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    report = qgemm.aimet.accelerate(sim)
    run(sim.model, data[0])
    assert all(r.integer_calls >= 1 for r in report.accelerated), report


def test_after_calibration_the_kernels_come_back_by_themselves():
    sim, data = small()
    report = qgemm.aimet.accelerate(sim)
    with torch.no_grad():
        sim.compute_encodings(lambda m: [m(x) for x in data])
    run(sim.model, data[0])
    assert all(r.integer_calls == 1 for r in report.accelerated), report
    qgemm.aimet.restore(sim)
    assert not any("forward" in m.__dict__ for m in sim.model.modules())


def test_gradients_are_the_simulations_own():
    sim, (x, _) = small()
    sim.model(x).square().sum().backward()
    want = {n: p.grad.clone() for n, p in sim.model.named_parameters() if p.grad is not None}
    sim.model.zero_grad()
    report = qgemm.aimet.accelerate(sim)
    sim.model(x).square().sum().backward()
    got = {n: p.grad for n, p in sim.model.named_parameters() if p.grad is not None}
    assert want and want.keys() == got.keys() and all(torch.equal(got[n], want[n]) for n in want)
    assert all(r.integer_calls == 0 and "gradients" in r.last for r in report.accelerated)
    # The mode decides nothing for these layers, and AIMET leaves some modules of an eval() model in training mode.
    sim.model.train()
    run(sim.model, x)
    assert all(r.integer_calls == 1 for r in report.accelerated)


def test_copies_and_pickles_are_accelerated_too():
    sim, (x, _) = small()
    want = run(sim.model, x)
    qgemm.aimet.accelerate(sim)
    got = run(sim.model, x)
    for again in (copy.deepcopy(sim.model), pickle.loads(pickle.dumps(sim.model))):
        owner = again.fc.forward.__self__
        assert owner is not sim.model.fc.forward.__self__ and owner.module is again.fc
        assert torch.equal(run(again, x), got)
        assert owner.integer_calls == 1
        qgemm.aimet.restore(again)
        assert torch.equal(run(again, x), want)
    assert torch.equal(run(sim.model, x), got)


def test_an_accelerated_simulation_exports_as_itself(tmp_path):
    sim, (x, _) = small()
    want = qgemm.from_aimet(sim, x)(x)
    report = qgemm.aimet.accelerate(sim)
    assert torch.equal(qgemm.from_aimet(sim, x)(x), want)
    with quiet():
        sim.onnx.export(x, f"{tmp_path}/net.onnx", encoding_version="1.0.0", dynamo=False)
    assert torch.equal(qgemm.load(f"{tmp_path}/net.onnx", encodings=f"{tmp_path}/net.encodings")(x), want)
    run(sim.model, x)
    assert all(r.integer_calls for r in report.accelerated)


def test_validating_against_our_own_kernels_is_refused():
    sim, (x, _) = small()
    fast = qgemm.from_aimet(sim, x)
    qgemm.aimet.accelerate(sim)
    with pytest.raises(ConfigError, match="restore"):
        qgemm.validate(fast, sim, [x])
    qgemm.aimet.restore(sim)
    assert qgemm.validate(fast, sim, [x]).max_layer_lsb <= 1


def test_what_is_no_simulation_is_refused():
    for wrong in (nn.Linear(2, 2), "sim", None):
        with pytest.raises(DTypeError, match="QuantizationSimModel"):
            qgemm.aimet.accelerate(wrong)
        with pytest.raises(DTypeError, match="QuantizationSimModel"):
            qgemm.aimet.restore(wrong)


def test_16_bit_activations_stay_the_simulations():
    sim, (x, _) = small(activations=16)
    want = run(sim.model, x)
    report = qgemm.aimet.accelerate(sim)
    assert torch.equal(run(sim.model, x), want)
    assert all(r.integer_calls == 0 for r in report)
    rows = {r.module: r for r in report}
    assert "8-bit" in rows["conv"].last and "8 bits" in rows["relu"].last


def blocks(sim):
    from aimet_torch.quantsim.config_utils import set_blockwise_quantization_for_weights

    set_blockwise_quantization_for_weights(sim, [nn.Linear], 4, True, 56)


def lpbq(sim):
    from aimet_torch.quantsim.config_utils import set_grouped_blockwise_quantization_for_weights

    set_grouped_blockwise_quantization_for_weights(sim, [nn.Linear], 4, True, 8, 56, -1)


def asymmetric(sim):
    from aimet_torch.quantization.affine import QuantizeDequantize

    sim.model.conv.param_quantizers["weight"] = QuantizeDequantize((16, 1, 1, 1), 8, False)
    sim.model.fc.param_quantizers["weight"] = QuantizeDequantize((), 8, False)


def four_bit_activations(sim):
    from aimet_torch.quantization.affine import QuantizeDequantize

    sim.model.relu.output_quantizers[0] = QuantizeDequantize((), 4, False)
    sim.model.act.output_quantizers[0] = QuantizeDequantize((), 8, True)


@pytest.mark.parametrize("change", [blocks, lpbq, asymmetric, four_bit_activations], ids=lambda f: f.__name__)
def test_other_encodings(change):
    sim, (x, _) = small(before=change)
    want = run(sim.model, x)
    report = qgemm.aimet.accelerate(sim)
    got = run(sim.model, x)
    step = sim.model.fc.output_quantizers[0].get_scale()
    assert (got - want).abs().max() <= 1.01 * step and (got != want).float().mean() < 0.05
    assert all(r.integer_calls == 1 for r in report.accelerated) and len(report.accelerated) == 6, report


def test_folded_parameters():
    sim, (x, _) = small()
    want = run(sim.model, x)
    sim.fold_param_quantizers()
    report = qgemm.aimet.accelerate(sim)
    got = run(sim.model, x)
    assert (got - want).abs().max() <= 1.01 * sim.model.fc.output_quantizers[0].get_scale()
    assert all(r.integer_calls == 1 for r in report.accelerated), report


def test_hooks_on_quantizers_still_run():
    sim, (x, _) = small()
    report = qgemm.aimet.accelerate(sim)
    want = run(sim.model, x)
    seen = []
    for m in quantized(sim.model).values():
        if m.output_quantizers[0] is not None:
            m.output_quantizers[0].register_forward_hook(lambda q, args, out: seen.append(out.as_subclass(torch.Tensor)))
    assert torch.equal(run(sim.model, x), want)
    assert len(seen) == 4 and torch.equal(seen[-1], want)
    assert {r.module for r in report if r.other_calls} == {"relu", "act"}


def test_kernels_of_somebody_else_stay():
    sim, (x, _) = small()
    used = []

    def kernel(input, weight, bias=None, output_encodings=None):  # noqa: A002
        used.append(1)
        return output_encodings.quantize(nn.functional.linear(input.dequantize(), weight.dequantize(), bias))

    sim.model.fc.set_kernel(lambda *a, **k: kernel(*a, **k))
    sim.model.conv.forward = lambda *a: type(sim.model.conv).forward(sim.model.conv, *a)
    mine = sim.model.conv.forward
    report = qgemm.aimet.accelerate(sim)
    rows = {r.module: r for r in report}
    assert "somebody else" in rows["conv"].reason and sim.model.conv.forward is mine
    try:
        run(sim.model, x)
    except Exception as e:  # the kernel above may not suit AIMET: it must have been called all the same
        assert used, e
    assert used and rows["fc"].integer_calls == 0 and "set_kernel" in rows["fc"].last
    qgemm.aimet.restore(sim)
    assert sim.model.conv.forward is mine


class InPlace(nn.Module):
    """Writes into a quantized tensor before the next layer reads it."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = self.a(x)
        x += 0.3
        return self.b(x)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_tensor_that_was_written_into_is_not_taken_for_its_bytes(mode):
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    sim = simulate(InPlace(), [x])
    sim.model.b.input_quantizers[0] = None  # what AIMET puts behind an operation that it does not know
    with mode():
        want = sim.model(x).as_subclass(torch.Tensor)
        report = qgemm.aimet.accelerate(sim)
        got = sim.model(x).as_subclass(torch.Tensor)
    assert torch.equal(got, want)
    assert [(r.integer_calls, r.other_calls) for r in report] == [(1, 0), (0, 1)]


def test_inference_mode_is_as_fast_a_road():
    sim, (x, _) = small()
    report = qgemm.aimet.accelerate(sim)
    want = run(sim.model, x)
    with torch.inference_mode():
        got = sim.model(x).as_subclass(torch.Tensor)
    assert torch.equal(got, want)
    assert all(r.integer_calls == 2 for r in report.accelerated)


def test_channels_last_in_channels_last_out():
    sim, (x, _) = small()
    qgemm.aimet.accelerate(sim)
    want = run(sim.model, x)
    strides = []
    sim.model.conv2.register_forward_hook(lambda m, a, y: strides.append(y.as_subclass(torch.Tensor).stride()))
    got = run(sim.model, x.contiguous(memory_format=torch.channels_last))
    assert torch.equal(got, want) and strides[0][1] == 1


def test_parameters_are_quantized_once():
    from unittest import mock

    from aimet_torch.quantization.affine.quantizer import QuantizeDequantize

    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 32), nn.LayerNorm(32), nn.Linear(32, 4))
    data = [torch.randint(0, 50, (8, 16))]
    sim = simulate(model, data)
    want = run(sim.model, data[0])
    qgemm.aimet.accelerate(sim)
    got = run(sim.model, data[0])
    assert np.isclose(got.numpy(), want.numpy(), atol=1.01 * float(sim.model[2].output_quantizers[0].get_scale())).all()
    with mock.patch.object(QuantizeDequantize, "forward", side_effect=AssertionError("a quantizer of AIMET's ran again")):
        assert torch.equal(run(sim.model, data[0]), got)
