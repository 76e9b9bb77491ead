"""A U-Net whose decoder grows by transposed convolutions of each common geometry: 2x2 s2, 4x4 s2 p1, 3x3 s2 p1 with output padding."""

from __future__ import annotations

import torch
from torch import nn

PIXELS = 128


def _pair(c_in: int, c_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for c in (c_in, c_out):
        layers += [nn.Conv2d(c, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """float32 [B, 3, H, W] -> [B, classes, H, W]; H and W multiples of 16"""

    def __init__(self, width: int = 32, classes: int = 8):
        super().__init__()
        sizes = [width * 2**i for i in range(5)]
        self.down = nn.ModuleList([_pair(c_in, c) for c_in, c in zip([3, *sizes], sizes, strict=False)])
        self.pool = nn.MaxPool2d(2)
        geometries = [
            {"kernel_size": 2, "stride": 2},
            {"kernel_size": 4, "stride": 2, "padding": 1},
            {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
            {"kernel_size": 2, "stride": 2},
        ]
        pairs = list(zip(sizes[:0:-1], sizes[-2::-1], strict=True))
        self.grow = nn.ModuleList([nn.ConvTranspose2d(a, b, **g) for (a, b), g in zip(pairs, geometries, strict=True)])
        self.up = nn.ModuleList([_pair(a, b) for a, b in pairs])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for i, down in enumerate(self.down):
            x = down(self.pool(x) if i else x)
            kept.append(x)
        for grow, up, skip in zip(self.grow, self.up, kept[-2::-1], strict=True):
            x = up(torch.cat([skip, grow(x)], 1))
        return self.head(x)
