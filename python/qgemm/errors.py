"""Every error qgemm raises on purpose. Each names the layer or tensor, the rule that broke, and the remedy.

All derive from :class:`QgemmError`, and each also derives from the built-in that a caller would expect
(``ValueError``, ``TypeError``, ``ImportError`` ...), so ``except ValueError`` keeps working.
"""

from __future__ import annotations


class QgemmError(Exception):
    """Base of every deliberate error."""


class ShapeError(QgemmError, ValueError):
    """A rank, a dimension or a pair of dimensions (the K of two operands) does not fit."""


class DTypeError(QgemmError, TypeError):
    """An element type that the operation does not take."""


class LayoutError(QgemmError, ValueError):
    """Strides or memory order that the operation does not take (and does not copy silently)."""


class DeviceError(QgemmError, ValueError):
    """A tensor that does not live in CPU memory."""


class QuantizationError(QgemmError, ValueError):
    """A scale that is NaN, infinite, zero or negative; a zero point or bound outside the grid."""


class AccumulatorOverflowError(QgemmError, OverflowError):
    """An output channel whose exact accumulator does not fit int32 for every possible input."""


class PackedWeightError(QgemmError, ValueError):
    """A packed-weight buffer that is not one, is cut, or was packed for another operation."""


class IsaError(QgemmError, RuntimeError):
    """An instruction set that this CPU or this build does not have."""


class EncodingError(QgemmError, ValueError):
    """An AIMET encodings file that cannot be read, or that belongs to another network."""


class ModelFormatError(QgemmError, ValueError):
    """A model file that cannot be read."""


class UnsupportedOpError(QgemmError, NotImplementedError):
    """An operator or attribute that qgemm does not execute; the message lists what it does."""


class ConfigError(QgemmError, ValueError):
    """A quantization config or option with a value that has no meaning."""


class MissingDependencyError(QgemmError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


_EXTRAS = {
    "torch": "torch",
    "onnx": "onnx",
    "safetensors": "onnx",
    "onnxscript": "quantize",
    "aimet_torch": "aimet",
    "matplotlib": "plot",
    "tqdm": "demo",
}


def require(module: str, what: str, extra: str | None = None):
    """Import ``module`` and return it, or raise :class:`MissingDependencyError` naming the extra.

    ``what`` says who needs it, for the message: ``require("onnx", "qgemm.load")``. ``extra``: the extra to name, where a smaller one
    than the caller's own would bring the package but not all that the caller needs.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as e:
        top = module.split(".")[0]
        if e.name is not None and e.name.split(".")[0] != top:
            raise  # the package is there but something inside it is broken: its own error says more
        extra = extra or _EXTRAS.get(top, top)
        raise MissingDependencyError(
            f"{what} needs the package '{top}', which is not installed: pip install \"qgemm[{extra}]\"",
            name=top,
        ) from None
