"""The networks of bench/models.py by name, and inputs for them. Weights are random, the same in every process."""

from __future__ import annotations

import torch
from torch import nn

from . import audio, bert, unet

VISION = ("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "vit_b_16")
NAMES = (*VISION, *bert.SIZES, "audio", "unet")
TRANSFORMERS = ("vit_b_16", *bert.SIZES)


def inputs(name: str, batch: int, seed: int = 1) -> torch.Tensor:
    """Images and audio are normal noise, ids uniform: the arithmetic is the same for any."""
    g = torch.Generator().manual_seed(seed)
    if name in bert.SIZES:
        return torch.randint(0, bert.VOCABULARY, (batch, bert.SEQUENCE), generator=g)
    if name == "audio":
        return torch.randn(batch, 1, audio.SAMPLES, generator=g)
    size = unet.PIXELS if name == "unet" else 224
    return torch.randn(batch, 3, size, size, generator=g)


def build(name: str) -> nn.Module:
    """In evaluation mode. BatchNorm has the statistics of a batch of noise, so that activations keep their spread through the depth."""
    torch.manual_seed(0)
    if name in bert.SIZES:
        model: nn.Module = bert.Encoder(*bert.SIZES[name])
    elif name == "audio":
        model = audio.AudioNet()
    elif name == "unet":
        model = unet.UNet()
    else:
        import torchvision

        model = getattr(torchvision.models, name)(weights=None)
        if name == "vit_b_16":  # whose classifier starts at zero
            nn.init.normal_(model.heads.head.weight, std=0.02)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if norms:
        for m in norms:
            m.momentum = None
        dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout)]
        model.train()
        for m in dropouts:
            m.eval()
        with torch.no_grad():
            model(inputs(name, 8, seed=2))
    return model.eval()
