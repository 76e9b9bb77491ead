"""Networks, their AIMET simulations and everything AIMET exports of them, for the tests."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch
from torch import nn

from qgemm.aimet.export import quiet

NAMES = dict(input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "n"}, "y": {0: "n"}})


class Net(nn.Module):
    """Stem, depthwise, residual add, pooling, classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.dw = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.pw = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.pool, self.flat, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        return self.fc(self.flat(self.pool(x + self.pw(self.dw(x)))))


class MLP(nn.Module):
    def __init__(self, width=256, classes=64):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x):
        return self.net(x)


class Audio(nn.Module):
    """A one-dimensional network: strided and dilated convolutions, a residual add, pooling."""

    def __init__(self):
        super().__init__()
        from aimet_torch.nn.modules.custom import Add

        self.conv1, self.act1 = nn.Conv1d(2, 24, 7, 2, 3), nn.ReLU()
        self.conv2, self.act2 = nn.Conv1d(24, 24, 3, 1, 2, dilation=2), nn.ReLU()
        self.add, self.pool = Add(), nn.MaxPool1d(2)
        self.conv3, self.act3 = nn.Conv1d(24, 32, 3, 2, 1, groups=4), nn.SiLU()
        self.mean, self.flat, self.fc = nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 11)

    def forward(self, x):
        x = self.act1(self.conv1(x))
        x = self.pool(self.add(x, self.act2(self.conv2(x))))
        return self.fc(self.flat(self.mean(self.act3(self.conv3(x)))))


class Encoder(nn.Module):
    """A transformer encoder block of modules, so that every operation of it has a quantizer."""

    def __init__(self, width=64, heads=4, hidden=128):
        super().__init__()
        from aimet_torch.nn.modules.custom import Add, MatMul

        self.heads, self.size = heads, width // heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.scores, self.softmax, self.mix, self.out = MatMul(), nn.Softmax(-1), MatMul(), nn.Linear(width, width)
        self.add1, self.norm1 = Add(), nn.LayerNorm(width)
        self.up, self.act, self.down = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        self.add2, self.norm2 = Add(), nn.LayerNorm(width)

    def forward(self, x):
        b, n, w = x.shape
        q, k, v = (f(x).view(b, n, self.heads, self.size).transpose(1, 2) for f in (self.q, self.k, self.v))
        a = self.softmax(self.scores(q, k.transpose(-1, -2)))
        y = self.out(self.mix(a, v).transpose(1, 2).reshape(b, n, w))
        x = self.norm1(self.add1(x, y))
        return self.norm2(self.add2(x, self.down(self.act(self.up(x)))))


class Linears(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 12)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


def sane_statistics(model: nn.Module, seed: int = 0) -> nn.Module:
    """Batch-norm statistics and gains as a trained network might have, instead of 0 and 1."""
    g = torch.Generator().manual_seed(seed)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.copy_(0.1 * torch.randn(m.num_features, generator=g))
            m.running_var.copy_(0.5 + torch.rand(m.num_features, generator=g))
            m.weight.data.copy_(0.6 + 0.8 * torch.rand(m.num_features, generator=g))
            m.bias.data.copy_(0.2 * torch.randn(m.num_features, generator=g))
    return model


def simulate(model, data, bits=8, activations=8, prepare=True, fold=True, tweak=None, **options):
    """A calibrated QuantizationSimModel of ``model``. ``tweak(sim)`` runs before the calibration."""
    with quiet():
        from aimet_torch.batch_norm_fold import fold_all_batch_norms
        from aimet_torch.model_preparer import prepare_model
        from aimet_torch.quantsim import QuantizationSimModel

        model = model.eval()
        if prepare:
            model = prepare_model(model)
        if fold:
            fold_all_batch_norms(model, input_shapes=tuple(data[0].shape), dummy_input=data[0])
        sim = QuantizationSimModel(model, data[0], default_output_bw=activations, default_param_bw=bits, **options)
        if tweak:
            tweak(sim)
        with torch.no_grad():
            sim.compute_encodings(lambda m: [m(x) for x in data])
    return sim


def images(n=2, batch=2, size=64, seed=1):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 3, size, size, generator=g) for _ in range(n)]


@contextlib.contextmanager
def legacy_version(version):
    from aimet_torch.common import quantsim

    before = quantsim.encoding_version
    quantsim.encoding_version = version
    try:
        yield
    finally:
        quantsim.encoding_version = before


def export_everything(sim, x, folder: Path, dynamo=True) -> dict[str, tuple[Path, Path | None]]:
    """Every format of AIMET: road -> (model, encodings or None). ``torch`` is the pickled model with its _torch.encodings."""
    roads: dict[str, tuple[Path, Path | None]] = {}
    with quiet(), torch.no_grad():
        import aimet_torch.onnx

        qdq = dict(opset_version=21, export_int32_bias=False)
        for road, prequantize in (("qdq", True), ("qdq, float weights", False)):
            path = folder / f"{road.replace(', ', '_').replace(' ', '_')}.onnx"
            aimet_torch.onnx.export(sim, x, str(path), dynamo=False, prequantize_constants=prequantize, **qdq, **NAMES)
            roads[road] = path, None
        if dynamo:
            path = folder / "dynamo.onnx"
            shapes = {"dynamic_shapes": ({0: torch.export.Dim("n", min=1, max=4096)},)}
            names = dict(input_names=["x"], output_names=["y"])
            aimet_torch.onnx.export(sim, (x,), str(path), dynamo=True, prequantize_constants=True, **qdq, **names, **shapes)
            assert path.with_suffix(".onnx.data").exists(), "the dynamo exporter writes external data"
            roads["qdq, dynamo"] = path, None
        for version in ("0.6.1", "1.0.0", "2.0.0", "2.1.0"):
            extra = {"export_int32_bias": False} if version >= "2" else {}
            path = folder / f"{version}.onnx"
            sim.onnx.export(x, str(path), encoding_version=version, dynamo=False, **extra, **NAMES)
            roads[version] = path, path.with_suffix(".encodings")
        for version in ("0.6.1", "1.0.0"):
            d = folder / f"legacy_{version}"
            os.makedirs(d)
            with legacy_version(version):
                sim.export(str(d), "net", x)
            roads[f"sim.export {version}"] = d / "net.onnx", d / "net.encodings"
        roads["torch"] = d / "net.pth", d / "net_torch.encodings"
    return roads


def plain(y):
    """A tensor without AIMET's subclass."""
    return y.as_subclass(torch.Tensor)
