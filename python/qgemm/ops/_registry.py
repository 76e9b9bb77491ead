"""How the operators are registered, and tensors as the engine's arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch

from ..errors import DeviceError, DTypeError, LayoutError, ShapeError

NHWC = torch.channels_last
EPILOGUE = "ScalarType dtype, float out_scale=1.0, int out_zero_point=0, float? lo=None, float? hi=None"

_library = torch.library.Library("qgemm", "DEF")
# Fixed strides: the shape functions promise the layout that follows from the input's, so a compiler must not change the input's.
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)
_FOREIGN_BACKENDS = ("CUDA", "MPS", "XPU", "HPU", "PrivateUse1")
_FOREIGN_LAYOUTS = ("SparseCPU", "SparseCsrCPU", "MkldnnCPU", "QuantizedCPU")


def register(schema: str, cpu: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    name = schema[: schema.index("(")]
    _library.define(schema, tags=_TAGS)
    _library.impl(name, cpu, "CPU")
    _library.impl(name, torch.library.fallthrough_kernel, "Autograd")

    def wrong_device(*args: Any, **kwargs: Any) -> NoReturn:
        devices = sorted({str(a.device) for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)})
        raise DeviceError(
            f"qgemm::{name} runs on the CPU and got tensors on {', '.join(devices)}: move the input and the layer with .cpu()"
        )

    def wrong_layout(*args: Any, **kwargs: Any) -> NoReturn:
        kinds = ", ".join(sorted({f"{a.dtype}, {a.layout}" for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)}))
        raise LayoutError(
            f"qgemm::{name} takes dense (strided) tensors of plain types, got {kinds}: call .to_dense() or .dequantize() first"
        )

    for backend in _FOREIGN_BACKENDS:
        _library.impl(name, wrong_device, backend)
    for backend in _FOREIGN_LAYOUTS:
        _library.impl(name, wrong_layout, backend)

    def checked_fake(*args: Any, **kwargs: Any) -> Any:
        # A meta weight with a CPU input is dispatched here, and would answer with uninitialized memory.
        if len({a.device for a in args if isinstance(a, torch.Tensor)}) > 1:
            wrong_device(*args, **kwargs)
        return fake(*args, **kwargs)

    torch.library.register_fake(f"qgemm::{name}", checked_fake, lib=_library)
    return getattr(torch.ops.qgemm, name).default


def array(t: Any) -> Any:
    """The tensor's memory as a numpy array, no copy. Typed errors for what has none."""
    try:
        return t.numpy()
    except (RuntimeError, TypeError):
        if t.device.type != "cpu":
            raise DeviceError(f"a tensor on {t.device}: qgemm runs on the CPU; move it with .cpu()") from None
        try:
            return t.detach().resolve_conj().resolve_neg().numpy()
        except TypeError:
            raise DTypeError(f"a {t.dtype} tensor: qgemm takes float32 and 8/16-bit integers; convert it with .float()") from None


def dense_order(t: Any) -> Sequence[int] | None:
    """The permutation under which ``t``, which is dense, is C-contiguous; None when it is as it stands."""
    if t.is_contiguous():
        return None
    if t.dim() == 4 and t.is_contiguous(memory_format=NHWC):
        return (0, 2, 3, 1)
    return sorted(range(t.dim()), key=lambda d: (t.stride(d), t.shape[d]), reverse=True)


def like(order: Sequence[int] | None, t: Any) -> Any:
    """``t`` as a C-contiguous array in ``order``; copied when it lies otherwise."""
    return array(t.contiguous() if order is None else t.permute(*order).contiguous())


def written(order: Sequence[int] | None, out: Any) -> Any:
    """The array behind a fresh ``out``, in ``order``: what an operator writes to. Never a copy."""
    a = array(out)
    return a if order is None else a.transpose(order)


def row_count(shape, op):
    if len(shape) == 0:
        raise ShapeError(f"qgemm::{op}: the input has no dimensions; its last one must be the features")
    return math.prod(shape[:-1])
