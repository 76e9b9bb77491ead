"""qgemm: as PyTorch functions (qgemm.ops) on channels_last tensors, and the engine below them on numpy arrays."""

from __future__ import annotations

import numpy as np

from ...contenders.base import Contender, Variant, returning
from ...problem import aligned
from ..problem import Problem


def _pads(p: Problem) -> tuple[int, ...]:
    """All starts, then all ends."""
    return (*p.padding, *p.padding)


def _packed(p: Problem) -> np.ndarray:
    from qgemm import _core

    constants = {"bias": p.bias, "groups": p.groups, "x_scale": p.x_scale, "x_zero_point": p.x_zero_point}
    if p.shape.transposed:
        return _core.pack_conv_transpose2d(p.w_transposed, p.w_scale, stride=p.stride, dilation=p.dilation, **constants)
    return _core.pack_conv2d(p.w, p.w_scale, **constants)


class Operator(Contender):
    """qgemm.ops.conv1d, conv2d and their transposed ones on torch tensors"""

    name = "qgemm u8"
    library = "qgemm"
    output = "u8"
    modules = ("torch", "qgemm.ops")
    ours = True

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch

        import qgemm.ops

        p, transposed, line = problem, problem.shape.transposed, len(problem.shape.size) == 1
        op = getattr(qgemm.ops, f"conv{'_transpose' if transposed else ''}{1 if line else 2}d")
        packed, x = torch.from_numpy(_packed(p)), torch.from_numpy(p.x).permute(0, 3, 1, 2)
        kept = slice(1 if line else 0, None)
        window = [p.kernel[kept], p.stride[kept], p.padding[kept] * 2, *([p.output_padding[kept]] if transposed else []), p.dilation[kept]]
        arguments = (p.n, *window, torch.uint8, p.out_scale, p.out_zero_point)
        if line:
            x = x[:, :, 0]

        def result(y: torch.Tensor) -> np.ndarray:
            return (y.permute(0, 2, 1)[:, None] if line else y.permute(0, 2, 3, 1)).numpy()

        return [returning(lambda: op(x, packed, *arguments), result)]


class Engine(Contender):
    """qgemm._core on numpy arrays, the output allocated once."""

    name = "qgemm engine u8"
    library = "qgemm"
    output = "u8"
    modules = ("qgemm._core",)
    ours = True

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        from qgemm import _core

        p = problem
        packed, y = _packed(p), aligned(np.empty(p.out_shape, np.uint8))
        run = _core.conv_transpose2d if p.shape.transposed else _core.conv2d
        window = (p.stride, _pads(p), *([p.output_padding] if p.shape.transposed else []), p.dilation)
        return [Variant(lambda: run(p.x, packed, y, *window, p.out_scale, p.out_zero_point), lambda: y)]


CONTENDERS: list[Contender] = [Operator(), Engine()]
