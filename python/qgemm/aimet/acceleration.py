"""``accelerate`` and ``restore``: a live AIMET simulation on integer kernels, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError, DTypeError, require
from .live import is_simulation


class Accelerated:
    """One quantized module of an accelerated simulation.

    module: its name. kind: its class, as AIMET names it. accelerated: whether it has an integer kernel. reason: why not, "" where it has.
    integer_calls, other_calls: how it has run since, live; last: why the last of the others was not an integer one.
    """

    def __init__(self, module: str, owner: Any, reason: str = ""):
        self.module = module
        self.kind = type(owner.module).__name__ if hasattr(owner, "module") else type(owner).__name__
        self._owner = owner if hasattr(owner, "module") else None
        self._reason = reason

    @property
    def reason(self) -> str:
        return self._reason or ("" if self._owner is None else self._owner.reason)

    @property
    def accelerated(self) -> bool:
        return not self.reason

    @property
    def integer_calls(self) -> int:
        return getattr(self._owner, "integer_calls", 0)

    @property
    def other_calls(self) -> int:
        return getattr(self._owner, "other_calls", 0)

    @property
    def last(self) -> str:
        return getattr(self._owner, "last", "")

    def __repr__(self) -> str:
        return f"Accelerated({self.module!r}, {self.kind}, accelerated={self.accelerated}, reason={self.reason!r})"


class Acceleration(Sequence):
    """What :func:`accelerate` did, a row a quantized module in the model's order; prints as a table."""

    def __init__(self, rows: Sequence[Accelerated]):
        self.rows = tuple(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]

    @property
    def accelerated(self) -> list[Accelerated]:
        return [r for r in self.rows if r.accelerated]

    def __str__(self) -> str:
        head = ("module", "kind", "integer calls", "others", "why not")
        body = [
            (r.module, r.kind, str(r.integer_calls), str(r.other_calls), r.reason or (r.last if r.other_calls else "")) for r in self.rows
        ]
        width = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, width, strict=True)).rstrip() for row in (head, *body)]
        return "\n".join([*lines, f"{len(self.accelerated)} of {len(self.rows)} quantized modules have integer kernels"])

    __repr__ = __str__


def accelerate(sim: Any) -> Acceleration:
    """Run the layers of an AIMET simulation on integer kernels, so that evaluating it is fast. :func:`restore` undoes it.

    sim: an ``aimet_torch.quantsim.QuantizationSimModel`` on the CPU, or its ``.model``; changed in place. Its outputs under
    ``torch.no_grad()`` (or ``inference_mode``) stay what they were, within 1 LSB a layer (docs/aimet.md). Parameters are quantized
    once; a change of weights, bias or encodings is noticed and taken over on the next call. With gradients, and while AIMET
    calibrates, traces or exports, the simulation's own forwards run. ``state_dict`` is unchanged.

        qgemm.aimet.accelerate(sim)
        with torch.no_grad():
            score = evaluate(sim.model)
        qgemm.aimet.restore(sim)

    Linear, Conv1d, Conv2d, MatMul, MaxPool1d, MaxPool2d and the activation functions get integer kernels where their encodings have at
    most 8 bits; the others keep computing in float. Returns an :class:`Acceleration`: a row a module, with the reason where it has none.
    Calling it again does no harm.

    Raises DTypeError for what is no simulation, MissingDependencyError without aimet-torch.
    """
    model = _model(sim, "accelerate")
    from aimet_torch.nn.base import BaseQuantizationMixin

    from .fast.modules import Module, kind_of
    from .fast.quantizers import installed

    rows = []
    for name, module in model.named_modules():
        if not isinstance(module, BaseQuantizationMixin):
            continue
        owner = installed(module)
        if owner is None and "forward" in module.__dict__:
            rows.append(Accelerated(name, module, "its forward has been replaced by somebody else's"))
            continue
        if owner is None or type(owner) is Module:  # what had no kernel may have one since
            owner = kind_of(module)(module)
            if owner.reason and type(owner) is not Module:
                reason, owner = owner.reason, Module(module)
                owner.reason = reason
            module.forward = owner.forward
        owner.install_quantizers()
        rows.append(Accelerated(name, owner))
    return Acceleration(rows)


def restore(sim: Any) -> None:
    """Take off what :func:`accelerate` put on ``sim``: every module and quantizer has AIMET's own forward again. Does no harm twice.

    sim: as for :func:`accelerate`. Raises DTypeError, MissingDependencyError.
    """
    model = _model(sim, "restore")
    from .fast.quantizers import installed

    for module in model.modules():
        if installed(module) is not None:
            del module.forward


def is_accelerated(sim: Any) -> bool:
    """True when any module of the simulation has an integer kernel in place."""
    model = sim.model if is_simulation(sim) else sim
    return any(
        type(getattr(m.__dict__.get("forward"), "__self__", None)).__module__.startswith("qgemm.aimet.fast.") for m in model.modules()
    )


def refuse_accelerated(sim: Any, what: str) -> None:
    """ConfigError where ``sim`` is accelerated: ``what`` needs the simulation itself."""
    if is_accelerated(sim):
        raise ConfigError(f"{what}: the simulation runs on qgemm's own kernels: call qgemm.aimet.restore(sim) first")


def _model(sim: Any, who: str) -> Any:
    torch = require("torch", f"qgemm.aimet.{who}")
    require("aimet_torch", f"qgemm.aimet.{who}")
    from aimet_torch.nn.base import BaseQuantizationMixin

    if is_simulation(sim):
        return sim.model
    if isinstance(sim, torch.nn.Module) and any(isinstance(m, BaseQuantizationMixin) for m in sim.modules()):
        return sim
    raise DTypeError(f"qgemm.aimet.{who} takes an aimet_torch QuantizationSimModel or its model, got {type(sim).__name__}")
