"""What the quantized layers share: their buffers, packing, state, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .. import _core, numerics
from ..config import DynamicConfig, require_config
from ..errors import ConfigError, DeviceError, DTypeError, QgemmError, QuantizationError, UnsupportedOpError


def _stored_shape(bits: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if bits == 8 else (shape[0], (int(np.prod(shape[1:])) + 1) // 2)


def _to_stored(q: np.ndarray, bits: int) -> np.ndarray:
    """int8 values [N, ...] as a state_dict holds them: unchanged for 8 bits, uint8 [N, ceil(K / 2)] for 4 (low nibble first)."""
    return q if bits == 8 else _core.pack_int4(q.reshape(q.shape[0], -1))


def _from_stored(stored: np.ndarray, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse: int8 of ``shape``."""
    if bits == 8:
        return stored.reshape(shape)
    return _core.unpack_int4(stored, int(np.prod(shape[1:])), True).reshape(shape)


class QuantizedLayer(torch.nn.Module):
    """Base of :class:`Linear`, :class:`SharedInputLinear`, the convolutions and the transposed convolutions.

    Buffers, all part of ``state_dict`` but the last:

    ================== ======================== ===================================================================
    weight_q           int8, the float's shape  8-bit weights
    weight_q           uint8 [N, ceil(K / 2)]   4-bit weights, two values a byte, low nibble first (K: all but axis 0)
    weight_scale       float32 [N] or [N, G]    one an output channel, or a group of input features
    weight_zero_point  int32 [N] or absent      absent means 0
    bias               float32 [N] or absent
    input_scale        float32 [1] or absent    a static input encoding; absent means dynamic
    input_zero_point   int32 [1] or absent
    packed             uint8                    derived, never saved: what the kernels read
    ================== ======================== ===================================================================

    N counts output channels, and a transposed convolution's weight_q has them first too: [Cout, Cin / groups, ...].

    ``.half()``, ``.double()`` and ``.to(dtype)`` leave these as they are (a scale in another type is another scale); the layer computes
    float32 -> float32 and says so when it is given something else. ``.to(device)`` moves them, and a call off the CPU is a DeviceError.
    Calls in training mode on an input that requires grad are refused: the layer has no backward. In eval mode the result does not
    require grad.
    """

    _float: type[torch.nn.Module]  # the torch layer that from_float takes
    _packer: Callable[..., np.ndarray]

    def __init__(self, weight_shape: tuple[int, ...], bias: bool, config: DynamicConfig, group_size: int) -> None:
        super().__init__()
        self.name = ""  # where from_float's caller found the layer, for messages
        self.config = config
        self.weight_bits = config.weight_bits
        self.group_size = group_size
        self.symmetric = config.symmetric_activations
        self.weight_shape = weight_shape
        n, k = weight_shape[0], int(np.prod(weight_shape[1:]))
        scale_shape = (n, -(-k // group_size)) if group_size else (n,)
        dtype = torch.int8 if self.weight_bits == 8 else torch.uint8
        self.register_buffer("weight_q", torch.zeros(_stored_shape(self.weight_bits, weight_shape), dtype=dtype))
        self.register_buffer("weight_scale", torch.ones(scale_shape, dtype=torch.float32))
        self._set_optional("weight_zero_point", None)
        self._set_optional("bias", torch.zeros(n, dtype=torch.float32) if bias else None)
        self._set_optional("input_scale", None)
        self._set_optional("input_zero_point", None)
        self.register_buffer("packed", None, persistent=False)

    def _set_optional(self, key: str, value: torch.Tensor | None) -> None:
        """A buffer, or a plain attribute that is None: torch.export miscounts buffers that are None."""
        self.__dict__.pop(key, None)
        self._buffers.pop(key, None)
        if value is None:
            self.__dict__[key] = None
        else:
            self._buffers[key] = value

    # ---- made from a float layer ----------------------------------------------------------------------------------------------------

    @classmethod
    def _checked_float(cls, module: torch.nn.Module, config: object, name: str) -> DynamicConfig:
        """``config``, if ``module`` is a float layer that this class can be made from."""
        who = f"qgemm.nn.{cls.__name__}.from_float"
        config = require_config(config, who)
        if not isinstance(module, cls._float):
            raise ConfigError(f"{who} takes a torch.nn.{cls._float.__name__}, not {type(module).__module__}.{type(module).__name__}")
        layer = f"layer '{name}'" if name else f"the {type(module).__name__}"
        if isinstance(module.weight, torch.nn.parameter.UninitializedParameter):
            raise ConfigError(f"{who}: {layer} is lazy and has no weight yet: run it once on an input")
        for what in ("weight", "bias"):
            t = getattr(module, what)
            if t is not None and t.device.type != "cpu":
                raise DeviceError(f"{who}: the {what} of {layer} is on {t.device}: move the module with .cpu() first")
            if t is not None and t.dtype != torch.float32:
                raise DTypeError(f"{who}: the {what} of {layer} is {t.dtype}: qgemm quantizes float32 layers; call .float() first")
        return config

    def _take_float(self, module: torch.nn.Module, name: str, input_scale: float | None, input_zero_point: int | None) -> None:
        try:
            scale, q = numerics.weight_encoding(
                self._outputs_first(module.weight.detach()).contiguous().numpy(), self.weight_bits, group_size=self.group_size
            )
        except QuantizationError as e:
            raise QuantizationError(f"layer '{name}': {e}" if name else str(e)) from None
        self.weight_q = torch.from_numpy(_to_stored(q, self.weight_bits))
        self.weight_scale = torch.from_numpy(scale)
        if module.bias is not None:
            self.bias = module.bias.detach().clone(memory_format=torch.contiguous_format)
        if (input_scale is None) != (input_zero_point is None):
            raise ConfigError("a static input encoding needs both input_scale and input_zero_point")
        if input_scale is not None:
            if not isinstance(input_zero_point, (int, np.integer)):
                raise ConfigError(f"input_zero_point is {input_zero_point!r}: it must be an integer in 0..255")
            self._set_optional("input_scale", torch.from_numpy(np.array([input_scale], np.float32)))
            self._set_optional("input_zero_point", torch.from_numpy(np.array([input_zero_point], np.int32)))
        self.packed = self._pack(self._buffers, name)
        self.name = name
        self.train(module.training)

    def _outputs_first(self, weight: torch.Tensor) -> torch.Tensor:
        """A float layer's weight in ``weight_shape``, whose first axis counts output channels."""
        return weight

    def _as_float_has_it(self, weight: torch.Tensor) -> torch.Tensor:
        """The inverse of ``_outputs_first``."""
        return weight

    # ---- packing --------------------------------------------------------------------------------------------------------------------

    def _packer_shape(self) -> tuple[int, ...]:
        return self.weight_shape

    def _packer_arguments(self) -> dict[str, Any]:
        """What the packer takes beside weights, scales and bias. Abstract: each kind of layer has its own."""
        raise NotImplementedError

    def _pack(self, buffers: dict[str, torch.Tensor], name: str = "") -> torch.Tensor:
        """``buffers`` as the kernels read them; empty where there are no values to pack (meta tensors)."""
        if buffers["weight_q"].device.type == "meta":
            return torch.empty(0, dtype=torch.uint8, device="meta")
        arrays = {k: t.detach().cpu().contiguous().numpy() for k, t in buffers.items() if k != "packed"}
        static = {}
        if "input_scale" in arrays:
            scale, zero_point = float(arrays["input_scale"][0]), int(arrays["input_zero_point"][0])
            if not (np.isfinite(scale) and scale > 0) or not 0 <= zero_point <= 255:
                raise QuantizationError(
                    f"a static input encoding needs a finite scale above 0 and a zero point in 0..255, got {scale} and {zero_point}"
                )
            static = {"x_scale": scale, "x_zero_point": zero_point}
        packed = self._packer(
            _from_stored(arrays["weight_q"], self.weight_bits, self._packer_shape()),
            arrays["weight_scale"],
            zero_point=arrays.get("weight_zero_point"),
            bias=arrays.get("bias"),
            bits=self.weight_bits,
            name=name,
            **self._packer_arguments(),
            **static,
        )
        return torch.from_numpy(packed).to(buffers["weight_q"].device)

    def int_weight(self) -> torch.Tensor:
        """The integer weights, int8 in the float layer's shape, whatever their stored form."""
        return self._as_float_has_it(self._int_rows())

    def _int_rows(self) -> torch.Tensor:
        q = self.weight_q.cpu().contiguous().numpy()
        return torch.from_numpy(_from_stored(q, self.weight_bits, self.weight_shape).copy()).to(self.weight_q.device)

    def dequantize_weight(self) -> torch.Tensor:
        """``weight_scale * (int_weight - weight_zero_point)``: float32 in the float layer's shape."""
        q = self._int_rows().to(torch.int32).flatten(1)
        if self.weight_zero_point is not None:
            q = q - self.weight_zero_point[:, None]
        scale = self.weight_scale
        scale = scale.repeat_interleave(self.group_size, 1)[:, : q.shape[1]] if self.group_size else scale[:, None]
        return self._as_float_has_it((q.float() * scale).reshape(self.weight_shape))

    # ---- state ----------------------------------------------------------------------------------------------------------------------

    def _apply(self, fn: Any, recurse: bool = True) -> QuantizedLayer:
        def same_dtype(t: torch.Tensor) -> torch.Tensor:
            moved = fn(t)
            return moved if moved.dtype == t.dtype else t.to(moved.device)

        super()._apply(same_dtype, recurse)
        if self.packed.device.type == "meta":
            # So that to_empty() leaves a layer that says it has no weights, not one that computes with what the memory held.
            self.packed = torch.empty(0, dtype=torch.uint8, device="meta")
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Without the packed buffer: whoever unpickles may have another CPU and another version of the layout.
        return {**self.__dict__, "_buffers": {k: t for k, t in self._buffers.items() if k != "packed"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._buffers["packed"] = self._pack(self._buffers)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        if f"{prefix}weight" in state_dict and f"{prefix}weight_q" not in state_dict:
            error_msgs.append(f"{prefix}weight is a float layer's: load it into the float model, then quantize that")
            return
        optional = {
            "weight_zero_point": (self.weight_shape[:1], torch.int32),
            "input_scale": ((1,), torch.float32),
            "input_zero_point": ((1,), torch.int32),
        }
        brought = {
            key: torch.zeros(shape, dtype=dtype, device=self.weight_q.device)
            for key, (shape, dtype) in optional.items()
            if prefix + key in state_dict and key not in self._buffers
        }
        # Packed before anything is copied: a state that cannot be packed leaves the layer as it was.
        incoming = {}
        for key, mine in {**self._buffers, **brought}.items():
            given = incoming[key] = state_dict.get(prefix + key, mine) if key != "packed" else mine
            if given.dtype != mine.dtype or given.shape != mine.shape:
                error_msgs.append(
                    f"{prefix}{key} is {given.dtype} {tuple(given.shape)} and this layer (W{self.weight_bits}A8) holds {mine.dtype} "
                    f"{tuple(mine.shape)}: load it into a model of the same sizes, quantized with the config that it was saved from"
                )
                return
        try:
            packed = self._pack(incoming, prefix.rstrip("."))
        except QgemmError as e:
            error_msgs.append(f"{prefix}weight_q, weight_scale: {e}")
            return
        for key, value in brought.items():
            self._set_optional(key, value)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        self.packed = packed.to(self.weight_q.device)

    # ---- call -----------------------------------------------------------------------------------------------------------------------

    def _refuse_training(self, x: torch.Tensor) -> None:
        if self.training and x.requires_grad and torch.is_grad_enabled():
            raise self._named(
                UnsupportedOpError(
                    "an integer layer has no backward, and it was called in training mode on an input that requires grad, whose gradient "
                    "would be lost: call model.eval() to run it, or train the float model and quantize it afterwards"
                )
            )

    def _named(self, e: QgemmError) -> QgemmError:
        where = f"layer '{self.name}'" if self.name else f"qgemm.nn.{type(self).__name__}"
        return type(e)(f"{where} ({self.extra_repr()}): {e}")

    def _scheme_repr(self, dynamic: str) -> str:
        weight = f"groups of {self.group_size}" if self.group_size else "per channel"
        activations = f"dynamic {dynamic}" if self.input_scale is None else "static per tensor"
        if self.symmetric and self.input_scale is None:
            activations += " symmetric"
        packed = self._buffers["packed"]
        kernel = ""
        if packed is not None and packed.device.type == "cpu":
            kernel = f", kernel={_core.packed_info(packed.numpy())['kernel']}"
        return f"W{self.weight_bits}A8, weights {weight}, activations {activations}{kernel}"
