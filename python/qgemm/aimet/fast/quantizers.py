"""AIMET's quantizers on our kernels. Each object's ``forward`` becomes the quantizer's own, on the instance."""

from __future__ import annotations

from typing import Any

import torch
from aimet_torch.quantization.affine import quantizer as aimet_quantizer
from aimet_torch.quantization.affine.backends import torch_builtins
from aimet_torch.quantization.affine.quantizer import AffineQuantizerBase, QuantizeDequantize

from .grids import Grid, as_plain, grid_of_quantizer, plain_mode, simulated, usable
from .watch import Watch


def settings_of(quantizer: Any) -> tuple:
    """What of a quantizer decides its grid beside its parameters."""
    if quantizer is None:
        return ()
    q = quantizer
    return id(q), q.qmin, q.qmax, q.symmetric, q.block_size, q.zero_point_shift, "get_encodings" in q.__dict__


def parameters_of(quantizer: Any) -> tuple:
    return () if quantizer is None else tuple(quantizer._parameters.values())


def _as_aimet_rounds() -> bool:
    """False inside AIMET's contexts that swap its rounding or its tensor type."""
    return torch_builtins._round_fn is torch.round and aimet_quantizer._is_qtensor_casting_enabled()


class _Installed:
    """Takes the place of ``quantizer.forward``."""

    def __init__(self, quantizer: Any):
        self.quantizer = quantizer
        self._watch: Watch | None = None
        self._made: Any = None  # what was derived from the state that _watch remembers

    def __getstate__(self):
        return {"quantizer": self.quantizer}

    def __setstate__(self, state):
        self.__init__(state["quantizer"])

    def _in_place(self) -> bool:
        """False while AIMET computes encodings: it wraps ``forward`` for that and counts on its own behind the wrapper."""
        return getattr(self.quantizer.__dict__.get("forward"), "__self__", None) is self

    def _original(self, x):
        return type(self.quantizer).forward(self.quantizer, x)


class ActivationQuantizer(_Installed):
    """Quantizes and dequantizes with our kernels, where the grid is per tensor and of at most 8 bits."""

    def grid(self) -> Grid | str:
        """The grid as the quantizer has it now, or why our kernels cannot round to it."""
        q = self.quantizer
        state = parameters_of(q), settings_of(q)
        if self._watch is None or not self._watch.holds(*state):
            self._made = grid_of_quantizer(q)
            self._watch = Watch(*state)
        return self._made

    @property
    def fusable(self) -> bool:
        """True when a layer may write this grid itself: nobody watches the quantizer or computes its encoding."""
        q = self.quantizer
        watched = q._forward_hooks or q._forward_pre_hooks
        return not watched and self._in_place() and _as_aimet_rounds() and not isinstance(self.grid(), str)

    def forward(self, input: torch.Tensor):  # noqa: A002 (AIMET's own name)
        if not (usable(input) and plain_mode() and self._in_place() and _as_aimet_rounds()):
            return self._original(input)
        grid = self.grid()
        if isinstance(grid, str):
            return self._original(input)
        return simulated(grid.quantize(as_plain(input)), grid, contiguous=False)


class ParameterQuantizer(_Installed):
    """Quantizes a parameter once, and again when the parameter or the encoding has changed."""

    def forward(self, input: torch.Tensor):  # noqa: A002
        if not (plain_mode() and self._in_place() and _as_aimet_rounds()):
            return self._original(input)
        q = self.quantizer
        state = (input, *parameters_of(q)), (settings_of(q), torch.is_inference_mode_enabled())
        if self._watch is None or not self._watch.holds(*state):
            self._made = self._original(input)
            self._watch = Watch(*state)
        return self._made


def install(quantizer: Any, kind: type[_Installed]) -> None:
    """Put ours in place; where it already is, or somebody else has replaced the forward, leave it."""
    if isinstance(quantizer, AffineQuantizerBase) and "forward" not in quantizer.__dict__:
        if kind is ActivationQuantizer and type(quantizer) is not QuantizeDequantize:
            return
        quantizer.forward = kind(quantizer).forward


def installed(module: Any) -> Any:
    """The object whose ``forward`` a module or quantizer has been given, None where it has its own."""
    owner = getattr(module.__dict__.get("forward"), "__self__", None)
    return owner if type(owner).__module__.startswith(__package__ + ".") else None
