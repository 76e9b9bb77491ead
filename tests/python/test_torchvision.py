"""torchvision's networks through from_torch and quantize: float as torch computes it, integers as the steps say, no islands.

Weights are random and images small; batch norms have the statistics of a batch of noise. Three cheap networks always run; ``pytest -m
nightly -s tests/python/test_torchvision.py`` runs all of them and prints a line each.
"""

from __future__ import annotations

import time
from collections import Counter

import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

import qgemm  # noqa: E402

nn, models = torch.nn, torchvision.models

# Pixels, where 64 are too few: an inception's last pool, windows of 7, pyramids of six levels.
PIXELS = {"inception_v3": 96, "maxvit_t": 224, "ssd_vgg": 300}
CHEAP = ("squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5")
CLASSIFIERS = (
    *CHEAP, "alexnet", "vgg11_bn", "densenet121", "googlenet", "inception_v3", "regnet_x_400mf", "regnet_y_400mf", "efficientnet_b0",
    "efficientnet_v2_s", "mobilenet_v2", "mobilenet_v3_small", "resnet18", "resnext50_32x4d", "convnext_tiny", "swin_t", "swin_v2_t",
    "vit_b_16", "maxvit_t",
)  # fmt: skip
SEGMENTATION = ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "fcn_resnet50")
DETECTION = ("resnet50_fpn", "ssdlite", "ssd_vgg", "retinanet")
MOST_FLOAT_ERROR = 60  # decibels below the signal
MOST_ARENA = 1.3  # over the least that any plan needs
LEAST_SQNR = 0.5  # random weights through 50 layers and more: a program that computes something else gives none


class Pyramid(nn.Module):
    """A detector as far as its tensors have fixed shapes: features, or the head's two results on every level."""

    def __init__(self, backbone, head=None):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x):
        levels = list(self.backbone(x).values())
        if self.head is None:
            return tuple(levels)
        found = self.head(levels)
        return found["cls_logits"], found["bbox_regression"]


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    d = models.detection
    plain = {"weights": None, "weights_backbone": None}
    if name == "resnet50_fpn":
        return Pyramid(d.backbone_utils.resnet_fpn_backbone(backbone_name="resnet50", weights=None))
    if name == "ssdlite":
        return Pyramid(d.ssdlite320_mobilenet_v3_large(**plain).backbone)
    if name == "ssd_vgg":
        return Pyramid(d.ssd300_vgg16(**plain).backbone)
    if name == "retinanet":
        whole = d.retinanet_resnet50_fpn(**plain)
        return Pyramid(whole.backbone, whole.head)
    if name in SEGMENTATION:
        return models.get_model(name, **plain)
    options = {"googlenet": {"aux_logits": False, "init_weights": False}, "vit_b_16": {"image_size": 64}}
    options["inception_v3"] = options["googlenet"]
    return models.get_model(name, weights=None, **options.get(name, {}))


def prepared(name: str, pixels: int) -> nn.Module:
    model = built(name)
    for m in model.modules():
        if isinstance(m, nn.Linear) and not m.weight.any():  # ViT's classifier starts at zero
            nn.init.normal_(m.weight, std=0.02)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if norms:
        for m in norms:
            m.momentum = None
        model.train()
        for m in model.modules():
            if isinstance(m, nn.Dropout):
                m.eval()
        with torch.no_grad():
            model(torch.randn(8, 3, pixels, pixels))
    return model.eval()


def tensors(y) -> list:
    if isinstance(y, torch.Tensor):
        return [y]
    return [t for v in (y.values() if isinstance(y, dict) else y) for t in tensors(v)]


def sqnr(want, got) -> float:
    pairs = list(zip(want, got, strict=True))
    return min(float(10 * torch.log10(w.square().sum() / (w - g).square().sum().clamp_min(1e-30))) for w, g in pairs)


def check(name: str) -> str:
    pixels = PIXELS.get(name, 64)
    model = prepared(name, pixels)
    x = torch.randn(2, 3, pixels, pixels)
    with torch.no_grad():
        want = tensors(model(x))
    exact = sqnr(want, tensors(qgemm.from_torch(model, x)(x)))
    program = qgemm.quantize(model, calibration=[x, torch.randn_like(x)])
    quantized = sqnr(want, tensors(program(x)))  # conftest compares the compiled program's bytes with the steps'
    (compiled,) = program._compiled.values()
    ops = compiled.core.ops()
    islands = Counter(program.steps[step].op for step, _, _, _, island in ops if island)
    copies = sum(bytes_ for _, kernel, _, bytes_, _ in ops if kernel == "copy")
    floats = Counter(row.op for row in qgemm.report(program) if row.scheme == "float")
    assert exact > MOST_FLOAT_ERROR and quantized > LEAST_SQNR
    assert not islands
    assert program.memory["arena_bytes"] <= MOST_ARENA * program.memory["minimum_bytes"]
    return f"{name:28} from_torch {exact:6.1f} dB, quantize {quantized:5.1f} dB, {copies:>10,} bytes copied, float {dict(floats)}"


@pytest.mark.parametrize("name", CHEAP)
def test_cheap(name):
    check(name)


def test_a_detectors_backbone_at_batch_1_then_3():
    """One native program a batch size, each image as if it came alone; an arena for three is no larger than three arenas."""
    model = prepared("ssdlite", 64)
    x = torch.randn(3, 3, 64, 64)
    program = qgemm.quantize(model, calibration=[x])
    alone = tensors(program(x[:1]))
    one = program.memory["arena_bytes"]
    together = tensors(program(x))
    assert len(alone) == len(together) == 6 and all(torch.equal(a, t[:1]) for a, t in zip(alone, together, strict=True))
    assert len(program._compiled) == 2 and all(c.native for c in program._compiled.values())
    assert one < program.memory["arena_bytes"] <= 3.1 * one and program.memory["arena_bytes"] <= 1.1 * program.memory["minimum_bytes"]


@pytest.mark.nightly
def test_a_second_after_loading_resnet50_has_answered(tmp_path):
    """The file of qgemm.save: loading packs the weights, the first inference compiles. Seconds of CPU: other work does not count."""
    x = torch.randn(1, 3, 224, 224)
    program = qgemm.quantize(prepared("resnet50", 64), calibration=[x])
    qgemm.save(program, tmp_path / "net.qgemm")
    want, taken = program(x), []
    for _ in range(3):
        start = time.process_time()
        loaded = qgemm.load(tmp_path / "net.qgemm")
        got = loaded(x)
        taken.append(time.process_time() - start)
        assert torch.equal(got, want)
    print(f"resnet50 has answered after {min(taken):.3f} s of CPU, {loaded.memory}")
    assert min(taken) < 1.0 and loaded.memory["arena_bytes"] <= MOST_ARENA * loaded.memory["minimum_bytes"]


@pytest.mark.nightly
@pytest.mark.parametrize("name", [*CLASSIFIERS, *SEGMENTATION, *DETECTION])
def test_all(name):
    print(check(name))
