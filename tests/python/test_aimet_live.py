"""from_aimet and _torch.encodings: what they leave behind (nothing), what they refuse, and in which words."""

import logging
import tempfile
import warnings

import numpy as np
import pytest

pytest.importorskip("aimet_torch")
pytest.importorskip("onnx")

import torch  # noqa: E402
from torch import nn  # noqa: E402

import qgemm  # noqa: E402
from aimet_networks import MLP, Audio, Net, images, plain, quiet, simulate  # noqa: E402
from qgemm import errors  # noqa: E402


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    data = images(2, 4, 16)
    return simulate(Net(), data), data


def test_the_simulation_is_left_as_it_was(net):
    sim, data = net
    modules = dict(sim.model.named_modules())
    sim.model.train()
    modules["fc"].eval()  # each module's own flag comes back, not one for all
    flags = {n: m.training for n, m in modules.items()}
    state = {k: v.clone() for k, v in sim.model.state_dict().items() if isinstance(v, torch.Tensor)}
    grads = [p.requires_grad for p in sim.model.parameters()]
    hooks = {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in modules.items()}
    qgemm.validate(qgemm.from_aimet(sim, data[0]), sim, data[:1])
    assert {n: m.training for n, m in sim.model.named_modules()} == flags
    assert [p.requires_grad for p in sim.model.parameters()] == grads
    assert {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in sim.model.named_modules()} == hooks
    after = sim.model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in state.items())
    assert all(a is b for a, b in zip(modules.values(), dict(sim.model.named_modules()).values(), strict=True))
    sim.model.eval()


def test_nothing_is_said_and_no_file_stays(net, tmp_path, monkeypatch, capfd):
    sim, data = net
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = logging.root.manager.disable, {n: logging.getLogger(n).level for n in list(logging.root.manager.loggerDict)}
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        qgemm.from_aimet(sim, data[0])
        assert warnings.filters == filters
    assert [str(w.message) for w in said] == []
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == before[0]
    assert {n: logging.getLogger(n).level for n in before[1]} == before[1]
    assert list(tmp_path.iterdir()) == []


def test_inputs_as_torch_or_numpy_and_any_batch(net):
    sim, data = net
    fast = qgemm.from_aimet(sim, data[0].numpy())
    assert fast.source == "aimet"
    with torch.no_grad():
        want = plain(sim.model(data[1][:3]))
    got = fast(data[1][:3])
    assert isinstance(got, torch.Tensor) and isinstance(fast(data[1][:3].numpy()), np.ndarray)
    assert torch.equal(got, want)
    assert fast(data[1][:0]).shape == (0, 10)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        from aimet_torch.nn.modules.custom import Add

        self.a, self.b, self.add, self.head = nn.Linear(8, 16), nn.Linear(12, 16), Add(), nn.Linear(16, 5)

    def forward(self, left, right):
        both = self.add(self.a(left), self.b(right))
        return self.head(both), both


def test_several_inputs_and_outputs():
    with quiet():
        from aimet_torch.quantsim import QuantizationSimModel

        torch.manual_seed(0)
        x = torch.randn(6, 8), torch.randn(6, 12)
        sim = QuantizationSimModel(TwoInputs().eval(), x)
        with torch.no_grad():
            sim.compute_encodings(lambda m: m(*x))
    fast = qgemm.from_aimet(sim, x)
    assert fast.graph.inputs == ["left", "right"]
    with torch.no_grad():
        want = sim.model(*x)
    for a, b in zip(fast(*x), want, strict=True):
        torch.testing.assert_close(a, plain(b), rtol=0, atol=0)
    r = qgemm.validate(fast, sim, [x])
    assert r.equal == 1.0 and len(r.layers) == 6, r


def test_not_a_simulation(net):
    for thing in (Net(), "net.onnx", None):
        with pytest.raises(errors.DTypeError, match="takes an aimet_torch QuantizationSimModel"):
            qgemm.from_aimet(thing, torch.zeros(1, 3, 16, 16))
    with pytest.raises(errors.DTypeError, match="not its .model"):
        qgemm.from_aimet(net[0].model, net[1][0])


def test_a_simulation_without_encodings():
    with quiet():
        from aimet_torch.quantsim import QuantizationSimModel

        x = torch.randn(4, 64)
        sim = QuantizationSimModel(MLP().eval(), x)
    with pytest.raises(errors.EncodingError, match=r"no encodings for \d+ quantizers \(.*\): run sim.compute_encodings"):
        qgemm.from_aimet(sim, x)
    with pytest.raises(errors.EncodingError, match="run sim.compute_encodings"):
        qgemm.validate(lambda v: v, sim, x)


def test_inputs_of_the_wrong_kind(net):
    sim, data = net
    with pytest.raises(errors.DTypeError, match="input 0 must be a torch tensor or a numpy array, got str"):
        qgemm.from_aimet(sim, "x")
    with pytest.raises(errors.DTypeError, match="got dict"):
        qgemm.from_aimet(sim, {"x": data[0]})


def test_aimet_not_installed(net, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "aimet_torch", None)
    with pytest.raises(errors.MissingDependencyError, match=r'pip install "qgemm\[aimet\]"'):
        qgemm.from_aimet(net[0], net[1][0])


class Functional(nn.Module):
    """Operations that are no modules, which AIMET does not see."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(8, 8), nn.Linear(8, 8), function

    def forward(self, x):
        return self.b(self.function(self.a(x)))


def test_the_parts_that_stay_float_are_reported_or_refused():
    torch.manual_seed(0)
    x = torch.randn(32, 8)

    def forget_the_input(sim):
        sim.model.b.input_quantizers[0] = None

    sim = simulate(Functional(lambda y: torch.tanh(y) * 0.5), [x], prepare=False, fold=False, tweak=forget_the_input)
    fast = qgemm.from_aimet(sim, x)
    assert {s.name for s in fast.steps if s.scheme == "float" and s.reason} >= {"b"}
    r = qgemm.validate(fast, sim, [x])
    assert r.max_lsb <= 1 and r.equal > 0.99 and "b" in {layer.name for layer in r.layers}, r
    with pytest.raises(errors.UnsupportedOpError, match="'b'"):
        qgemm.from_aimet(sim, x, on_unsupported="raise")


def test_what_cannot_be_exported_says_so():
    x = torch.randn(32, 8)
    sim = simulate(Functional(lambda y: torch.special.i0e(y)), [x], prepare=False, fold=False)
    with pytest.raises(errors.UnsupportedOpError, match="cannot export.*i0e"):
        qgemm.from_aimet(sim, x)


def test_torch_encodings_of_a_conv1d_network(tmp_path):
    """The road by module, on a network whose quantizers include inputs, fused ReLUs and operations without weights."""
    torch.manual_seed(0)
    x = torch.randn(4, 2, 256)
    sim = simulate(Audio(), [x], prepare=False, fold=False)
    with quiet():
        sim.export(str(tmp_path), "net", x)
    model = torch.load(tmp_path / "net.pth", weights_only=False)
    fast = qgemm.aimet.from_torch_encodings(model, tmp_path / "net_torch.encodings", x)
    assert fast.source == "torch"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(fast(x), qgemm.from_aimet(sim, x)(x))
    assert fast(x[:1]).shape == (1, 11)


def test_encodings_are_read_with_numpy_alone():
    import subprocess
    import sys

    code = (
        "import sys\n"
        "for m in ('torch', 'onnx', 'aimet_torch', 'tqdm'): sys.modules[m] = None\n"
        "import qgemm, qgemm.aimet\n"
        "enc = qgemm.aimet.read_encodings({'version': '2.0.0', 'encodings': [{'name': 'x', 'output_dtype': 'uint8', 'y_scale': 0.5}]})\n"
        "assert enc['x'].qparams.scale == 0.5\n"
        "try: qgemm.from_aimet(None, None)\n"
        "except qgemm.errors.MissingDependencyError as e: assert 'qgemm[torch]' in str(e)\n"
        "else: raise AssertionError\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
