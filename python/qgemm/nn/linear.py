"""A drop-in ``torch.nn.Linear`` on integer kernels."""

from __future__ import annotations

from typing import Any

import torch

from .. import _core, ops
from ..config import DynamicConfig, W8A8Dynamic, require_config
from ..errors import QgemmError
from ._layer import QuantizedLayer


class Linear(QuantizedLayer):
    """``y = x W^T + b`` with integer weights; the input is quantized on the way in, the product is int32, the output float32.

    x: float32, any leading dimensions, the last one ``in_features``; a single vector and empty batches too. A non-contiguous input is
    copied. With ``config.per_token`` every row has its own scale and zero point, so rows do not influence each other.

    Made by :meth:`from_float`; the constructor makes one with zero weights, to be filled by ``load_state_dict``.

        layer = qgemm.nn.Linear.from_float(torch.nn.Linear(64, 32), qgemm.W8A8Dynamic())
        y = layer(torch.randn(5, 64))
    """

    _float = torch.nn.Linear
    _packer = staticmethod(_core.pack_linear)

    def __init__(self, in_features: int, out_features: int, bias: bool = True, config: DynamicConfig | None = None) -> None:
        config = require_config(W8A8Dynamic() if config is None else config, "qgemm.nn.Linear")
        super().__init__((out_features, in_features), bias, config, config.group_size or 0)
        self.in_features = in_features
        self.out_features = out_features
        self.per_token = config.per_token
        self.packed = self._pack(self._buffers)

    @classmethod
    def from_float(
        cls,
        module: torch.nn.Linear,
        config: DynamicConfig,
        *,
        name: str = "",
        input_scale: float | None = None,
        input_zero_point: int | None = None,
    ) -> Linear:
        """Quantize a float32 ``torch.nn.Linear``, which is left as it is.

        name: the layer's name, for error messages.
        input_scale, input_zero_point: a fixed uint8 encoding of the input (calibrated elsewhere) instead of the dynamic one.

        Raises ConfigError (not a Linear, not a config, half an encoding), DTypeError (not float32), DeviceError (not on the CPU),
        QuantizationError (NaN or infinite weights; an input encoding with no meaning), AccumulatorOverflowError (a channel whose sum
        could leave int32).
        """
        config = cls._checked_float(module, config, name)
        with torch.device("meta"):  # every buffer is replaced
            new = cls(module.in_features, module.out_features, module.bias is not None, config)
        new._take_float(module, name, input_scale, input_zero_point)
        return new

    def _packer_arguments(self) -> dict[str, Any]:
        return {"group_size": self.group_size}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad and self.training:
            self._refuse_training(x)
        buffers = self._buffers  # Module.__getattr__ costs as much as a small product
        try:
            if self.input_scale is None:
                return ops.linear_dynamic(x, buffers["packed"], self.out_features, self.per_token, self.symmetric)
            q = ops.quantize(x, buffers["input_scale"], buffers["input_zero_point"], 0, 255, torch.uint8)
            return ops.linear(q, buffers["packed"], self.out_features, torch.float32)
        except QgemmError as e:
            raise self._named(e) from None

    def extra_repr(self) -> str:
        shape = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{shape}, {self._scheme_repr('per token' if self.per_token else 'per tensor')}"
