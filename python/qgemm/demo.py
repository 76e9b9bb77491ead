"""``qgemm demo``: a network that AIMET quantized, on real images, offline, from the files shipped in ``qgemm/data``.

``scripts/train_demo.py`` makes those files: it trains :class:`DigitNet` on MNIST, quantizes it with AIMET at W8A8 and W4A8, exports
it, and records what AIMET's simulation answers to the test images. Here the same images run through FP32 and through qgemm.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .errors import ModelFormatError, require

torch = require("torch", "qgemm demo")
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
