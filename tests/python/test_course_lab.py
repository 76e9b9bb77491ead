"""The lab of the AIMET course, and the matrix example of a lecture: small enough to check by hand."""

import numpy as np
import pytest

from qgemm import _core

W = np.array([[0.25, -0.32, 1.58, 2.10], [-1.45, 1.82, -0.29, 3.78], [-2.72, -0.12, 2.24, -1.84], [1.93, 0.49, 0.00, -3.19]], np.float32)
X = np.array([0.25, 0.17, -0.31, 0.55], np.float32)
BITS = 4


def simulation():
    """The exercise: one Linear without bias, 4 bits everywhere, ``calibrate`` handed to compute_encodings."""
    pytest.importorskip("aimet_torch")
    import torch
    from torch import nn

    from aimet_networks import quiet

    with quiet():
        from aimet_torch.common.defs import QuantScheme
        from aimet_torch.quantsim import QuantizationSimModel

        model = nn.Sequential(nn.Linear(4, 4, bias=False)).eval()
        with torch.no_grad():
            model[0].weight.copy_(torch.from_numpy(W))
        x = torch.from_numpy(X)[None]

        def calibrate(model, _=None):
            with torch.no_grad():
                model(x)

        sim = QuantizationSimModel(
            model, dummy_input=x, quant_scheme=QuantScheme.post_training_tf, default_output_bw=BITS, default_param_bw=BITS
        )
        sim.compute_encodings(calibrate, forward_pass_callback_args=None)
    return sim, x


def test_the_simulation_is_reproduced_exactly(tmp_path, capsys):
    sim, x = simulation()
    import torch

    import qgemm
    from aimet_networks import NAMES, export_everything, plain, quiet

    layer = getattr(sim.model, "0")
    with capsys.disabled(), torch.no_grad():
        quantizers = dict(input=layer.input_quantizers[0], weight=layer.param_quantizers["weight"], output=layer.output_quantizers[0])
        print()
        for name, q in quantizers.items():
            low, high, delta = (v.detach().numpy().ravel().round(6).tolist() for v in (q.get_min(), q.get_max(), q.get_scale()))
            print(f"{name:>6}: min {low} max {high} delta {delta}")
    with torch.no_grad():
        want = plain(sim.model(x)).numpy()
    scale = quantizers["output"].get_scale().item()
    assert len(set((want / scale).round().ravel())) > 1
    roads = export_everything(sim, x, tmp_path)
    programs = {road: qgemm.load(model, encodings) for road, (model, encodings) in roads.items() if road != "torch"}
    programs["live"] = qgemm.from_aimet(sim, x)
    for road, fast in programs.items():
        np.testing.assert_array_equal(fast(x.numpy()), want, err_msg=road)
        assert [s.scheme for s in fast.steps if s.op == "Linear"] == ["W4A4"], road
    # Inputs beyond the calibrated range run into both ends of the 4-bit grids: 0 and 15, not 255.
    wild = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * 3
    with torch.no_grad():
        want = plain(sim.model(wild)).numpy()
    got = programs["live"](wild.numpy())
    levels = np.unique(np.rint(want / scale).astype(int))
    assert levels.size == 16, "the test should reach every level of the output"
    np.testing.assert_array_equal(got, want)
    with quiet():
        sim.onnx.export(x, str(tmp_path / "again.onnx"), encoding_version="1.0.0", dynamo=False, **NAMES)
    again = qgemm.load(tmp_path / "again.onnx", tmp_path / "again.encodings")
    np.testing.assert_array_equal(again(wild.numpy()), want)


def by_hand(values, bits):
    """The lecture's symmetric quantizer: s = max|R| / (2^(b-1) - 1), round half to even, clamp."""
    top = (1 << (bits - 1)) - 1
    scale = np.float32(np.abs(values).max() / top)
    return np.clip(np.rint(values / scale), -top - 1, top).astype(np.int8), scale


def integer_product(weight, x):
    """W x exactly, by the engine: int8 values enter as bytes with zero point 128; the sum comes back as int32."""
    packed = _core.pack_linear(weight, np.ones(1, np.float32), x_zero_point=128)
    out = np.empty((1, weight.shape[0]), np.int32)
    _core.linear((x.astype(np.int16) + 128).astype(np.uint8)[None], packed, out)
    return out[0]


def test_the_lab_by_hand():
    wq, ws = by_hand(W, BITS)
    xq, xs = by_hand(X, BITS)
    assert ws == pytest.approx(3.78 / 7) and xs == pytest.approx(0.55 / 7)
    np.testing.assert_array_equal(wq, [[0, -1, 3, 4], [-3, 3, -1, 7], [-5, 0, 4, -3], [4, 1, 0, -6]])
    np.testing.assert_array_equal(xq, [3, 2, -4, 7])
    yq = integer_product(wq, xq)
    np.testing.assert_array_equal(yq, wq.astype(np.int64) @ xq)
    np.testing.assert_array_equal(yq, [14, 50, -52, -28])
    # Half a step of each factor, times the largest of the other, times four terms, bounds the error.
    bound = 4 * (ws / 2 * np.abs(X).max() + xs / 2 * np.abs(W).max() + ws * xs / 4)
    assert np.abs(ws * xs * yq - W @ X).max() < bound
    assert np.corrcoef(ws * xs * yq, W @ X)[0, 1] > 0.99


def test_the_matrix_of_the_lecture():
    a = np.array([[-1.54, 0.22], [-0.26, 0.65]], np.float32)
    b = np.array([0.35, -0.51], np.float32)
    sa, sb = np.float32(2 / 127), np.float32(1 / 127)
    aq = np.empty(a.shape, np.int8)
    bq = np.empty(b.shape, np.int8)
    zero = np.zeros(1, np.int32)
    _core.quantize(a, np.array([sa]), zero, -128, 127, aq)
    _core.quantize(b, np.array([sb]), zero, -128, 127, bq)
    np.testing.assert_array_equal(aq, [[-98, 14], [-17, 41]])
    np.testing.assert_array_equal(bq, [44, -65])
    y = integer_product(aq, bq)
    np.testing.assert_array_equal(y, [-5222, -3413])
    np.testing.assert_allclose(y * sa * sb, [-0.648, -0.423], atol=5e-4)
    # Requantized to the range [-3, 3]: 127/3 steps a unit. The engine's epilogue does it from the same accumulator.
    so = np.float32(3 / 127)
    packed = _core.pack_linear(aq, np.array([sa]), x_scale=float(sb), x_zero_point=128)
    out = np.empty((1, 2), np.int8)
    _core.linear((bq.astype(np.int16) + 128).astype(np.uint8)[None], packed, out, float(so), 0, -128, 127)
    np.testing.assert_array_equal(out[0], np.rint(y * float(sa) * float(sb) / float(so)))
    np.testing.assert_array_equal(out[0], [-27, -18])
