"""Drop-in ``torch.nn.ConvTranspose1d`` and ``ConvTranspose2d`` on integer kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .. import _core, ops
from ..config import DynamicConfig, W8A8Dynamic, require_config
from ..errors import ConfigError, QgemmError, ShapeError
from ._layer import QuantizedLayer
from .conv import _is_channels_last, _per_dim


def _pack(weight: np.ndarray, scale: np.ndarray, *, groups: int, **rest: Any) -> np.ndarray:
    """weight: int8 [Cout, Cin / groups, KH, KW], output channels first as the layers keep it."""
    n, per_group, kh, kw = weight.shape
    w = weight.reshape(groups, n // groups, per_group, kh, kw).swapaxes(1, 2).reshape(groups * per_group, n // groups, kh, kw)
    return _core.pack_conv_transpose2d(np.ascontiguousarray(w), scale, groups=groups, **rest)


class _ConvTranspose(QuantizedLayer):
    _packer = staticmethod(_pack)
    _spatial: int
    _op: Any
    _static_op: Any

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        config: DynamicConfig | None = None,
    ) -> None:
        who = f"qgemm.nn.{type(self).__name__}"
        config = require_config(W8A8Dynamic() if config is None else config, who)
        if not isinstance(groups, int) or groups < 1 or in_channels % groups or out_channels % groups:
            raise ConfigError(f"{who}: in_channels={in_channels} and out_channels={out_channels} must be multiples of groups={groups}")
        if padding_mode != "zeros":
            raise ConfigError(f"{who}: padding_mode is {padding_mode!r}: a transposed convolution knows 'zeros' only, as in PyTorch")
        n = self._spatial
        kernel = _per_dim(kernel_size, n, f"{who}: kernel_size", 1)
        super().__init__((out_channels, in_channels // groups, *kernel), bias, config, 0)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel
        self.stride = _per_dim(stride, n, f"{who}: stride", 1)
        self.dilation = _per_dim(dilation, n, f"{who}: dilation", 1)
        self.padding = _per_dim(padding, n, f"{who}: padding", 0)
        self.output_padding = _per_dim(output_padding, n, f"{who}: output_padding", 0)
        self.groups = groups
        self.padding_mode = padding_mode
        self.channels_last = False
        self.packed = self._pack(self._buffers)

    @classmethod
    def from_float(
        cls,
        module: torch.nn.Module,
        config: DynamicConfig,
        *,
        name: str = "",
        input_scale: float | None = None,
        input_zero_point: int | None = None,
    ) -> Any:
        """Quantize a float32 transposed convolution, which is left as it is. Arguments and errors as :meth:`qgemm.nn.Linear.from_float`."""
        config = cls._checked_float(module, config, name)
        with torch.device("meta"):  # every buffer is replaced
            new = cls(
                module.in_channels,
                module.out_channels,
                module.kernel_size,
                module.stride,
                module.padding,
                module.output_padding,
                module.groups,
                module.bias is not None,
                module.dilation,
                module.padding_mode,
                config,
            )
        new._take_float(module, name, input_scale, input_zero_point)
        new.channels_last = _is_channels_last(module.weight)
        return new

    def _outputs_first(self, weight: torch.Tensor) -> torch.Tensor:
        n, per_group, *kernel = self.weight_shape
        grouped = weight.reshape(self.groups, per_group, n // self.groups, *kernel)
        return grouped.transpose(1, 2).reshape(self.weight_shape)

    def _as_float_has_it(self, weight: torch.Tensor) -> torch.Tensor:
        n, per_group, *kernel = self.weight_shape
        grouped = weight.reshape(self.groups, n // self.groups, per_group, *kernel)
        return grouped.transpose(1, 2).reshape(self.in_channels, n // self.groups, *kernel)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        if self._spatial == 2:  # as in Conv2d: ``.to(memory_format=...)`` is tried on a tensor of each order
            plain, last = torch.empty(1, 2, 2, 2), torch.empty(1, 2, 2, 2, memory_format=torch.channels_last)
            became = _is_channels_last(fn(plain)), _is_channels_last(fn(last))
            if became[0] == became[1]:
                self.channels_last = became[0]
        return self

    def _packer_shape(self) -> tuple[int, ...]:
        n, c = self.weight_shape[:2]
        return (n, c, *(1,) * (2 - self._spatial), *self.kernel_size)

    def _packer_arguments(self) -> dict[str, Any]:
        ones = (1,) * (2 - self._spatial)
        return {"groups": self.groups, "stride": (*ones, *self.stride), "dilation": (*ones, *self.dilation)}

    def forward(self, x: torch.Tensor, output_size: Sequence[int] | None = None) -> torch.Tensor:
        if x.requires_grad and self.training:
            self._refuse_training(x)
        batched = x.dim() != self._spatial + 1
        if not batched:
            x = x.unsqueeze(0)
        try:
            extra = self.output_padding if output_size is None else self._padding_for(x, output_size)
            y = self._batched_forward(x, extra)
        except QgemmError as e:
            raise self._named(e) from None
        return y if batched else y.squeeze(0)

    def _padding_for(self, x: torch.Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        """The output padding that gives ``output_size`` (spatial sizes, or the whole shape)."""
        n = self._spatial
        wanted = tuple(output_size)[-n:]
        least = [
            (size - 1) * s - 2 * p + d * (k - 1) + 1
            for size, s, p, d, k in zip(x.shape[2:], self.stride, self.padding, self.dilation, self.kernel_size, strict=True)
        ]
        if len(output_size) not in (n, n + 1, n + 2) or any(
            not low <= size < low + s for size, low, s in zip(wanted, least, self.stride, strict=False)
        ):
            most = [low + s - 1 for low, s in zip(least, self.stride, strict=True)]
            raise ShapeError(f"output_size {tuple(output_size)} must lie between {least} and {most} for an input of {tuple(x.shape)}")
        return tuple(size - low for size, low in zip(wanted, least, strict=True))

    def _batched_forward(self, x: torch.Tensor, output_padding: tuple[int, ...]) -> torch.Tensor:
        channels_last = self.channels_last or _is_channels_last(x)
        buffers = self._buffers
        window = (
            buffers["packed"],
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding + self.padding,
            output_padding,
            self.dilation,
        )
        if self.input_scale is None:
            return self._op(x, *window, self.symmetric, channels_last)
        q = ops.quantize(x, buffers["input_scale"], buffers["input_zero_point"], 0, 255, torch.uint8)
        y = self._static_op(q, *window, torch.float32)
        return y if channels_last else y.contiguous()

    def extra_repr(self) -> str:
        s = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        zeros = (0,) * self._spatial
        if self.padding != zeros:
            s += f", padding={self.padding}"
        if self.output_padding != zeros:
            s += f", output_padding={self.output_padding}"
        if self.dilation != (1,) * self._spatial:
            s += f", dilation={self.dilation}"
        if self.groups != 1:
            s += f", groups={self.groups}"
        if self.channels_last:
            s += ", channels_last"
        return f"{s}, bias={self.bias is not None}, {self._scheme_repr('per tensor')}"


class ConvTranspose2d(_ConvTranspose):
    """``torch.nn.ConvTranspose2d`` with integer weights, one scale an output channel; the input is quantized on the way in, the product is
    int32, the output float32.

    x: float32 [B, C, H, W] or [C, H, W]; ``forward(x, output_size)`` as in torch. Memory format as :class:`Conv2d` has it. A stride of s
    runs as s * s convolutions, one for each remainder of an output position, so no zeros are inserted.
    """

    _float = torch.nn.ConvTranspose2d
    _spatial = 2
    _op = staticmethod(ops.conv_transpose2d_dynamic)
    _static_op = staticmethod(ops.conv_transpose2d)


class ConvTranspose1d(_ConvTranspose):
    """``torch.nn.ConvTranspose1d`` with integer weights. x: float32 [B, C, L] or [C, L]; the output is contiguous. Else as
    :class:`ConvTranspose2d`."""

    _float = torch.nn.ConvTranspose1d
    _spatial = 1
    _op = staticmethod(ops.conv_transpose1d_dynamic)
    _static_op = staticmethod(ops.conv_transpose1d)
