"""Drop-in ``torch.nn.Conv1d`` and ``Conv2d`` on integer kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .. import _core, ops
from ..config import DynamicConfig, W8A8Dynamic, require_config
from ..errors import ConfigError, QgemmError
from ._layer import QuantizedLayer

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def _per_dim(value: int | Sequence[int], n: int, what: str, least: int) -> tuple[int, ...]:
    values = (value,) * n if isinstance(value, int) else tuple(value)
    if len(values) != n or any(not isinstance(v, int) or v < least for v in values):
        raise ConfigError(f"{what} is {value!r}: it must be {'an integer' if n == 1 else f'an integer or {n} of them'}, at least {least}")
    return values


def _is_channels_last(t: torch.Tensor) -> bool:
    """Whether the strides say channels_last and nothing else, as PyTorch decides it for a convolution's weight."""
    if t.dim() != 4:
        return False
    _, c, h, w = t.shape
    return c * h * w > 1 and t.stride()[1:] == (1, w * c, c)


class _Conv(QuantizedLayer):
    _packer = staticmethod(_core.pack_conv2d)
    _spatial: int
    _op: Any
    _static_op: Any

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        config: DynamicConfig | None = None,
    ) -> None:
        who = f"qgemm.nn.{type(self).__name__}"
        config = require_config(W8A8Dynamic() if config is None else config, who)
        if not isinstance(groups, int) or groups < 1 or in_channels % groups or out_channels % groups:
            raise ConfigError(f"{who}: in_channels={in_channels} and out_channels={out_channels} must be multiples of groups={groups}")
        if padding_mode not in _PADDING_MODES:
            raise ConfigError(f"{who}: padding_mode is {padding_mode!r}: it must be one of {', '.join(_PADDING_MODES)}")
        n = self._spatial
        kernel = _per_dim(kernel_size, n, f"{who}: kernel_size", 1)
        super().__init__((out_channels, in_channels // groups, *kernel), bias, config, 0)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel
        self.stride = _per_dim(stride, n, f"{who}: stride", 1)
        self.dilation = _per_dim(dilation, n, f"{who}: dilation", 1)
        self.groups = groups
        self.padding = padding
        self.padding_mode = padding_mode
        before, after = self._explicit_padding(padding, who)
        self.channels_last = False
        self._window_padding = before + after if padding_mode == "zeros" else (0,) * (2 * n)
        # torch.nn.functional.pad goes from the last dimension to the first.
        self._border = [p for d in reversed(range(n)) for p in (before[d], after[d])] if padding_mode != "zeros" else None
        self.packed = self._pack(self._buffers)

    def _explicit_padding(self, padding: int | Sequence[int] | str, who: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        n = self._spatial
        if padding == "valid":
            return (0,) * n, (0,) * n
        if padding == "same":
            if any(s != 1 for s in self.stride):
                raise ConfigError(f"{who}: padding='same' has no meaning with stride {self.stride}")
            total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        if isinstance(padding, str):
            raise ConfigError(f"{who}: padding is {padding!r}: it must be 'same', 'valid' or integers")
        both = _per_dim(padding, n, f"{who}: padding", 0)
        return both, both

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
        """Quantize a float32 convolution, which is left as it is. Arguments and errors as :meth:`qgemm.nn.Linear.from_float`."""
        config = cls._checked_float(module, config, name)
        with torch.device("meta"):  # every buffer is replaced
            new = cls(
                module.in_channels,
                module.out_channels,
                module.kernel_size,
                module.stride,
                module.padding,
                module.dilation,
                module.groups,
                module.bias is not None,
                module.padding_mode,
                config,
            )
        new._take_float(module, name, input_scale, input_zero_point)
        new.channels_last = _is_channels_last(module.weight)
        return new

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        if (
            self._spatial == 2
        ):  # ``.to(memory_format=...)`` reaches a module only as a function on its tensors, tried here on one of each order
            plain, last = torch.empty(1, 2, 2, 2), torch.empty(1, 2, 2, 2, memory_format=torch.channels_last)
            became = _is_channels_last(fn(plain)), _is_channels_last(fn(last))
            if became[0] == became[1]:
                self.channels_last = became[0]
        return self

    def _packer_shape(self) -> tuple[int, ...]:
        n, c = self.weight_shape[:2]
        return (n, c, *(1,) * (2 - self._spatial), *self.kernel_size)

    def _packer_arguments(self) -> dict[str, Any]:
        return {"groups": self.groups}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad and self.training:
            self._refuse_training(x)
        batched = x.dim() != self._spatial + 1
        if not batched:
            x = x.unsqueeze(0)
        try:
            y = self._batched_forward(x)
        except QgemmError as e:
            raise self._named(e) from None
        return y if batched else y.squeeze(0)

    def _batched_forward(self, x: torch.Tensor) -> torch.Tensor:
        channels_last = self.channels_last or _is_channels_last(x)
        if self._border is not None:
            x = torch.nn.functional.pad(x, self._border, mode=self.padding_mode)
        buffers = self._buffers
        window = (buffers["packed"], self.out_channels, self.kernel_size, self.stride, self._window_padding, self.dilation)
        if self.input_scale is None:
            return self._op(x, *window, self.symmetric, channels_last)
        q = ops.quantize(x, buffers["input_scale"], buffers["input_zero_point"], 0, 255, torch.uint8)
        y = self._static_op(q, *window, torch.float32)
        return y if channels_last else y.contiguous()

    def extra_repr(self) -> str:
        s = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding not in (0, (0,) * self._spatial, "valid"):
            s += f", padding={self.padding!r}"
        if self.dilation != (1,) * self._spatial:
            s += f", dilation={self.dilation}"
        if self.groups != 1:
            s += f", groups={self.groups}"
        if self.padding_mode != "zeros":
            s += f", padding_mode={self.padding_mode}"
        if self.channels_last:
            s += ", channels_last"
        return f"{s}, bias={self.bias is not None}, {self._scheme_repr('per tensor')}"


class Conv2d(_Conv):
    """``torch.nn.Conv2d`` with integer weights; the input is quantized on the way in, the product is int32, the output float32.

    x: float32 [B, C, H, W] or [C, H, W]. All of the input shares one dynamic scale and zero point.

    Memory format follows PyTorch's rule for convolutions: the output is ``channels_last`` when the input is, or when the layer is,
    which it is when its float layer's weight was or after ``model.to(memory_format=torch.channels_last)``. The kernels compute in that
    order: a contiguous input is rearranged on the way in, and the output back when neither says channels_last. A model that is
    channels_last rearranges its first input only, and is faster; then ``.view`` over channels and pixels together needs to be
    ``.flatten`` or ``.reshape``, as in any channels_last model.

    ``padding`` as in torch ('same' and 'valid' too); a ``padding_mode`` other than zeros pads the float input first.
    """

    _float = torch.nn.Conv2d
    _spatial = 2
    _op = staticmethod(ops.conv2d_dynamic)
    _static_op = staticmethod(ops.conv2d)


class Conv1d(_Conv):
    """``torch.nn.Conv1d`` with integer weights. x: float32 [B, C, L] or [C, L]; the output is contiguous. Else as :class:`Conv2d`."""

    _float = torch.nn.Conv1d
    _spatial = 1
    _op = staticmethod(ops.conv1d_dynamic)
    _static_op = staticmethod(ops.conv1d)
