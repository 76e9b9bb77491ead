"""A drop-in ``torch.nn.Linear`` on integer kernels, and several that read one input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .. import _core, ops
from ..config import DynamicConfig, W8A8Dynamic, require_config
from ..errors import ConfigError, QgemmError, ShapeError
from ..ops._linear import linear_static
from ._layer import QuantizedLayer


class _Product(QuantizedLayer):
    """An input times a packed weight [N, K]."""

    _packer = staticmethod(_core.pack_linear)

    def __init__(self, in_features: int, rows: int, bias: bool, config: DynamicConfig | None) -> None:
        config = require_config(W8A8Dynamic() if config is None else config, f"qgemm.nn.{type(self).__name__}")
        super().__init__((rows, in_features), bias, config, config.group_size or 0)
        self.in_features = in_features
        self.per_token = config.per_token
        self.packed = self._pack(self._buffers)

    def _packer_arguments(self) -> dict[str, Any]:
        return {"group_size": self.group_size}

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad and self.training:
            self._refuse_training(x)
        buffers = self._buffers  # Module.__getattr__ costs as much as a small product
        try:
            if self.input_scale is None:
                return ops.linear_dynamic(x, buffers["packed"], self.weight_shape[0], self.per_token, self.symmetric)
            encoding = buffers["input_scale"], buffers["input_zero_point"]
            return linear_static(x, *encoding, buffers["packed"], self.weight_shape[0])
        except QgemmError as e:
            raise self._named(e) from None

    def extra_repr(self) -> str:
        shape = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{shape}, {self._scheme_repr('per token' if self.per_token else 'per tensor')}"


class Linear(_Product):
    """``y = x W^T + b`` with integer weights; the input is quantized on the way in, the product is int32, the output float32.

    x: float32, any leading dimensions, the last one ``in_features``; a single vector and empty batches too. A non-contiguous input is
    copied. With ``config.per_token`` every row has its own scale and zero point, so rows do not influence each other.

    Made by :meth:`from_float`; the constructor makes one with zero weights, to be filled by ``load_state_dict``.

        layer = qgemm.nn.Linear.from_float(torch.nn.Linear(64, 32), qgemm.W8A8Dynamic())
        y = layer(torch.randn(5, 64))
    """

    _float = torch.nn.Linear

    def __init__(self, in_features: int, out_features: int, bias: bool = True, config: DynamicConfig | None = None) -> None:
        super().__init__(in_features, out_features, bias, config)
        self.out_features = out_features

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

    forward = _Product._product


class SharedInputLinear(_Product):
    """Several ``nn.Linear`` layers that read one input (query, key and value; gate and up): one quantization of it and one product.

    Gives a tuple, an output float32 [..., out_features[i]] of each layer in order: views of one tensor [..., sum(out_features)]. The
    numbers are those of separate :class:`Linear` layers, bit for bit.

        qkv = qgemm.nn.SharedInputLinear.from_float([attention.q, attention.k, attention.v], qgemm.W8A8Dynamic())
        q, k, v = qkv(x)

    x: as for :class:`Linear`. The buffers are the layers' own, joined along the output features; ``bias`` is 0 for a layer without one.
    Made by :meth:`from_float`; the constructor makes one with zero weights, to be filled by ``load_state_dict``.

    :func:`qgemm.quantize_` leaves it as it is, and does not make one: which layers share an input is the model's to say.
    """

    _float = torch.nn.Linear

    def __init__(self, in_features: int, out_features: Sequence[int], bias: bool = True, config: DynamicConfig | None = None) -> None:
        sizes = tuple(out_features) if isinstance(out_features, (list, tuple)) else ()
        if not sizes or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in sizes):
            raise ConfigError(
                f"qgemm.nn.SharedInputLinear: out_features is {out_features!r}: it must be a list of sizes, one for each layer"
            )
        super().__init__(in_features, sum(sizes), bias, config)
        self.out_features = sizes

    @classmethod
    def from_float(
        cls,
        modules: Sequence[torch.nn.Linear],
        config: DynamicConfig,
        *,
        name: str = "",
        input_scale: float | None = None,
        input_zero_point: int | None = None,
    ) -> SharedInputLinear:
        """Quantize float32 ``torch.nn.Linear`` layers of one ``in_features``, which are left as they are.

        modules: a list of at least one layer; their number of outputs and whether they have a bias may differ.
        Arguments and errors otherwise as :meth:`Linear.from_float`; messages call the layers ``name[0]``, ``name[1]`` ...

        Raises ShapeError for layers whose ``in_features`` differ.
        """
        who = f"qgemm.nn.{cls.__name__}.from_float"
        config = require_config(config, who)
        modules = list(modules) if isinstance(modules, (list, tuple, torch.nn.ModuleList)) else []
        if not modules:
            raise ConfigError(f"{who} takes a list of at least one torch.nn.Linear: [q, k, v]")
        # One by one: an error names the layer. The joined weight has the same integers, since no scale spans output features.
        parts = [
            Linear.from_float(m, config, name=f"{name}[{i}]", input_scale=input_scale, input_zero_point=input_zero_point)
            for i, m in enumerate(modules)
        ]
        if len({part.in_features for part in parts}) > 1:
            sizes = ", ".join(str(part.in_features) for part in parts)
            raise ShapeError(
                f"{who}: layers that share an input have one in_features, got {sizes}: give only those that read the same tensor"
            )
        bias = any(part.bias is not None for part in parts)
        with torch.device("meta"):  # every buffer is replaced
            new = cls(parts[0].in_features, [part.out_features for part in parts], bias, config)
        new.weight_q = torch.cat([part.weight_q for part in parts])
        new.weight_scale = torch.cat([part.weight_scale for part in parts])
        if bias:
            new.bias = torch.cat([torch.zeros(part.out_features) if part.bias is None else part.bias for part in parts])
        for key in ("input_scale", "input_zero_point"):
            new._set_optional(key, getattr(parts[0], key))
        new.packed = new._pack(new._buffers, name)
        new.name = name
        new.train(any(m.training for m in modules))
        return new

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.split_with_sizes(self._product(x), self.out_features, -1))
