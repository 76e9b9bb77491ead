"""Agreement with the AIMET simulation: per layer on the same integers at most 1 LSB, at most 10 outputs per million; every road alike."""

import numpy as np
import pytest

pytest.importorskip("aimet_torch")
pytest.importorskip("onnx")

import torch  # noqa: E402
from torch import nn  # noqa: E402

import qgemm  # noqa: E402
from aimet_networks import (  # noqa: E402
    MLP,
    NAMES,
    Audio,
    Encoder,
    Linears,
    Net,
    export_everything,
    images,
    plain,
    quiet,
    sane_statistics,
    simulate,
)


@pytest.fixture(autouse=True)
def one_thread():
    """The simulation sums in the order of its threads; one thread keeps the comparison repeatable."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _noise(*shape, batches=1, seed=2):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=g) for _ in range(batches)]


def _torchvision(name):
    torchvision = pytest.importorskip("torchvision")
    return sane_statistics(torchvision.models.get_model(name))


_PLAIN = dict(prepare=False, fold=False)
NETWORKS = {
    "mlp": (MLP, lambda: _noise(4096, 64, batches=2), _PLAIN),
    "conv1d": (Audio, lambda: _noise(16, 2, 1024, batches=2), _PLAIN),
    "encoder": (Encoder, lambda: _noise(8, 64, 64, batches=2), _PLAIN),
    "resnet18": (lambda: _torchvision("resnet18"), lambda: images(1, 4, 96), {}),
    "mobilenet_v2": (lambda: _torchvision("mobilenet_v2"), lambda: images(1, 4, 96), {}),
}


def _simulation(name, bits):
    make, data, options = NETWORKS[name]
    torch.manual_seed(0)
    data = data()
    return simulate(make(), data, bits=bits, **options), data


@pytest.mark.parametrize("bits", [8, 4], ids=["W8A8", "W4A8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_per_layer_agreement(name, bits):
    sim, data = _simulation(name, bits)
    fast = qgemm.from_aimet(sim, data[0])
    r = qgemm.validate(fast, sim, data)
    assert r.layer_outputs >= 1_000_000
    assert all(x.max_lsb <= 1 for x in r.layers), r
    assert r.differing_per_million <= 10, r
    # Where outputs differ the simulation's own value lay at a rounding boundary: its order of summation, not our arithmetic.
    assert all(x.off_tie < 1e-3 for x in r.layers if x.differing and x.off_tie is not None), r
    # Nothing that computes goes unchecked: only moves inside forward() are beyond the hooks.
    steps = {s.name: s for s in fast.steps}
    assert all(steps[n].scheme == "bytes" for n in r.unmapped), r
    assert {x.name for x in r.layers} | set(r.unmapped) == {s.name for s in fast.steps if s.scheme != "index"}
    weighted = [s for s in fast.steps if s.op in ("Conv", "Linear")]
    assert all(s.scheme == f"W{bits}A8" for s in weighted) and all(x.module for x in r.layers if x.op in ("Conv", "Linear"))
    assert r.cosine > 0.999 and r.sqnr_db > 30, r
    # Deep networks of random weights do not reproduce themselves either; shallow ones do.
    assert r.equal >= (0.999 if name in ("mlp", "conv1d", "encoder") else 0.5), r


def test_sixteen_bit_activations():
    """Where the simulation differs from itself as often: at most 3,000 per million."""
    torch.manual_seed(0)
    data = _noise(4096, 64)
    sim = simulate(MLP(), data, activations=16, **_PLAIN)
    r = qgemm.validate(qgemm.from_aimet(sim, data[0]), sim, data)
    assert len(r.layers) >= 3 and all(x.max_lsb <= 1 for x in r.layers), r
    assert r.differing_per_million <= 3000, r


@pytest.fixture(scope="module", params=[8, 4], ids=["W8A8", "W4A8"])
def everything(request, tmp_path_factory):
    torch.manual_seed(0)
    data = images(2, 8, 16)
    sim = simulate(Net(), data, bits=request.param)
    with torch.no_grad():
        want = plain(sim.model(data[0])).numpy()
    return sim, data, want, export_everything(sim, data[0], tmp_path_factory.mktemp("roads"))


def programs(sim, data, roads):
    made = {road: qgemm.load(model, encodings) for road, (model, encodings) in roads.items() if road != "torch"}
    model = torch.load(roads["torch"][0], weights_only=False)
    made["_torch.encodings"] = qgemm.aimet.from_torch_encodings(model, roads["torch"][1], data[0])
    made["live"] = qgemm.from_aimet(sim, data[0])
    return made


def test_every_road_gives_the_same_bytes(everything):
    sim, data, want, roads = everything
    made = programs(sim, data, roads)
    assert len(made) == 11
    reference = made["live"]
    kernels = [(s.op, s.scheme, s.kernel, s.weight_bytes) for s in reference.steps]
    x = data[1].numpy()
    wanted = reference(x)
    for road, fast in made.items():
        np.testing.assert_array_equal(fast(x), wanted, err_msg=road)
        got = [(s.op, s.scheme, s.kernel, s.weight_bytes) for s in fast.steps]
        same = [(op.replace("ReduceMean", "GlobalAveragePool").replace("Reshape", "Flatten"), *rest) for op, *rest in got]
        assert [k[1:] for k in same] == [k[1:] for k in kernels], road
        if "sim.export" not in road:  # the deprecated exporter fixes the batch size
            assert fast(x[:3]).shape == (3, 10), road
    np.testing.assert_array_equal(reference(data[0].numpy()), want)
    # A program that was read from files is compared with the simulation as well as one made from it: names play no part.
    for road in ("sim.export 0.6.1", "2.1.0", "_torch.encodings"):
        r = qgemm.validate(made[road], sim, data)
        assert len(r.layers) == 9 and not r.unmapped and all(layer.max_lsb <= 1 for layer in r.layers), (road, r)


def blockwise(how):
    def tweak(sim):
        from aimet_torch.quantsim import config_utils

        if how == "block":
            config_utils.set_blockwise_quantization_for_weights(sim, [nn.Linear], 4, True, 16)
        else:
            config_utils.set_grouped_blockwise_quantization_for_weights(sim, [nn.Linear], 4, True, 8, 16, -1)

    return tweak


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("how", ["block", "lpbq"])
def test_blocks_on_every_road(how, rank, tmp_path):
    torch.manual_seed(0)
    x = _noise(512, 64)[0] if rank == 2 else _noise(64, 8, 64)[0]
    sim = simulate(Linears(), [x], bits=4, tweak=blockwise(how), **_PLAIN)
    made = programs(sim, [x], export_everything(sim, x, tmp_path))
    wanted = made["live"](x.numpy())
    for road, fast in made.items():
        np.testing.assert_array_equal(fast(x.numpy()), wanted, err_msg=road)
        assert [s.scheme for s in fast.steps if s.op == "Linear"] == ["W8A8" if how == "lpbq" else "W4A8 g16"] * 2, road
    r = qgemm.validate(made["live"], sim, [x])
    assert all(layer.max_lsb <= 1 for layer in r.layers) and r.equal > 0.999, r


def test_linears_between_normalization_and_softmax():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32), nn.Softmax(-1))
    x = _noise(16, 10, 32)[0]
    sim = simulate(model, [x], fold=False)
    r = qgemm.validate(qgemm.from_aimet(sim, x), sim, [x])
    assert len(r.layers) >= 6 and all(layer.max_lsb <= 1 for layer in r.layers), r


def test_integer_biases_are_executed_as_the_file_says(tmp_path):
    """An int32 bias joins the accumulator; the simulation keeps it float, so results are near, not equal."""
    import aimet_torch.onnx

    torch.manual_seed(0)
    x = _noise(256, 64)[0]
    sim = simulate(MLP(), [x], **_PLAIN)
    with quiet(), torch.no_grad():
        aimet_torch.onnx.export(sim, x, str(tmp_path / "a.onnx"), opset_version=21, dynamo=False, export_int32_bias=True, **NAMES)
        sim.onnx.export(x, str(tmp_path / "b.onnx"), encoding_version="2.0.0", dynamo=False, export_int32_bias=True, **NAMES)
        want = plain(sim.model(x)).numpy()
    a = qgemm.load(tmp_path / "a.onnx")(x.numpy())
    b = qgemm.load(tmp_path / "b.onnx", tmp_path / "b.encodings")(x.numpy())
    np.testing.assert_array_equal(a, b)
    lsb = sim.model.net[4].output_quantizers[0].get_scale().item()
    assert np.abs(a - want).max() <= 2.01 * lsb


@pytest.mark.parametrize("name", ["mobilenet_v2"])
def test_files_and_live_simulation_agree_on_a_real_architecture(name, tmp_path):
    sim, data = _simulation(name, 8)
    x = data[0][:1]
    with quiet():
        sim.onnx.export(data[0], str(tmp_path / "n.onnx"), encoding_version="2.0.0", dynamo=False, export_int32_bias=False, **NAMES)
    a = qgemm.from_aimet(sim, data[0])(x.numpy())
    b = qgemm.load(tmp_path / "n.onnx", tmp_path / "n.encodings")(x.numpy())
    np.testing.assert_array_equal(a, b)
