"""Reading encodings files: every version, as AIMET itself writes it, and onto graphs."""

import json
import warnings

import numpy as np
import pytest

pytest.importorskip("aimet_torch")
onnx = pytest.importorskip("onnx")

import torch  # noqa: E402
from torch import nn  # noqa: E402

from aimet_networks import Linears, Net, export_everything, images, simulate  # noqa: E402
from qgemm.aimet import apply_encodings, load_torch_encodings, read_encodings  # noqa: E402
from qgemm.errors import EncodingError  # noqa: E402
from qgemm.graph.from_onnx import import_onnx  # noqa: E402

VERSIONS = ("0.6.1", "1.0.0", "2.0.0", "2.1.0")
LEGACY = ("sim.export 0.6.1", "sim.export 1.0.0")


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    data = images(2, 4, 16)
    torch.manual_seed(0)
    sim = simulate(Net(), data, bits=4)
    return sim, export_everything(sim, data[0], tmp_path_factory.mktemp("net"))


def applied(roads, road):
    model, encodings = roads[road]
    graph = import_onnx(str(model))
    return graph, apply_encodings(graph, encodings)


def weights(graph):
    return {n: t for n, t in graph.tensors.items() if t.is_const and t.qparams is not None and t.data.ndim > 1}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_gives_the_quantizers_own_grids(net, version):
    sim, roads = net
    enc = read_encodings(roads[version][1])
    assert enc.version == version and enc.producer.startswith("aimet-torch")
    out = sim.model.fc.output_quantizers[0]
    q = enc["y"].qparams
    assert q.scale == np.float32(out.get_scale().item()) and q.zero_point == -int(out.get_offset().item())
    assert (q.bits, q.signed, q.per_tensor) == (8, False, True)
    w = enc["stem.0.weight"]
    assert (w.kind, w.bits, w.signed) == ("per_channel", 4, True) and not w.zero_point.any()
    np.testing.assert_array_equal(w.scale, getattr(sim.model.stem, "0").param_quantizers["weight"].get_scale().detach().numpy().ravel())


def test_the_versions_that_tell_activations_from_parameters(net):
    for version in ("0.6.1", "1.0.0"):
        enc = read_encodings(net[1][version][1])
        assert set(enc.params) == {"stem.0.weight", "dw.0.weight", "pw.0.weight", "fc.weight"}
        assert set(enc.activations) | set(enc.params) == set(enc) and not set(enc.activations) & set(enc.params)


@pytest.mark.parametrize("road", VERSIONS + LEGACY)
def test_weights_become_the_integers_of_the_qdq_file(net, road):
    sim, roads = net
    graph, enc = applied(roads, road)
    assert enc.unmatched == [] and enc.off_grid == []
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(str(roads["qdq"][0])).graph.initializer}
    found = weights(graph)
    assert len(found) == 4
    for name, t in found.items():
        np.testing.assert_array_equal(t.data.astype(np.int32), stored[f"{name}_q"].astype(np.int32))
        np.testing.assert_array_equal(t.qparams.scale, stored[f"{name}_scale"])
        assert t.qparams.dtype == "int4" and t.qparams.axis == 0 and t.data.dtype == np.int8


def test_a_dict_reads_as_the_file(net):
    path = net[1]["1.0.0"][1]
    a, b = read_encodings(path), read_encodings(json.loads(path.read_text()))
    assert list(a) == list(b) and all(a[n].qparams.same(b[n].qparams) for n in a.activations)
    assert read_encodings(a) is a


def blockwise(how):
    def tweak(sim):
        from aimet_torch.quantsim.config_utils import (
            set_blockwise_quantization_for_weights,
            set_grouped_blockwise_quantization_for_weights,
        )

        if how == "block":
            set_blockwise_quantization_for_weights(sim, [nn.Linear], 4, True, 16)
        else:
            set_grouped_blockwise_quantization_for_weights(sim, [nn.Linear], 4, True, 8, 16, -1)

    return tweak


@pytest.fixture(scope="module", params=[("block", 2), ("block", 3), ("lpbq", 2), ("lpbq", 3)], ids=lambda p: f"{p[0]}-{p[1]}d")
def blocked(request, tmp_path_factory):
    how, rank = request.param
    torch.manual_seed(0)
    x = torch.randn(8, 64) if rank == 2 else torch.randn(4, 5, 64)
    sim = simulate(Linears(), [x], bits=4, prepare=False, fold=False, tweak=blockwise(how))
    return how, rank, sim, export_everything(sim, x, tmp_path_factory.mktemp(how), dynamo=False)


@pytest.mark.parametrize("road", VERSIONS + LEGACY)
def test_blocks_of_every_version(blocked, road):
    """The same integers whatever the file leaves to be worked out: axis, block size, order of a flat list, a transposed weight."""
    how, rank, sim, roads = blocked
    graph, enc = applied(roads, road)
    assert enc.unmatched == [] and enc.off_grid == []
    for layer in (sim.model.fc1, sim.model.fc2):
        name = next(n for n in weights(graph) if n.startswith("fc1" if layer is sim.model.fc1 else "fc2"))
        t = graph.tensors[name]
        data, quantizer = t.data.astype(np.int32), layer.param_quantizers["weight"]
        q = quantizer(layer.weight).quantize().as_subclass(torch.Tensor).detach().numpy().astype(np.int32)
        out_axis = 0 if rank == 2 else 1
        data = data if out_axis == 0 else data.T
        if how == "lpbq":
            ints = quantizer.get_encodings().per_block_int_scale.detach().numpy().astype(np.int32)
            q = q * np.repeat(ints, 16, axis=1)
            assert t.qparams.dtype == "int8" and t.qparams.axis == out_axis and t.qparams.block_size == 0
            np.testing.assert_array_equal(t.qparams.scale, quantizer.get_encodings().per_channel_scale.detach().numpy().ravel())
        else:
            assert t.qparams.dtype == "int4" and t.qparams.axis == 1 - out_axis and t.qparams.block_size == 16
            scale = t.qparams.scale if out_axis == 0 else t.qparams.scale.T
            np.testing.assert_array_equal(scale, quantizer.get_scale().detach().numpy().reshape(scale.shape))
        np.testing.assert_array_equal(data, q)


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.conv = nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.conv(self.up(x))


def test_the_channels_of_a_transposed_convolution_are_axis_1(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(1, 8, 6, 6)
    sim = simulate(Transposed(), [x], prepare=False, fold=False)
    roads = export_everything(sim, x, tmp_path, dynamo=False)
    for road in VERSIONS + LEGACY:
        graph, enc = applied(roads, road)
        # Eight channels on both axes: only the weights themselves can tell, and they do.
        assert graph.tensors["up.weight"].qparams.axis == 1 and graph.tensors["conv.weight"].qparams.axis == 0
        assert enc.off_grid == []
    found = load_torch_encodings(sim.model, roads["torch"][1])
    assert found["up"].params["weight"].axis == 1 and found["conv"].params["weight"].axis == 0


def test_torch_encodings_by_module(net):
    sim, roads = net
    model = torch.load(roads["torch"][0], weights_only=False)
    found = load_torch_encodings(model, roads["torch"][1])
    assert found["stem.0"].inputs[0].scale == np.float32(getattr(sim.model.stem, "0").input_quantizers[0].get_scale().item())
    assert found["fc"].outputs[0].zero_point == -int(sim.model.fc.output_quantizers[0].get_offset().item())
    assert found["dw.0"].params["weight"].scale.shape == (16,) and found["dw.0"].params["weight"].dtype == "int4"
    assert found["stem.0"].outputs == {}  # fused with its ReLU


def test_encodings_saved_without_a_version_are_by_module(net, tmp_path):
    sim, _ = net
    sim.save_encodings_to_json(str(tmp_path), "saved")
    found = load_torch_encodings(sim.model, tmp_path / "saved.json")
    assert found["fc"].params["weight"].bits == 4


def test_a_model_without_the_modules_is_refused(net):
    with pytest.raises(EncodingError, match="no module.*'stem.0'|no module"):
        load_torch_encodings(Linears(), net[1]["torch"][1])


def test_module_encodings_are_not_for_an_onnx_file(net):
    _, roads = net
    with pytest.raises(EncodingError, match="torch modules"):
        apply_encodings(import_onnx(str(roads["0.6.1"][0])), roads["torch"][1])
    with pytest.raises(EncodingError, match="not torch modules"):
        load_torch_encodings(Linears(), roads["0.6.1"][1])


def test_encodings_on_a_qdq_file_are_refused(net):
    _, roads = net
    with pytest.raises(EncodingError, match="already holds its encodings"):
        apply_encodings(import_onnx(str(roads["qdq"][0])), roads["2.0.0"][1])


def test_encodings_of_another_network(net, blocked):
    _, roads = net
    with pytest.raises(EncodingError, match="another network.*for example"):
        apply_encodings(import_onnx(str(roads["1.0.0"][0])), blocked[3]["1.0.0"][1])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_missing_weight_name_is_another_network(net, version):
    path = net[1][version][1]
    data = json.loads(path.read_text().replace('"fc.weight"', '"head.weight"'))
    with pytest.raises(EncodingError, match="another network.*'head.weight'.*'fc.weight' have no encoding"):
        apply_encodings(import_onnx(str(path.with_suffix(".onnx"))), data)


def test_a_weight_without_encoding_stays_float(net):
    path = net[1]["2.0.0"][1]
    data = json.loads(path.read_text())
    data["encodings"] = [e for e in data["encodings"] if e["name"] != "fc.weight"]
    graph = import_onnx(str(path.with_suffix(".onnx")))
    assert apply_encodings(graph, data).unmatched == []
    assert graph.tensors["fc.weight"].qparams is None and graph.tensors["fc.weight"].data.dtype == np.float32


def test_an_extra_entry_is_listed_not_lost(net):
    path = net[1]["2.0.0"][1]
    data = json.loads(path.read_text())
    data["encodings"].append({"name": "/gone", "output_dtype": "uint8", "y_scale": 0.5})
    assert apply_encodings(import_onnx(str(path.with_suffix(".onnx"))), data).unmatched == ["/gone"]


def test_weights_off_the_grid_are_rounded_and_named(net):
    path = net[1]["1.0.0"][1]
    graph = import_onnx(str(path.with_suffix(".onnx")))
    t = graph.tensors["pw.0.weight"]
    scale = read_encodings(path)["pw.0.weight"].scale.reshape(-1, 1, 1, 1)
    t.data = t.data + 0.3 * scale
    want = np.clip(np.rint(t.data / scale), -8, 7)
    with pytest.warns(UserWarning, match="1 weights were not on the grid.*pw.0.weight"):
        enc = apply_encodings(graph, path)
    assert enc.off_grid == ["pw.0.weight"]
    np.testing.assert_array_equal(graph.tensors["pw.0.weight"].data, want)


def test_float_entries_are_recorded_with_the_reason(net):
    path = net[1]["1.0.0"][1]
    data = json.loads(path.read_text())
    for e in data["activation_encodings"]:
        if e["name"] == "y":
            e.clear()
            e.update(name="y", dtype="FLOAT", bw=16, enc_type="PER_TENSOR")
    graph = import_onnx(str(path.with_suffix(".onnx")))
    enc = apply_encodings(graph, data)
    assert "floating point" in enc.floating["y"] and enc["y"].qparams is None
    assert graph.tensors["y"].qparams is None


def test_sixteen_bit_activations_and_asymmetric_weights():
    enc = read_encodings(
        {
            "version": "0.6.1",
            "activation_encodings": {"a": [dict(bitwidth=16, dtype="int", is_symmetric="False", scale=1e-3, offset=-40000)]},
            "param_encodings": {"w": [dict(bitwidth=8, dtype="int", is_symmetric="False", scale=0.5, offset=-3)] * 2},
        }
    )
    assert enc["a"].qparams.dtype == "uint16" and enc["a"].qparams.zero_point == 40000
    assert not enc["w"].signed and enc["w"].zero_point.tolist() == [3, 3]


def test_symmetric_forms_have_zero_point_zero():
    """Offset -128 counts from the unsigned grid; -127 is a strict symmetric grid, which never uses -128."""
    for offset in (-128, -127):
        e = dict(bitwidth=8, dtype="int", is_symmetric="True", scale=0.5, offset=offset)
        enc = read_encodings({"version": "0.6.1", "activation_encodings": {}, "param_encodings": {"w": [e]}})
        assert enc["w"].signed and enc["w"].zero_point == 0
    act = read_encodings({"version": "0.6.1", "activation_encodings": {"a": [e | {"offset": -128}]}, "param_encodings": {}})
    assert act["a"].qparams.dtype == "uint8" and act["a"].qparams.zero_point == 128


def test_negative_axes_of_2x(net):
    path = net[1]["2.1.0"][1]
    data = json.loads(path.read_text())
    for e in data["encodings"]:
        if e["name"] == "fc.weight":
            e["axis"] = -2
    graph = import_onnx(str(path.with_suffix(".onnx")))
    apply_encodings(graph, data)
    assert graph.tensors["fc.weight"].qparams.axis == 0


def test_dead_channels_work(net):
    """AIMET writes scale 1.19e-7 for a channel of zeros."""
    path = net[1]["2.0.0"][1]
    data = json.loads(path.read_text())
    graph = import_onnx(str(path.with_suffix(".onnx")))
    graph.tensors["fc.weight"].data = graph.tensors["fc.weight"].data.copy()
    graph.tensors["fc.weight"].data[3] = 0
    next(e for e in data["encodings"] if e["name"] == "fc.weight")["y_scale"][3] = 1.1920928955078125e-07
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apply_encodings(graph, data)
    assert not graph.tensors["fc.weight"].data[3].any()
