"""``quantize_``: the Linear, Conv and ConvTranspose layers of a float model become integer layers, in place."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from .config import DynamicConfig, require_config
from .errors import ConfigError, UnsupportedOpError, require

Filter = Callable[[str, Any], bool]


def _reason_to_stay(module: Any, parent: Any) -> str:
    """Why a layer with weights stays float; empty when it can be quantized or has nothing to quantize."""
    from torch import nn
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    kind = type(module).__name__
    if isinstance(parent, nn.MultiheadAttention):
        return "nn.MultiheadAttention reads the weight of its out_proj itself and never calls it"
    if isinstance(module, nn.MultiheadAttention):
        return "nn.MultiheadAttention computes its projections inside PyTorch: write attention with nn.Linear layers to quantize them"
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
    if isinstance(module, layers):
        if type(module) not in layers:
            if isinstance(module, nn.modules.lazy.LazyModuleMixin):
                return f"{kind} has no weight yet: run the model once on an input"
            if nn.utils.parametrize.is_parametrized(module):
                return "its weight is parametrized: bake it in first (torch.nn.utils.parametrize.remove_parametrizations)"
            return f"{kind} is a subclass that may compute something else: convert it with from_float if it does not"
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        if any(isinstance(h, (WeightNorm, SpectralNorm)) for h in hooks):
            return "weight_norm or spectral_norm computes its weight on every call: remove it first (torch.nn.utils.remove_weight_norm)"
        if hooks:
            return "it has forward hooks, which the quantized layer would not run: remove them, quantize, register them again"
        return ""
    unsupported = (nn.Conv3d, nn.ConvTranspose3d, nn.Bilinear, nn.RNNBase, nn.RNNCellBase)
    if isinstance(module, unsupported):
        return f"{kind} has no integer layer: Linear, Conv1d, Conv2d, ConvTranspose1d and ConvTranspose2d have"
    return ""


def _share_tied(new: Any, first: Any) -> None:
    """Two float layers with one weight give two integer layers with one weight, and one saved copy of it."""
    new.weight_q, new.weight_scale = first.weight_q, first.weight_scale


def quantize_(model: Any, config: DynamicConfig, filter: Filter | None = None) -> Any:
    """Replace every ``nn.Linear``, ``nn.Conv1d``, ``nn.Conv2d``, ``nn.ConvTranspose1d`` and ``nn.ConvTranspose2d`` of ``model`` by its
    :mod:`qgemm.nn` counterpart; return the model.

        model = qgemm.quantize_(model.eval(), qgemm.W8A8Dynamic())
        qgemm.quantize_(model, qgemm.W4A8Dynamic(), filter=lambda name, module: name != "head")

    model: float32, on the CPU, changed in place. If it is itself such a layer, the new layer is returned and ``model`` is left alone.
    filter: called as ``filter(name, module)`` for each layer that can be quantized; False leaves it float. A layer that is used in
        several places is asked about once, by its first name.

    Convolutions are fastest in ``channels_last``: ``model.to(memory_format=torch.channels_last)``, before or after. See
    :class:`qgemm.nn.Conv2d`.

    A layer used in several places stays one layer; layers with tied weights share their integers. Layers with weights that must stay
    float (subclasses of Linear, 3-d convolutions, recurrent layers, ``nn.MultiheadAttention``) are named with the reason in one
    ``UserWarning``. ``nn.TransformerEncoderLayer`` is kept off its fused fast path, which would read the float weights of its layers.

    All or nothing: an error (those of :meth:`qgemm.nn.Linear.from_float`, naming the layer) leaves the model as it was.
    """
    torch = require("torch", "qgemm.quantize_")
    from . import nn as qnn
    from .nn._layer import QuantizedLayer

    require_config(config, "qgemm.quantize_")
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"qgemm.quantize_ takes a torch.nn.Module, not {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedOpError(
            "qgemm.quantize_ replaces Python layers, which a TorchScript model does not have: quantize it before scripting"
        )
    names = ("Linear", "Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d")
    layer_of = {getattr(torch.nn, name): getattr(qnn, name) for name in names}

    made: dict[int, Any] = {}  # id of a float layer -> its integer layer
    by_weight: dict[int, Any] = {}  # id of a float weight -> the first integer layer made from it
    stay: dict[str, str] = {}
    parents = {id(child): parent for parent in model.modules() for child in parent.children()}
    for name, module in model.named_modules():
        reason = _reason_to_stay(module, parents.get(id(module)))
        if reason:
            stay[name or type(module).__name__] = reason
        elif type(module) in layer_of and (filter is None or filter(name, module)):
            new = layer_of[type(module)].from_float(module, config, name=name)
            weight = module._parameters.get("weight")  # None when parametrized: such a weight is made on every access
            first = new if weight is None else by_weight.setdefault(id(weight), new)
            if first is not new and first.weight_shape == new.weight_shape:
                _share_tied(new, first)
            made[id(module)] = new

    # Nothing below can fail.
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if id(child) in made:
                parent._modules[key] = made[id(child)]
    for module in model.modules():
        _leave_fast_path(torch, qnn, module)
    if stay:
        listed = "\n".join(f"  {name}: {reason}" for name, reason in stay.items())
        warnings.warn(f"qgemm.quantize_ left {len(stay)} of the model's layers float:\n{listed}", UserWarning, stacklevel=2)
    elif not made and filter is None and not any(isinstance(m, QuantizedLayer) for m in model.modules()):
        warnings.warn("qgemm.quantize_ found no Linear, Conv or ConvTranspose layer in the model", UserWarning, stacklevel=2)
    return made.get(id(model), model)


def _leave_fast_path(torch: Any, qnn: Any, module: Any) -> None:
    if isinstance(module, torch.nn.TransformerEncoderLayer):
        if isinstance(module.linear1, qnn.Linear) or isinstance(module.linear2, qnn.Linear):
            module.activation_relu_or_gelu = 0  # what the layer itself sets for an activation that its fast path does not have
    elif isinstance(module, torch.nn.TransformerEncoder):
        first = module.layers[0] if len(module.layers) else None
        if any(isinstance(getattr(first, key, None), qnn.Linear) for key in ("linear1", "linear2")):
            module.use_nested_tensor = False
