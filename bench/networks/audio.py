"""A Conv1d classifier of one second of raw audio at 16 kHz, as keyword spotters and speech encoders are built.

Strided full convolutions (kernels 31, 7, 5, 3) between residual blocks of a long depthwise convolution and a pointwise one.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

SAMPLES = 16000


def _conv(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Sequential:
    conv = nn.Conv1d(c_in, c_out, kernel, stride, dilation * (kernel // 2), dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm1d(c_out), nn.ReLU())


class Separable(nn.Module):
    """x + pointwise(depthwise(x)), then ReLU. [B, C, L] -> [B, C, L]"""

    def __init__(self, channels: int, kernel: int, dilation: int = 1):
        super().__init__()
        self.depthwise = _conv(channels, channels, kernel, groups=channels, dilation=dilation)
        self.pointwise = nn.Sequential(nn.Conv1d(channels, channels, 1, bias=False), nn.BatchNorm1d(channels))
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(x + self.pointwise(self.depthwise(x)))


class AudioNet(nn.Module):
    """float32 [B, 1, 16000] -> logits [B, 35]"""

    def __init__(self, classes: int = 35):
        super().__init__()
        self.features = nn.Sequential(
            _conv(1, 64, 31, stride=4),
            _conv(64, 128, 7, stride=4),
            Separable(128, 31),
            Separable(128, 15),
            _conv(128, 256, 5, stride=2),
            Separable(256, 31),
            Separable(256, 9),
            _conv(256, 256, 3, dilation=2),
            _conv(256, 256, 3, groups=4),
            _conv(256, 512, 3, stride=2),
            Separable(512, 31),
            Separable(512, 3, dilation=4),
        )
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.classifier = nn.Linear(512, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))


class AsImages(nn.Module):
    """The same network over images of one row: the same arithmetic, for libraries whose convolutions of one dimension fail."""

    def __init__(self, net: AudioNet):
        super().__init__()
        self.features = copy.deepcopy(net.features)
        for module in list(self.features.modules()):
            for name, child in module.named_children():
                if isinstance(child, (nn.Conv1d, nn.BatchNorm1d)):
                    setattr(module, name, _with_rows(child))
        self.pool, self.classifier = nn.AdaptiveAvgPool2d(1), copy.deepcopy(net.classifier)
        self.train(net.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.pool(self.features(x[:, :, None])).flatten(1))


def _with_rows(layer: nn.Conv1d | nn.BatchNorm1d) -> nn.Module:
    """The layer of two dimensions with the values of one of one dimension."""
    values = layer.state_dict()
    if isinstance(layer, nn.BatchNorm1d):
        new: nn.Module = nn.BatchNorm2d(layer.num_features, layer.eps, layer.momentum)
    else:
        sizes = [(1, layer.kernel_size[0]), (1, layer.stride[0]), (0, layer.padding[0]), (1, layer.dilation[0])]
        new = nn.Conv2d(layer.in_channels, layer.out_channels, *sizes, layer.groups, layer.bias is not None)
        values["weight"] = values["weight"][:, :, None]
    new.load_state_dict(values)
    return new
