"""``qgemm demo``: a network that AIMET quantized, on real images, offline, from the files shipped in ``qgemm/data``.

``scripts/train_demo.py`` makes those files: it trains :class:`DigitNet` on MNIST, quantizes it with AIMET at W8A8 and W4A8, exports
it, and records what AIMET's simulation answers to the test images. Here the same images run through FP32 and through qgemm.
"""

from __future__ import annotations

import copy
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import __version__, bench
from .errors import ModelFormatError, require
from .io import load
from .reporting import report

torch = require("torch", "qgemm demo", extra="demo")
nn = torch.nn

DATA = Path(__file__).parent / "data"
SCHEMES = {"W8A8": 8, "W4A8": 4}  # name: bits of the weights


class DigitNet(nn.Module):
    """28 x 28 grey pixels in [0, 1], [B, 1, 28, 28], to 10 logits: 82k parameters, 19M multiplications an image.

    One of every layer that a first convolutional network has: 3 x 3 stem, depthwise and pointwise, residual add, pooling, classifier.
    batch_norm: a BatchNorm after every convolution (training), or a bias in the convolution in its place (folded).
    """

    def __init__(self, batch_norm: bool = False):
        super().__init__()

        def conv(cin, cout, kernel, **more):
            layer = nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=not batch_norm, **more)
            return layer, nn.BatchNorm2d(cout) if batch_norm else nn.Identity()

        self.stem, self.stem_bn = conv(1, 32, 3)
        self.conv1, self.bn1 = conv(32, 48, 3)
        self.depthwise, self.depthwise_bn = conv(48, 48, 3, groups=48)
        self.pointwise, self.pointwise_bn = conv(48, 48, 1)
        self.conv2, self.bn2 = conv(48, 64, 3)
        self.conv3, self.bn3 = conv(64, 64, 3)
        self.relu_stem, self.relu1, self.relu_add, self.relu2, self.relu3 = (nn.ReLU() for _ in range(5))
        self.relu6 = nn.ReLU6()
        self.pool1, self.pool2 = nn.MaxPool2d(2), nn.MaxPool2d(2)
        self.average, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.classifier = nn.Linear(64, 10)

    def forward(self, x):
        x = self.relu_stem(self.stem_bn(self.stem(x)))
        x = self.pool1(self.relu1(self.bn1(self.conv1(x))))
        y = self.relu6(self.depthwise_bn(self.depthwise(x)))
        x = self.relu_add(x + self.pointwise_bn(self.pointwise(y)))
        x = self.pool2(self.relu2(self.bn2(self.conv2(x))))
        x = self.relu3(self.bn3(self.conv3(x)))
        return self.classifier(self.flatten(self.average(x)))


@dataclass(frozen=True)
class Shipped:
    """What ``qgemm/data`` holds. images: float32 [n, 1, 28, 28] in [0, 1]; labels: uint8 [n]; simulated: logits float32 [n, 10]."""

    images: np.ndarray
    labels: np.ndarray
    simulated: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]


def shipped() -> Shipped:
    """Read the shipped files; ModelFormatError when one is missing or damaged."""
    test, fp32 = _read(DATA / "digits_test.npz"), _read(DATA / "digits_fp32.npz")
    try:
        simulated = {s: test[f"sim_{s.lower()}"] for s in SCHEMES}
        return Shipped(test["images"][:, None].astype(np.float32) / 255, test["labels"], simulated, fp32)
    except KeyError as e:
        raise ModelFormatError(f"{DATA / 'digits_test.npz'} holds no array {e}; reinstall qgemm") from None


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as f:
            return {k: f[k] for k in f.files}
    except (OSError, ValueError, zipfile.BadZipFile) as e:
        raise ModelFormatError(f"cannot read {path}: {e}; reinstall qgemm") from None


def fp32_net(weights: dict[str, np.ndarray]) -> DigitNet:
    """The float network, batch norms folded, as one would deploy it in FP32."""
    net = DigitNet().eval()
    net.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    return net


@dataclass(frozen=True)
class Agreement:
    """qgemm's logits against the recorded simulation's. Differences are in steps of the logits' encoding (LSB)."""

    scheme: str
    top1_simulation: float
    top1: float
    same_class: float
    equal: float
    max_lsb: int
    count: int

    @property
    def holds(self) -> bool:
        """What the arithmetic promises: no logit off by more than 1 LSB, and at most 1 in 100 off at all."""
        return self.max_lsb <= 1 and self.equal >= 0.99


def agreement(scheme: str, program, data: Shipped) -> Agreement:
    want, got = data.simulated[scheme], program(data.images)
    lsb = float(program.graph.tensors[program.graph.outputs[0]].qparams.scale)
    steps = np.abs(np.rint((got - want) / lsb)).astype(int)
    return Agreement(
        scheme,
        top1_simulation=_top1(want, data.labels),
        top1=_top1(got, data.labels),
        same_class=float((got.argmax(1) == want.argmax(1)).mean()),
        equal=float((steps == 0).mean()),
        max_lsb=int(steps.max()),
        count=steps.size,
    )


def _top1(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(1) == labels).mean())


def run(batches: Sequence[int] = (1, 64), threads: int = 1, seconds: float = 2.0, scheme: str = "W8A8") -> bool:
    """Print the demo; True when qgemm agrees with the recorded simulation.

    batches: batch sizes to time, []: none. threads: for torch and qgemm alike (they share one OpenMP runtime).
    seconds: time of each comparison of latencies. scheme: the network whose report is printed.
    """
    torch.set_num_threads(threads)
    data = shipped()
    net = fp32_net(data.weights)
    programs = {s: load(DATA / f"digits_{s.lower()}.onnx") for s in SCHEMES}
    images = torch.from_numpy(data.images)
    with torch.inference_mode():
        top1_fp32 = _top1(net(images).numpy(), data.labels)
    results = [agreement(s, p, data) for s, p in programs.items()]

    print(f"qgemm {__version__}, torch {torch.__version__}; {bench.conditions(threads)}")
    print(f"\nA CNN of {_parameters(net):,} parameters, quantized and exported by AIMET; {len(data.labels)} MNIST images it never saw\n")
    print(f"{'':<16}{'top-1':>8}   logits equal to the recorded simulation's")
    print(f"{'FP32 (torch)':<16}{top1_fp32:>8.2%}")
    for r in results:
        print(f"{r.scheme + ' simulation':<16}{r.top1_simulation:>8.2%}")
        print(f"{r.scheme + ' qgemm':<16}{r.top1:>8.2%}   {r.equal:.2%} of {r.count:,}, max difference {r.max_lsb} LSB")
    broken = [r.scheme for r in results if not r.holds]
    if broken:
        print(f"\nAGREEMENT BROKEN for {', '.join(broken)}: more than 1 LSB, or more than 1 logit in 100, differs from the simulation")

    if batches:
        print("\nLatency; the ratio is torch FP32's median over the row's\n")
        print(bench.table({f"batch {b}": _latency(b, images, net, programs, seconds) for b in batches}, "torch FP32"))
    print(f"\nReport of the {scheme} network\n")
    print(report(programs[scheme]))
    return not broken


def _latency(batch: int, images, net: DigitNet, programs, seconds: float) -> list[bench.Timing]:
    x = images[torch.arange(batch) % len(images)]
    bf16, x16 = copy.deepcopy(net).to(torch.bfloat16), x.to(torch.bfloat16)
    contenders = {"torch FP32": lambda: net(x), "torch BF16": lambda: bf16(x16)}
    contenders |= {f"qgemm {s}": (lambda p=p: p(x)) for s, p in programs.items()}
    with torch.inference_mode():
        return bench.interleave(contenders, seconds, label=f"latency, batch {batch}")


def _parameters(net: DigitNet) -> int:
    return sum(p.numel() for p in net.parameters())
