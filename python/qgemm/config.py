"""What to quantize, and how: small frozen values that the layers, :func:`qgemm.quantize_` and the reports share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .errors import ConfigError


def _require_bool(config: object, *fields: str) -> None:
    for field in fields:
        value = getattr(config, field)
        if not isinstance(value, bool):
            raise ConfigError(f"{type(config).__name__}.{field} is {value!r}: it must be True or False")


@dataclass(frozen=True)
class W8A8Dynamic:
    """8-bit weights, activations quantized to 8 bits on every call from their own minimum and maximum. No calibration.

    Weights: symmetric int8 in [-128, 127], one scale an output channel.

    per_token: ``Linear`` takes one activation scale a row of its input (a token, an image of a batch); False takes one for the whole
        tensor. Convolutions always take one for the whole tensor, so their result depends on what else is in the batch.
    symmetric_activations: the zero point is the middle of the grid (128) instead of following the minimum. Asymmetric is more
        accurate, above all after ReLU; symmetric matches formats that have no zero point.

    Raises :class:`~qgemm.errors.ConfigError` for a value that is not a bool.
    """

    per_token: bool = True
    symmetric_activations: bool = False

    weight_bits: ClassVar[int] = 8
    group_size: ClassVar[int] = 0

    def __post_init__(self) -> None:
        _require_bool(self, "per_token", "symmetric_activations")


@dataclass(frozen=True)
class W4A8Dynamic:
    """4-bit weights, activations quantized to 8 bits on every call.

    Weights: symmetric int4 in [-8, 7], two values a byte, one scale for every ``group_size`` consecutive input features of an output
    channel. The last group is shorter when ``in_features`` is not a multiple.

    group_size: a positive multiple of 4; 0 or None for one scale an output channel. It applies to ``Linear``; convolutions always
        take one scale an output channel.
    per_token, symmetric_activations: as :class:`W8A8Dynamic`.

    Raises :class:`~qgemm.errors.ConfigError` for a group size that is negative, not a multiple of 4, or not an integer.
    """

    group_size: int | None = 32
    per_token: bool = True
    symmetric_activations: bool = False

    weight_bits: ClassVar[int] = 4

    def __post_init__(self) -> None:
        _require_bool(self, "per_token", "symmetric_activations")
        group = self.group_size
        if group is None:
            object.__setattr__(self, "group_size", 0)
        elif isinstance(group, bool) or not isinstance(group, int) or group < 0 or group % 4:
            raise ConfigError(
                f"W4A8Dynamic.group_size is {group!r}: it must be a positive multiple of 4, or 0 or None for one scale an output channel"
            )


@dataclass(frozen=True)
class W8A8:
    """Static quantization by calibration (:func:`qgemm.quantize`): int8 or int4 weights, uint8 activations, scales fixed in advance.

    observer: how the range of an activation follows from what calibration saw: "minmax", all of it, as AIMET's default does; "mse",
        the part of it that leaves the least squared error (``qgemm.calibrate.observers`` defines both).
    per_channel: one weight scale an output channel; False takes one for the whole weight.
    weight_bits: 8 or 4, for the weights of linear layers and convolutions.

    Raises :class:`~qgemm.errors.ConfigError` for any other value.
    """

    observer: str = "minmax"
    per_channel: bool = True
    weight_bits: int = 8

    def __post_init__(self) -> None:
        from .calibrate.observers import OBSERVERS

        _require_bool(self, "per_channel")
        if not isinstance(self.observer, str) or self.observer not in OBSERVERS:
            raise ConfigError(f"W8A8.observer is {self.observer!r}: it must be one of {', '.join(map(repr, OBSERVERS))}")
        if isinstance(self.weight_bits, bool) or self.weight_bits not in (4, 8):
            raise ConfigError(f"W8A8.weight_bits is {self.weight_bits!r}: it must be 8 or 4")


DynamicConfig = W8A8Dynamic | W4A8Dynamic


def require_config(config: object, who: str) -> DynamicConfig:
    """``config`` itself, or :class:`~qgemm.errors.ConfigError` naming what ``who`` takes."""
    if not isinstance(config, (W8A8Dynamic, W4A8Dynamic)):
        hint = "; an instance is meant: add parentheses" if isinstance(config, type) else ""
        if isinstance(config, W8A8):
            hint = "; a static config needs calibration data: qgemm.quantize(model, calibration=batches, config=...)"
        raise ConfigError(f"{who} takes qgemm.W8A8Dynamic(...) or qgemm.W4A8Dynamic(...), not {config!r}{hint}")
    return config
