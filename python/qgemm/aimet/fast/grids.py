"""Tensors of a simulation that carry their bytes, so that the next layer need not quantize them again.

A simulation passes fake-quantized floats from module to module. What our kernels make is given to it as such floats, exactly, and the
bytes travel along as an attribute of the tensor. They count only as long as nobody has written into the tensor.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from aimet_torch.quantization.affine import AffineEncoding
from aimet_torch.quantization.affine.quantizer import QuantizeDequantize
from aimet_torch.quantization.tensor import DequantizedTensor

from ... import ops
from ...ops._conv import _nchw

_ATTRIBUTE = "_qgemm_bytes"
_TYPES = (torch.Tensor, DequantizedTensor, torch.nn.Parameter)


@dataclass(frozen=True, eq=False)
class Grid:
    """An activation's grid as the kernels hold it: uint8 in 0..top, ``real = scale * (q - zero_point)``.

    encoding: AIMET's own object for it, which the tensors of the simulation carry.
    """

    scale: float
    zero_point: int
    top: int
    encoding: Any

    @property
    def key(self) -> tuple[float, int]:
        return self.scale, self.zero_point

    def quantize(self, x: torch.Tensor, lo: int = 0, hi: int | None = None) -> torch.Tensor:
        return ops.quantize(x, *self._parameters(), lo, self.top if hi is None else hi, torch.uint8)

    def dequantize(self, q: torch.Tensor) -> torch.Tensor:
        return ops.dequantize(q, *self._parameters())

    def _parameters(self):
        made = self.__dict__.get("_tensors")
        if made is None:
            made = torch.tensor([self.scale], dtype=torch.float32), torch.tensor([self.zero_point], dtype=torch.int32)
            self.__dict__["_tensors"] = made
        return made

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k != "_tensors"}

    def __setstate__(self, state):
        self.__dict__.update(state)


def grid_of_encoding(encoding: Any) -> Grid | str:
    """The grid of an AIMET encoding, or why its values cannot be held as bytes."""
    if not isinstance(encoding, AffineEncoding):
        return f"its encoding is a {type(encoding).__name__}"
    if encoding.scale.numel() != 1 or encoding.block_size is not None:
        return "its encoding is not per tensor"
    if encoding.zero_point_shift != 0:
        return "its encoding shifts the zero point by half a step"
    top = encoding.qmax - encoding.qmin
    if top > 255:
        return f"its encoding has {top.bit_length()} bits; the integer kernels take activations of 8 and fewer"
    scale, zero_point = float(encoding.scale), -int(encoding.offset) - encoding.qmin
    if not scale > 0 or not 0 <= zero_point <= 255:
        return f"its encoding has scale {scale} and offset {float(encoding.offset)}"
    return Grid(scale, zero_point, top, encoding)


def grid_of_quantizer(quantizer: Any) -> Grid | str:
    """The grid that an activation quantizer rounds to, or why ours cannot do it."""
    if quantizer is None:
        return "it has no quantizer"
    if type(quantizer) is not QuantizeDequantize:
        return f"its quantizer is a {type(quantizer).__name__}"
    encoding = quantizer.get_encodings()
    if encoding is None:
        return "its quantizer has no encoding yet: run sim.compute_encodings(...)"
    return grid_of_encoding(encoding)


def plain_mode() -> bool:
    """False while somebody differentiates, traces, compiles or exports: then every module is AIMET's own."""
    return not (
        torch.is_grad_enabled()
        or torch._C._get_tracing_state() is not None
        or torch.compiler.is_compiling()
        or torch.onnx.is_in_onnx_export()
        or torch._C._len_torch_dispatch_stack()
    )


def usable(x: Any) -> bool:
    """True for a float32 tensor in CPU memory that is what it seems."""
    if type(x) not in _TYPES:
        return False
    x = as_plain(x)
    return x.dtype == torch.float32 and x.device.type == "cpu" and x.layout == torch.strided


def as_plain(x: torch.Tensor) -> torch.Tensor:
    """The same memory without AIMET's subclass, whose every attribute access goes through Python."""
    if type(x) is torch.Tensor:
        return x
    with torch._C.DisableTorchFunctionSubclass():
        return x.as_subclass(torch.Tensor)


def carry(x: torch.Tensor, q: torch.Tensor, grid: Grid) -> torch.Tensor:
    """``x`` itself, with the bytes that it stands for."""
    plain = as_plain(x)
    x.__dict__[_ATTRIBUTE] = (q, grid, None if plain.is_inference() else plain._version)
    return x


def simulated(q: torch.Tensor, grid: Grid, contiguous: bool) -> torch.Tensor:
    """What the simulation's quantizer returns for the bytes ``q``: a DequantizedTensor, which carries them.

    contiguous: lay the floats out in the order of the shape, whatever the order of ``q`` is.
    """
    ordered = _nchw(q) if contiguous and not q.is_contiguous() else q
    out = grid.dequantize(ordered).as_subclass(DequantizedTensor)
    out.encoding = copy.copy(grid.encoding)
    return carry(out, q, grid)


def bytes_of(x: torch.Tensor) -> tuple[torch.Tensor, Grid] | None:
    """The bytes that ``x`` stands for, and their grid; None where its values lie on no known grid."""
    plain = as_plain(x)
    held = x.__dict__.get(_ATTRIBUTE)
    if held is not None:
        q, grid, version = held
        # Tensors of inference mode count no versions: their values are compared.
        if version == plain._version if version is not None else torch.equal(grid.dequantize(q), plain):
            return q, grid
    grid = grid_of_encoding(getattr(x, "encoding", None))
    if isinstance(grid, str):
        return None
    q = grid.quantize(plain)
    return (q, grid) if torch.equal(grid.dequantize(q), plain) else None
