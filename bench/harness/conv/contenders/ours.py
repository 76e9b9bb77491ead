"""qgemm: as PyTorch functions (qgemm.ops) on channels_last tensors, and the engine below them on numpy arrays."""

from __future__ import annotations

import numpy as np

from ...contenders.base import Contender, Variant, returning
from ..problem import Problem


def _pads(p: Problem) -> tuple[int, ...]:
    """All starts, then all ends."""
    return (*p.padding, *p.padding)


class Operator(Contender):
    """qgemm.ops.conv1d and conv2d on torch tensors"""

    name = "qgemm u8"
    library = "qgemm"
    output = "u8"
    modules = ("torch", "qgemm.ops")
    ours = True

    def takes(self, shape) -> bool:
        return not shape.transposed

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch

        import qgemm.ops
        from qgemm import _core

        p = problem
        packed = torch.from_numpy(
            _core.pack_conv2d(p.w, p.w_scale, bias=p.bias, groups=p.groups, x_scale=p.x_scale, x_zero_point=p.x_zero_point)
        )
        x = torch.from_numpy(p.x).permute(0, 3, 1, 2)
        if len(p.shape.size) == 1:
            x, one = x[:, :, 0], slice(1, None)
            op, pads = qgemm.ops.conv1d, p.shape.padding * 2
            result = lambda y: y.permute(0, 2, 1)[:, None].numpy()  # noqa: E731
        else:
            one, op, pads = slice(None), qgemm.ops.conv2d, _pads(p)
            result = lambda y: y.permute(0, 2, 3, 1).numpy()  # noqa: E731
        arguments = (p.n, p.kernel[one], p.stride[one], pads, p.dilation[one], torch.uint8, p.out_scale, p.out_zero_point)
        return [returning(lambda: op(x, packed, *arguments), result)]


class Engine(Contender):
    """qgemm._core on numpy arrays, the output allocated once."""

    name = "qgemm engine u8"
    library = "qgemm"
    output = "u8"
    modules = ("qgemm._core",)
    ours = True

    def takes(self, shape) -> bool:
        return not shape.transposed

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        from qgemm import _core

        p = problem
        packed = _core.pack_conv2d(p.w, p.w_scale, bias=p.bias, groups=p.groups, x_scale=p.x_scale, x_zero_point=p.x_zero_point)
        y, window = np.empty(p.out_shape, np.uint8), (p.stride, _pads(p), p.dilation)
        return [Variant(lambda: _core.conv2d(p.x, packed, y, *window, p.out_scale, p.out_zero_point), lambda: y)]


CONTENDERS: list[Contender] = [Operator(), Engine()]
