#!/usr/bin/env python3
"""Write ``bench/shapes/conv/*.json``: the distinct convolutions of networks, as they meet them at their usual input size.

python scripts/conv_shapes.py            # needs torch and torchvision; weights are not downloaded
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))

from networks import audio, unet  # noqa: E402

IMAGE = (1, 3, 224, 224)
VISION = {
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3_large": "MobileNetV3-Large",
    "efficientnet_b0": "EfficientNet-B0",
    "convnext_tiny": "ConvNeXt-T (its pointwise layers are Linear)",
    "resnext50_32x4d": "ResNeXt-50 32x4d",
    "shufflenet_v2_x1_0": "ShuffleNetV2 x1.0",
}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


def entry(module: Any, size: tuple[int, ...]) -> dict[str, Any]:
    """One convolution on an input of spatial ``size``; what has its default value is left out."""
    n = len(size)
    e: dict[str, Any] = {"size": list(size), "in": module.in_channels, "out": module.out_channels, "kernel": list(module.kernel_size)}
    for key, value, default in (
        ("stride", list(module.stride), [1] * n),
        ("padding", list(module.padding), [0] * n),
        ("dilation", list(module.dilation), [1] * n),
        ("groups", module.groups, 1),
    ):
        if value != default:
            e[key] = value
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d):
        e["transposed"] = True
        if any(module.output_padding):
            e["output_padding"] = list(module.output_padding)
    return e


def distinct(model: nn.Module, x: torch.Tensor) -> list[dict[str, Any]]:
    """The convolutions ``model`` runs on ``x``, each once, named after the first layer that has it."""
    found: dict[str, dict[str, Any]] = {}
    uses: dict[str, list[str]] = {}

    def hook(name: str):
        def see(module: nn.Module, arguments: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
            e = entry(module, tuple(arguments[0].shape[2:]))
            key = json.dumps(e)
            found.setdefault(key, e)
            uses.setdefault(key, []).append(name)

        return see

    for name, module in model.named_modules():
        if isinstance(module, CONVOLUTIONS):
            module.register_forward_hook(hook(name))
    with torch.inference_mode():
        model.eval()(x)
    return [e | {"what": uses[key][0] + (f", {len(uses[key])} times" if len(uses[key]) > 1 else "")} for key, e in found.items()]


def write(name: str, about: str, convs: list[dict[str, Any]]) -> None:
    lines = ",\n".join("    " + json.dumps(e) for e in convs)
    text = f'{{\n  "about": {json.dumps(about)},\n  "convs": [\n{lines}\n  ]\n}}\n'
    (ROOT / "bench" / "shapes" / "conv" / f"{name}.json").write_text(text)
    print(f"{name:<20} {len(convs):>3} distinct convolutions")


def main() -> None:
    import torchvision

    for name, title in VISION.items():
        model = getattr(torchvision.models, name)(weights=None)
        write(name, f"{title} on 224x224: its distinct convolutions.", distinct(model, torch.zeros(IMAGE)))
    write(
        "audio",
        f"A Conv1d network on {audio.SAMPLES} samples (bench/networks/audio.py), with depthwise kernels up to 31.",
        distinct(audio.AudioNet(), torch.zeros(1, 1, audio.SAMPLES)),
    )
    write(
        "unet",
        f"A U-Net on {unet.PIXELS}x{unet.PIXELS} (bench/networks/unet.py), with transposed convolutions.",
        distinct(unet.UNet(), torch.zeros(1, 3, unet.PIXELS, unet.PIXELS)),
    )


if __name__ == "__main__":
    main()
