"""PyTorch's quantized convolutions, and its FP32 and BF16 ones. Inputs are channels_last, which the quantized kernels work in.

The operators are those that torch.ao and torch.compile lower to, with weights packed beforehand. A 1-D convolution is also tried as a
2-D one of one row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...contenders.base import Contender, Variant, returning
from ..problem import Problem, to_transposed


def _image(a: np.ndarray) -> Any:
    """[B, H, W, C] as a tensor [B, C, H, W] with the channels innermost."""
    import torch

    return torch.from_numpy(a).permute(0, 3, 1, 2)


def _array(y: Any) -> np.ndarray:
    return y.permute(0, 2, 3, 1).numpy()


class Quantized(Contender):
    """quantized.conv1d, conv2d and conv_transpose2d: what torch.ao.nn.quantized calls, with one of its engines."""

    library = "torch"
    output = "u8"
    modules = ("torch",)

    def __init__(self, engine: str):
        self.engine = engine
        self.name = f"torch.ao {engine} u8"

    def missing(self) -> str | None:
        reason = super().missing()
        if reason is None:
            import torch

            if self.engine not in torch.backends.quantized.supported_engines:
                return f"torch {torch.__version__} is built without the engine '{self.engine}'"
        return reason

    def takes(self, shape) -> bool:
        return not (self.engine == "onednn" and shape.transposed and any(shape.output_padding))  # which it refuses

    def _weight(self, p: Problem) -> Any:
        import torch

        if p.shape.transposed:
            return torch._make_per_tensor_quantized_tensor(torch.from_numpy(p.w_transposed), float(p.w_scale[0]), 0)
        zero_points = torch.zeros(p.n, dtype=torch.int64)
        return torch._make_per_channel_quantized_tensor(torch.from_numpy(p.w), torch.from_numpy(p.w_scale).double(), zero_points, 0)

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch

        p, ops = problem, torch.ops.quantized
        x = torch._make_per_tensor_quantized_tensor(_image(p.x), p.x_scale, p.x_zero_point)
        w, bias = self._weight(p), torch.from_numpy(p.bias)
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = self.engine
        try:
            if p.shape.transposed:
                window = (list(p.stride), list(p.padding), list(p.output_padding), list(p.dilation), p.groups)
                packed, op = ops.conv_transpose2d_prepack(w, bias, *window), ops.conv_transpose2d
            else:
                window = (list(p.stride), list(p.padding), list(p.dilation), p.groups)
                packed, op = ops.conv2d_prepack(w, bias, *window), ops.conv2d.new
            flat = None
            if len(p.shape.size) == 1 and not p.shape.transposed:
                geometry = (list(p.shape.stride), list(p.shape.padding), list(p.shape.dilation), p.groups)
                flat = ops.conv1d_prepack(w.squeeze(2), bias, *geometry)
        finally:
            torch.backends.quantized.engine = before

        def call(kept: Any = w) -> Any:  # a packed transposed weight does not keep the memory it reads alive
            return op(x, packed, p.out_scale, p.out_zero_point)

        variants = [returning(call, lambda y: _array(y.int_repr()), "" if flat is None else "2-D")]
        if flat is not None:
            line, conv1d = x.squeeze(2), ops.conv1d
            along = lambda: conv1d(line, flat, p.out_scale, p.out_zero_point)  # noqa: E731
            variants.append(returning(along, lambda y: _array(y.int_repr()[:, :, None]), "1-D"))
        return variants


class OneDNN(Contender):
    """onednn.qconv_pointwise, what Inductor emits for a PT2E-quantized convolution on x86."""

    name = "onednn.qconv u8"
    library = "torch"
    output = "u8"
    modules = ("torch",)

    def missing(self) -> str | None:
        reason = super().missing()
        if reason is None:
            import torch

            if not hasattr(torch.ops.onednn, "qconv_prepack"):
                return f"torch {torch.__version__} is built without oneDNN's quantized operators"
        return reason

    def takes(self, shape) -> bool:
        return not shape.transposed

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch

        p = problem
        x = _image(p.x)
        window = (list(p.stride), list(p.padding), list(p.dilation), p.groups)
        w_scale = torch.from_numpy(p.w_scale)
        encoding = (p.x_scale, p.x_zero_point)
        weight = torch.ops.onednn.qconv_prepack(torch.from_numpy(p.w), w_scale, *encoding, *window, list(x.shape))
        constants = (weight, w_scale, torch.zeros(p.n, dtype=torch.int32), torch.from_numpy(p.bias))
        arguments = (x, *encoding, *constants, *window, p.out_scale, p.out_zero_point, torch.uint8, "none", [], "")
        op = torch.ops.onednn.qconv_pointwise.default
        return [returning(lambda: op(*arguments), _array)]


class Convolution(Contender):
    """torch.nn.functional.conv1d, conv2d and conv_transpose2d, contiguous or channels_last."""

    library = "torch"
    modules = ("torch",)

    def __init__(self, output: str):
        self.output = output
        self.name = f"torch {output.upper()}"

    def _operands(self, p: Problem) -> tuple[Any, Any, Any]:
        import torch

        dtype = torch.float32 if self.output == "fp32" else torch.bfloat16
        w = torch.from_numpy(to_transposed(p.w_float, p.groups) if p.shape.transposed else p.w_float)
        return _image(p.x_float).to(dtype), w.to(dtype), torch.from_numpy(p.bias).to(dtype)

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch
        from torch.nn import functional as F

        p = problem
        x, w, bias = self._operands(p)
        variants = []
        for name, order in (("channels_last", torch.channels_last), ("contiguous", torch.contiguous_format)):
            xo, wo = x.contiguous(memory_format=order), w.contiguous(memory_format=order)
            call: Callable[[], Any]
            if p.shape.transposed:
                window = (p.stride, p.padding, p.output_padding, p.groups, p.dilation)
                call = lambda xo=xo, wo=wo, window=window: F.conv_transpose2d(xo, wo, bias, *window)  # noqa: E731
            else:
                window = (p.stride, p.padding, p.dilation, p.groups)
                call = lambda xo=xo, wo=wo, window=window: F.conv2d(xo, wo, bias, *window)  # noqa: E731
            variants.append(returning(call, lambda y: _array(y.float()), name))
        if len(p.shape.size) == 1 and not p.shape.transposed:
            s = p.shape
            line, flat = x.squeeze(2).contiguous(), w.squeeze(2).contiguous()
            call = lambda: F.conv1d(line, flat, bias, s.stride, s.padding, s.dilation, s.groups)  # noqa: E731
            variants.append(returning(call, lambda y: _array(y.float()[:, :, None]), "1-D"))
        return variants


class PackedConvolution(Convolution):
    """mkldnn._convolution_pointwise, what Inductor emits for a frozen convolution: oneDNN with the weight packed for this input."""

    def __init__(self, output: str):
        super().__init__(output)
        self.name = f"torch {output.upper()} packed"

    def missing(self) -> str | None:
        reason = super().missing()
        if reason is None:
            import torch

            if not torch.backends.mkldnn.is_available():
                return f"torch {torch.__version__} is built without oneDNN"
        return reason

    def takes(self, shape) -> bool:
        return not shape.transposed

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch

        p = problem
        x, w, bias = self._operands(p)
        window = (list(p.padding), list(p.stride), list(p.dilation), p.groups)
        x = x.contiguous(memory_format=torch.channels_last)
        packed = torch.ops.mkldnn._reorder_convolution_weight(w, *window, list(x.shape))
        op = torch.ops.mkldnn._convolution_pointwise.default
        return [returning(lambda: op(x, packed, bias, *window, "none", [], ""), lambda y: _array(y.float()))]


INTEGER: list[Contender] = [OneDNN(), Quantized("x86"), Quantized("onednn"), Quantized("fbgemm")]
FLOATING_POINT: list[Contender] = [
    Convolution("fp32"),
    PackedConvolution("fp32"),
    Convolution("bf16"),
    PackedConvolution("bf16"),
]
