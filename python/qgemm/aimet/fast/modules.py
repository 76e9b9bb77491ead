"""The layers of a simulation on integer kernels. Each object's ``forward`` becomes the module's own, on the instance.

A layer computes in integers when the values of its input lie on a known grid of at most 8 bits, which a running simulation shows by
the encodings that its tensors carry. Otherwise, and whenever somebody differentiates, traces or calibrates, AIMET's own forward runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from aimet_torch.nn.base import BaseQuantizationMixin
from aimet_torch.nn.true_quant import QuantizationMixin, _is_computing_encodings
from aimet_torch.quantization.affine import AffineEncoding
from aimet_torch.quantization.tensor import QuantizedTensorBase
from aimet_torch.utils import flatten_nn_module_list
from torch import nn

from ... import _core, ops
from ...errors import QgemmError
from ...graph.ir import QParams, Tensor
from ...nn.conv import _is_channels_last
from ...ops._conv import _nchw
from ..apply import _to_signed, _Weight
from ..encodings import TensorEncoding
from .grids import Grid, as_plain, bytes_of, carry, plain_mode, simulated, usable
from .quantizers import ActivationQuantizer, ParameterQuantizer, install, installed, parameters_of, settings_of
from .watch import Watch

_NO_GRID = "its input came without an 8-bit encoding"
_PACKS = 4  # a module that is called with several input encodings keeps as many packed weights


class Module:
    """AIMET's own forward, with the module's quantizers on our kernels. What the other classes here fall back to.

    reason: why the module has no integer kernel, "" where it has. integer_calls, other_calls: how it has run since;
    last: why the last of the other calls was not an integer one.
    """

    reason = "no integer kernel for this kind of module: it computes in float"

    def __init__(self, module: Any):
        self.module = module
        self.forget()

    def forget(self) -> None:
        """Everything that was derived, so that it is derived again."""
        self.integer_calls = self.other_calls = 0
        self.last = ""

    def __getstate__(self):
        return {"module": self.module, "reason": self.reason}

    def __setstate__(self, state):
        self.__dict__.update(state)  # the module in it may still be without its own state: nothing is read here
        self.forget()

    @property
    def integer(self) -> bool:
        return not self.reason

    def install_quantizers(self) -> None:
        """AIMET takes a replaced forward off a quantizer that it calibrates: called again before every run."""
        m = self.module
        for q in (*flatten_nn_module_list(m.input_quantizers), *flatten_nn_module_list(m.output_quantizers)):
            install(q, ActivationQuantizer)
        for q in m.param_quantizers.values():
            install(q, ParameterQuantizer)

    def forward(self, *args, **kwargs):
        self.install_quantizers()
        if not self.reason:
            y = self._integer(args, kwargs)
            if y is not None:
                self.integer_calls += 1
                return y
            self.other_calls += 1
        return type(self.module).forward(self.module, *args, **kwargs)

    # ---- what the integer layers share ----------------------------------------------------------------------------------------------

    def _integer(self, args, kwargs):
        """The output, or None after :meth:`_not` where AIMET's own forward must run."""
        m = self.module
        if kwargs or not all(usable(x) for x in args):
            return self._not("its arguments are not float32 tensors in CPU memory")
        if not plain_mode():  # the mode of the module itself decides nothing for the layers here
            return self._not("gradients, tracing, compiling or exporting")
        if _is_computing_encodings(m) or m.get_kernel() is not None:
            return self._not("AIMET calibrates it, or set_kernel gave it another kernel")
        if not all(as_plain(x).numel() for x in args):
            return self._not("its input is empty")
        return self._run(*args)

    _run: Callable[..., Any]  # each class without a ``reason`` has its own

    def _not(self, reason: str) -> None:
        self.last = reason

    def _quantized_input(self, x: torch.Tensor, position: int = 0):
        """(bytes, grid) of an input after its quantizer, or None."""
        quantizers = self.module.input_quantizers
        quantizer = quantizers[position] if position < len(quantizers) else None
        if quantizer is not None:
            x = quantizer(as_plain(x))
        found = bytes_of(x) if usable(x) else None
        return found if found is not None else self._not(_NO_GRID)

    def _output(self) -> Any:
        return self.module.output_quantizers[0]

    def _output_grid(self) -> Grid | None:
        """The grid of the output where the layer may write it itself, else None."""
        owner = None if self._output() is None else installed(self._output())
        return owner.grid() if isinstance(owner, ActivationQuantizer) and owner.fusable else None

    def _finish(self, y: torch.Tensor):
        """The output quantizer, where there is one, on float values."""
        quantizer = self._output()
        return y if quantizer is None else quantizer(y)


class Weighted(Module, ABC):
    """A layer with an integer weight: reads it once, packs it for each input encoding that it meets."""

    reason = ""
    _packer: Any

    def __init__(self, module: Any):
        super().__init__(module)
        self.reason = self._unfit() or self._read()

    def forget(self) -> None:
        super().forget()
        self._watch: Watch | None = None
        self._weight: tuple | None = None
        self._packs: dict[tuple[float, int], torch.Tensor] = {}

    @abstractmethod
    def _unfit(self) -> str:
        """Why no kernel computes this layer, whatever its encodings are."""

    def _weight_axes(self) -> tuple[int, int]:
        return 0, 1

    def _shape_settings(self) -> tuple:
        return ()

    def _pack_arguments(self) -> dict[str, Any]:
        return {}

    def _state(self):
        m = self.module
        quantizers = [m.param_quantizers[k] if k in m.param_quantizers else None for k in ("weight", "bias")]
        tensors = (m.weight, m.bias, *(p for q in quantizers for p in parameters_of(q)))
        return tensors, (*map(settings_of, quantizers), self._shape_settings())

    def _read(self) -> str:
        """The weight's integers and their grid from the simulation's own quantizer; why not, where there are none."""
        m = self.module
        self._packs.clear()
        self._weight = None
        state = self._state()
        self._watch = Watch(*state)
        try:
            with torch.no_grad():
                weight, encoding = self._parameter("weight")
                if not isinstance(encoding, AffineEncoding):
                    return "its weight has no integer encoding"
                q, grid = _integers(weight, encoding, self._weight_axes())
                bias = None if m.bias is None else self._parameter("bias")[0]
        except QgemmError as e:
            return str(e)
        if grid.bits > 8:
            return f"its weight has {grid.bits} bits; the integer kernels take weights of 8 and fewer"
        self._weight = q.astype(np.int8), grid, bias
        return self._unfit_grid(grid)

    def _unfit_grid(self, grid: QParams) -> str:
        if grid.block_size:
            return "its weight has scales for blocks of input channels, which the integer convolutions do not have"
        if grid.axis not in (None, self._weight_axes()[0]):
            return f"its weight has scales along axis {grid.axis}, which is not that of the output channels"
        return ""

    def _parameter(self, name: str):
        """(float32 array, encoding or None) of a parameter as the simulation uses it."""
        m = self.module
        value = getattr(m, name)
        quantizer = m.param_quantizers[name] if name in m.param_quantizers else None
        if quantizer is not None:
            m._compute_param_encodings(overwrite=False)
            value = type(quantizer).forward(quantizer, value)
        encoding = value.encoding if isinstance(value, QuantizedTensorBase) else None
        if isinstance(value, QuantizedTensorBase):
            value = value.dequantize()
        return as_plain(value.detach()).contiguous().numpy(), encoding

    def _packed(self, grid: Grid) -> torch.Tensor | None:
        """The weight packed for inputs on ``grid``, or None where it cannot be."""
        if self._watch is None or not self._watch.holds(*self._state()):
            unfit = self._unfit() or self._read()
            if unfit:
                return self._not(unfit)
        elif self._weight is None:
            return self._not("its weight has no integer form")
        packed = self._packs.get(grid.key)
        if packed is None:
            q, weight_grid, bias = self._weight
            n = q.shape[self._weight_axes()[0]]
            shape = (n, -1) if weight_grid.block_size else (n,)

            def each(v):
                return np.ascontiguousarray(v.reshape(shape) if v.ndim else np.broadcast_to(v, (n,)))

            zero_point = each(weight_grid.zero_point)
            try:
                array = self._packer(
                    q,
                    each(weight_grid.scale),
                    zero_point=zero_point if zero_point.any() else None,
                    bias=bias,
                    bits=4 if weight_grid.bits <= 4 else 8,
                    x_scale=grid.scale,
                    x_zero_point=grid.zero_point,
                    **self._pack_arguments(),
                )
            except QgemmError as e:
                return self._not(str(e))
            if len(self._packs) >= _PACKS:
                del self._packs[next(iter(self._packs))]
            packed = self._packs[grid.key] = torch.from_numpy(array)
        return packed


class Linear(Weighted):
    _packer = staticmethod(_core.pack_linear)

    def _unfit(self) -> str:
        return "" if self.module.weight.dtype == torch.float32 else f"its weight is {self.module.weight.dtype}"

    def _unfit_grid(self, grid: QParams) -> str:
        return "" if grid.block_size and grid.axis == 1 else super()._unfit_grid(grid)

    def _pack_arguments(self):
        return {"group_size": self._weight[1].block_size}

    def _run(self, x):
        found = self._quantized_input(x)
        if found is None:
            return None
        q, grid = found
        packed = self._packed(grid)
        if packed is None:
            return None
        out = self._output_grid()
        n = self.module.out_features
        if out is None:
            return self._finish(ops.linear(q.contiguous(), packed, n, torch.float32))
        y = ops.linear(q.contiguous(), packed, n, torch.uint8, out.scale, out.zero_point, 0, out.top)
        return simulated(y, out, contiguous=False)


class Conv(Weighted):
    """Conv1d and Conv2d. Like torch's, the output is channels_last where the input or the weight is."""

    _packer = staticmethod(_core.pack_conv2d)

    def _unfit(self) -> str:
        m = self.module
        if m.weight.dtype != torch.float32:
            return f"its weight is {m.weight.dtype}"
        return "" if m.padding_mode == "zeros" else f"padding_mode={m.padding_mode!r} has no integer kernel"

    def _shape_settings(self):
        m = self.module
        return m.groups, m.padding_mode

    def _pack_arguments(self):
        return {"groups": self.module.groups}

    def _read(self) -> str:
        reason = super()._read()
        if self._weight is not None and self._weight[0].ndim == 3:
            q, *rest = self._weight
            self._weight = (q[:, :, None], *rest)
        return reason

    def _padding(self) -> tuple[int, ...]:
        m = self.module
        if m.padding == "valid":
            return (0,) * (2 * len(m.kernel_size))
        if m.padding == "same":
            total = [d * (k - 1) for d, k in zip(m.dilation, m.kernel_size, strict=True)]
            return (*(t // 2 for t in total), *(t - t // 2 for t in total))
        return tuple(m.padding) * 2

    def _run(self, x):
        m = self.module
        plain = as_plain(x)
        if plain.dim() != len(m.kernel_size) + 2 or plain.shape[1] != m.in_channels:
            return self._not("its input has another rank or number of channels")
        found = self._quantized_input(x)
        if found is None:
            return None
        q, grid = found
        packed = self._packed(grid)
        if packed is None:
            return None
        out = self._output_grid()
        op = ops.conv2d if len(m.kernel_size) == 2 else ops.conv1d
        window = packed, m.out_channels, m.kernel_size, m.stride, self._padding(), m.dilation
        contiguous = not (_is_channels_last(plain) or _is_channels_last(m.weight))
        if out is None:
            y = op(q, *window, torch.float32)
            return self._finish(_nchw(y) if contiguous else y)
        y = op(q, *window, torch.uint8, out.scale, out.zero_point, 0, out.top)
        return simulated(y, out, contiguous)


class Clamp(Module):
    """ReLU and ReLU6 in front of a quantizer: bounds of the quantization."""

    reason = ""

    def _run(self, x):
        out = self._output_grid()
        if out is None:
            return self._not("no quantizer of 8 bits follows it")
        if self.module.input_quantizers[0] is not None:
            x = self.module.input_quantizers[0](as_plain(x))
        top = out.top
        if isinstance(self.module, nn.ReLU6):
            # The quantization of 6.0 itself, rounded as the kernels round.
            top = int(out.quantize(torch.tensor([6.0])))
        return simulated(out.quantize(as_plain(x), out.zero_point, top), out, contiguous=False)


class Table(Module):
    """An elementwise function of 256 values."""

    reason = ""

    def forget(self) -> None:
        super().forget()
        self._tables: dict[tuple, torch.Tensor] = {}

    def _run(self, x):
        out = self._output_grid()
        if out is None:
            return self._not("no quantizer of 8 bits follows it")
        found = self._quantized_input(x)
        if found is None:
            return None
        q, grid = found
        function = QuantizationMixin.qcls_to_cls[type(self.module)].forward
        # The function's own settings (approximate, negative_slope ...) are plain attributes of the module.
        key = grid.key, out.key, out.top, self.module.extra_repr()
        table = self._tables.get(key)
        if table is None:
            values = grid.dequantize(torch.arange(256, dtype=torch.uint8))
            if len(self._tables) >= _PACKS:
                self._tables.clear()
            table = self._tables[key] = out.quantize(function(self.module, values))
        return simulated(ops.lut(q, table), out, contiguous=False)


class MaxPool(Module):
    """Max pooling moves bytes. Its output has no quantizer in AIMET, and so no encoding that shows; the bytes are carried."""

    reason = ""

    def _run(self, x):
        m = self.module
        flat = isinstance(m, nn.MaxPool1d)
        if self._output() is not None or m.return_indices or m.ceil_mode or as_plain(x).dim() != 4 - flat:
            return self._not("an output quantizer, return_indices, ceil_mode or an input without a batch")
        found = self._quantized_input(x)
        if found is None:
            return None
        q, grid = found
        settings = m.kernel_size, m.stride, m.padding, m.dilation
        if flat:
            unused = 1, 1, 0, 1
            kernel, stride, padding, dilation = ((u, v if isinstance(v, int) else v[0]) for u, v in zip(unused, settings, strict=True))
            y = ops.max_pool2d(q.unsqueeze(2), kernel, stride, padding * 2, dilation).squeeze(2)
        else:
            kernel, stride, padding, dilation = ((v, v) if isinstance(v, int) else tuple(v) for v in settings)
            y = ops.max_pool2d(q, kernel, stride, padding * 2, dilation)
        floats = grid.dequantize(y if _is_channels_last(as_plain(x)) else _nchw(y))
        return carry(floats, y, grid)


class MatMul(Module):
    """The product of two activations."""

    reason = ""

    def _run(self, a, b):
        if as_plain(a).dim() < 2 or as_plain(b).dim() < 2:
            return self._not("one of its operands is a vector")
        found = self._quantized_input(a, 0), self._quantized_input(b, 1)
        if None in found:
            return None
        (qa, ga), (qb, gb) = found
        if qa.shape[-1] > 33_000:  # u8 * u8 sums fit int32 up to there
            return self._not("its sums could leave int32")
        out = self._output_grid()
        if out is None:
            return self._finish(ops.matmul(qa, qb, *ga.key, *gb.key, torch.float32))
        y = ops.matmul(qa, qb, *ga.key, *gb.key, torch.uint8, out.scale, out.zero_point, 0, out.top)
        return simulated(y, out, contiguous=False)


_TABLES = (
    "CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid Mish SELU SiLU Sigmoid Softplus Softshrink Softsign Tanh "
    "Tanhshrink"
).split()
_KINDS: dict[type, type[Module]] = {
    nn.Linear: Linear,
    nn.Conv1d: Conv,
    nn.Conv2d: Conv,
    nn.ReLU: Clamp,
    nn.ReLU6: Clamp,
    nn.MaxPool1d: MaxPool,
    nn.MaxPool2d: MaxPool,
    **{getattr(nn, name): Table for name in _TABLES},
}


def kind_of(module: BaseQuantizationMixin) -> type[Module]:
    """The class here for a quantized module, by the float class that it simulates."""
    from aimet_torch.nn.modules import custom

    base = QuantizationMixin.qcls_to_cls.get(type(module))
    return MatMul if base is custom.MatMul else _KINDS.get(base, Module)


def _integers(weight: np.ndarray, encoding: AffineEncoding, axes: tuple[int, int]) -> tuple[np.ndarray, QParams]:
    """(int32 on the signed grid, the grid) of a weight that the simulation's quantizer has rounded."""
    bits, signed = encoding.bitwidth, encoding.qmin < 0
    scale = encoding.scale.numpy().astype(np.float32)
    zero_point = -encoding.offset.numpy().astype(np.int32)
    kind, axis, block = "per_tensor", None, 0
    if scale.size == 1 and encoding.block_size is None:
        scale, zero_point = scale.reshape(()), zero_point.reshape(())
    else:
        scale, zero_point = (v.reshape((1,) * (weight.ndim - v.ndim) + v.shape) for v in (scale, zero_point))
        long = [i for i, n in enumerate(scale.shape) if n > 1]
        blocked = [i for i in range(weight.ndim) if 1 < scale.shape[i] < weight.shape[i]]
        if blocked or (encoding.block_size is not None and len(long) > 1):
            kind, axis = "per_block", (blocked or [axes[1]])[0]
            block = weight.shape[axis] // scale.shape[axis]
        else:
            kind, axis = "per_channel", long[0] if long else axes[0]
            scale, zero_point = scale.ravel(), zero_point.ravel()
    named = TensorEncoding("weight", kind, bits, signed, scale, zero_point, axis=axis, block_size=block)
    q, grid, _ = _Weight("the simulation", Tensor("weight", weight.shape, data=weight), named, axes).quantize()
    return _to_signed(q, grid)
