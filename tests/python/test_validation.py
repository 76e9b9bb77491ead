"""validate: does it see what is wrong, and say so in the right numbers?"""

import math

import numpy as np
import pytest

pytest.importorskip("aimet_torch")
pytest.importorskip("onnx")

import torch  # noqa: E402
from torch import nn  # noqa: E402

import qgemm  # noqa: E402
from aimet_networks import MLP, Net, images, simulate  # noqa: E402
from qgemm import errors  # noqa: E402
from qgemm.validation import _EndToEnd, steps_apart  # noqa: E402


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    data = images(2, 4, 16)
    sim = simulate(Net(), data)
    return sim, data, qgemm.from_aimet(sim, data[0])


def test_every_layer_of_the_network_is_compared(net):
    sim, data, fast = net
    r = qgemm.validate(fast, sim, data)
    assert [x.op for x in r.layers] == [s.op for s in fast.steps] and not r.unmapped
    assert [x.module for x in r.layers if x.op in ("Conv", "Linear")] == ["stem.2", "dw.0", "pw.0", "fc"]
    conv = r.layers[1]
    assert conv.outputs == 2 * 4 * 16 * 8 * 8 and conv.equal == 1 - conv.differing / conv.outputs
    assert r.samples == 8 and r.outputs == 80
    assert r.reordered_equal > 0.9 and r.reordered_sqnr_db > 30 and r.reordered_top1_agreement > 0.9
    assert torch.backends.mkldnn.enabled
    text = str(r)
    assert "stem.0" in text and "end to end, 8 samples" in text and "the reference with itself" in text


class _Stand:
    """A program whose step ``name`` does something else."""

    def __init__(self, fast, name, spoil):
        self.graph, self.fast = fast.graph, fast

        def run(env, run, out):
            run(env)
            env[out] = spoil(env[out])

        self.steps = [
            type(s)(**{**s.__dict__, "run": lambda env, s=s: run(env, s.run, s.outputs[0])}) if s.name == name else s for s in fast.steps
        ]

    def __call__(self, x):
        return self.fast(x)


def test_a_wrong_layer_is_found_and_the_others_stay_right(net):
    """One LSB added in one layer shows in that layer alone: every layer gets the simulation's own input."""
    sim, data, fast = net
    r = qgemm.validate(_Stand(fast, "pw.0", lambda q: np.minimum(q, 254) + np.uint8(1)), sim, data)
    by_name = {x.name: x for x in r.layers}
    assert by_name["pw.0"].max_lsb == 1 and by_name["pw.0"].equal < 0.1
    assert all(x.differing <= 1 for x in r.layers if x.name != "pw.0")
    assert r.differing_per_million > 1000


@pytest.mark.parametrize("name", ["stem.0", "dw.2", "pool", "fc"])
def test_a_layer_that_is_wrong_altogether_is_compared_all_the_same(net, name):
    """Its output resembles nothing in the simulation, but just one tensor on its grid is left over: it is that one."""
    sim, data, fast = net
    r = qgemm.validate(_Stand(fast, name, lambda q: 255 - q), sim, data)
    assert not r.unmapped and len(r.layers) == len(fast.steps)
    bad = {x.name for x in r.layers if x.max_lsb > 1}
    assert bad == {name}, r


def test_differences_are_explained_by_ties(net):
    """A difference of the simulation's own making lies at a rounding boundary; one of ours does not."""
    sim, data, fast = net
    torch.manual_seed(0)
    x = torch.randn(8192, 64)
    mlp = simulate(MLP(), [x], prepare=False, fold=False)
    r = qgemm.validate(qgemm.from_aimet(mlp, x), mlp, x)
    assert 0 < r.differing < 100 and all(layer.off_tie < 1e-3 for layer in r.layers if layer.differing)
    assert "off a tie" in str(r)
    spoiled = _Stand(fast, "pw.0", lambda q: np.minimum(q, 254) + np.uint8(1))
    r = qgemm.validate(spoiled, sim, data)
    assert next(layer for layer in r.layers if layer.name == "pw.0").off_tie > 0.1


class Branches(nn.Module):
    """A concatenation of different grids, a shuffle of channels, and a mean that drops its axes."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1), nn.Sigmoid()
        self.c, self.fc = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4)

    def forward(self, x):
        y = torch.cat([self.a(x), self.act(self.b(x))], 1)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.fc(self.c(y).mean([2, 3]))


@pytest.mark.parametrize("prepare", [True, False], ids=["prepared", "as written"])
def test_what_has_no_counterpart_is_compared_with_what_reads_it(prepare):
    torch.manual_seed(0)
    data = images(1, 4, 16)
    sim = simulate(Branches(), data, prepare=prepare)
    r = qgemm.validate(qgemm.from_aimet(sim, data[0]), sim, data)
    assert all(x.max_lsb <= 1 for x in r.layers) and r.differing_per_million < 100, r
    assert all("compared together with" in why for why in r.unmapped.values()), r
    assert {"a", "b", "c", "fc"} <= {x.name for x in r.layers}


def test_torchs_fused_transformer_kernel_does_not_hide_the_quantizers():
    """In eval mode without gradients it computes the encoder layer from the raw parameters, past AIMET's quantizers."""
    torch.manual_seed(0)
    x = torch.randn(8, 10, 32)
    model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    sim = simulate(model, [x], prepare=False, fold=False)
    fused = torch.backends.mha.get_fastpath_enabled()
    fast = qgemm.from_aimet(sim, x)
    r = qgemm.validate(fast, sim, [x])
    assert torch.backends.mha.get_fastpath_enabled() == fused
    assert r.equal > 0.999 and all(layer.max_lsb <= 1 for layer in r.layers), r
    assert {"self_attn.q_proj", "self_attn.out_proj", "linear1"} <= {layer.name for layer in r.layers if layer.scheme == "W8A8"}


def test_a_plain_callable_is_compared_end_to_end(net):
    sim, data, fast = net
    r = qgemm.validate(fast, lambda x: fast(x), data)
    assert r.layers == [] and r.equal == 1 and r.sqnr_db == math.inf and r.max_lsb == 0
    r = qgemm.validate(fast, lambda x: fast(x).numpy() * 0.5, data)
    assert 5.9 < r.sqnr_db < 6.1 or r.sqnr_db < 1  # half the signal is missing: noise equals what is left
    assert r.cosine == pytest.approx(1) and r.top1_agreement == 1


def test_batches_with_labels_and_single_tensors(net):
    sim, data, fast = net
    r = qgemm.validate(fast, sim, [(x, torch.zeros(4, dtype=torch.long)) for x in data])
    assert r.samples == 8 and r.equal == 1
    assert qgemm.validate(fast, sim, data[0]).samples == 4
    assert qgemm.validate(fast, sim, data[0].numpy()[:1]).samples == 1


def test_what_it_refuses(net):
    sim, data, fast = net
    with pytest.raises(errors.ConfigError, match="at least one batch"):
        qgemm.validate(fast, sim, [])
    with pytest.raises(errors.UnsupportedOpError, match="QuantizationSimModel or a callable"):
        qgemm.validate(fast, "sim", data)
    with pytest.raises(errors.ShapeError, match="they are not the same network|shape"):
        qgemm.validate(fast, lambda x: x, data)


def test_another_network_is_not_mistaken_for_this_one():
    torch.manual_seed(0)
    x = torch.randn(64, 64)
    one = simulate(MLP(), [x], prepare=False, fold=False)
    other = simulate(MLP(), [x], prepare=False, fold=False)
    r = qgemm.validate(qgemm.from_aimet(one, x), other, [x])
    compared = {layer.name for layer in r.layers}
    assert compared == {"x"} and len(r.unmapped) == 3 and r.equal < 0.2  # only the input quantizers are alike


def test_lsb_of_floats_and_integers():
    a, b = np.array([1, 2, 250], np.uint8), np.array([2, 2, 5], np.uint8)
    np.testing.assert_array_equal(steps_apart(a, b, None), [1, 0, 245])
    want = np.linspace(0, 255, 256, dtype=np.float32)  # a range of 255: one LSB is 1
    got = want.copy()
    got[10] += 0.4
    got[20] += 0.6
    got[30] = np.nan
    lsb = steps_apart(got, want, None)
    assert lsb[10] == 0 and lsb[20] == 1 and lsb[30] > 1000 and np.count_nonzero(lsb) == 2


def test_end_to_end_sums():
    e = _EndToEnd()
    e.add([np.array([[3.0, 1.0], [0.0, 2.0]])], [np.array([[3.0, 1.0], [2.0, 0.0]])], [None])
    assert e.top1 == 0.5 and e.equal == 0.5
    assert e.sqnr_db == pytest.approx(10 * math.log10(14 / 8)) and e.cosine == pytest.approx(10 / 14)
    with pytest.raises(errors.ShapeError):
        e.add([np.zeros(2)], [np.zeros(3)], [None])
    with pytest.raises(errors.ShapeError, match="not the same network"):
        e.add([], [np.zeros(3)], [])
