"""validate: does it see what is wrong, and say so in the right numbers?"""

import math

import numpy as np
import pytest

pytest.importorskip("aimet_torch")
pytest.importorskip("onnx")

import torch  # noqa: E402

import qgemm  # noqa: E402
from aimet_networks import MLP, Net, images, simulate  # noqa: E402
from qgemm import errors  # noqa: E402
from qgemm.validation import _EndToEnd, _steps_apart  # noqa: E402


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
    text = str(r)
    assert "stem.0" in text and "end to end, 8 samples" in text and "the reference with itself" in text


def test_a_wrong_layer_is_found_and_the_others_stay_right(net, monkeypatch):
    """One LSB added in one layer shows in that layer alone: every layer gets the simulation's own input."""
    sim, data, fast = net
    name = "pw.0"
    step = next(s for s in fast.steps if s.name == name)

    def off_by_one(env, run=step.run, out=step.outputs[0]):
        run(env)
        env[out] = env[out] + (env[out] < 255).astype(np.uint8)

    steps = [s if s is not step else type(s)(**{**s.__dict__, "run": off_by_one}) for s in fast.steps]

    class Broken:
        graph = fast.graph

        def __call__(self, x):
            return fast(x)

    broken = Broken()
    broken.steps = steps
    r = qgemm.validate(broken, sim, data)
    by_name = {x.name: x for x in r.layers}
    assert by_name[name].max_lsb == 1 and by_name[name].equal < 0.1
    assert all(x.differing <= 1 for x in r.layers if x.name != name)
    assert r.differing_per_million > 1000


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
    np.testing.assert_array_equal(_steps_apart(a, b, None), [1, 0, 245])
    want = np.linspace(0, 255, 256, dtype=np.float32)  # a range of 255: one LSB is 1
    got = want.copy()
    got[10] += 0.4
    got[20] += 0.6
    got[30] = np.nan
    lsb = _steps_apart(got, want, None)
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
