"""Every way to compute a quantized or floating-point Linear that the benchmark knows."""

from __future__ import annotations

from . import onnx_runtime, open_vino, ours, pytorch, torch_ao
from .base import OUTPUTS, Contender, Variant

__all__ = ["OUTPUTS", "Contender", "Variant", "all_contenders", "select"]


def all_contenders() -> list[Contender]:
    """qgemm first, then the peers; floating point last."""
    return [
        *ours.CONTENDERS,
        *pytorch.INTEGER,
        *onnx_runtime.CONTENDERS,
        *open_vino.CONTENDERS,
        *torch_ao.CONTENDERS,
        *pytorch.FLOATING_POINT,
    ]


def select(peers: str) -> list[Contender]:
    """qgemm and the peers asked for: "all", "none", or parts of names or libraries separated by commas."""
    every = all_contenders()
    ours_, others = [c for c in every if c.ours], [c for c in every if not c.ours]
    if peers == "none":
        return ours_
    if peers == "all":
        return every
    chosen: list[Contender] = []
    for part in filter(None, (p.strip().lower() for p in peers.split(","))):
        matching = [c for c in others if part in c.name.lower() or part in c.library.lower()]
        if not matching:
            names = "\n  ".join(f"{c.name}  ({c.library})" for c in others)
            raise SystemExit(f"--peers: nothing is called '{part}'. Give all, none, or parts of these, separated by commas:\n  {names}")
        chosen += [c for c in matching if c not in chosen]
    return ours_ + [c for c in others if c in chosen]
