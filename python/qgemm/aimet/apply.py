"""Encodings onto an imported ONNX graph: grids on activations, integers in place of float weights.

AIMET's exports hold weights that already lie on their grid (``rint(w / scale)`` recovers the integers, to 1e-5 of a step).
That is used twice here: the integers are read off, not decided anew, and where a file does not say how the scales of a
weight are arranged (0.6.1 and 1.0.0 give a flat list; the deprecated exporter stores a Linear of 3-D input transposed under
its old name), the arrangement that puts the weight on its grid is the right one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import EncodingError
from ..graph.ir import Graph, Node, QParams, Tensor
from .encodings import Encodings, TensorEncoding, read_encodings

# Farther than this from an integer, in steps of the grid, a weight is not on the grid. AIMET's own are within 1e-5.
_ON_GRID = 1e-3
# A weight may have this share of elements off the grid and still count as on it.
_STRAYS = 1e-3

# (operator, input position) -> (axis of the output channels, axis of the input channels), from the end where negative.
_WEIGHT_AXES = {
    ("Conv", 1): (0, 1),
    ("ConvTranspose", 1): (1, 0),
    ("MatMul", 1): (-1, -2),
    ("MatMul", 0): (-2, -1),
    ("Gather", 0): (0, 1),
    ("PRelu", 1): (0, 1),
}
_WEIGHT_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class _Layout:
    """One way to read the scales of a weight: every array broadcasts against the weight once blocks are repeated."""

    scale: np.ndarray  # per-channel (LPBQ, per channel) or per-block scales, as many axes as the weight
    zero_point: np.ndarray
    channel_axis: int
    block_axis: int | None = None
    block_size: int = 0
    block_scale: np.ndarray | None = None  # LPBQ


def _weight_axes(node: Node, position: int, ndim: int) -> tuple[int, int] | None:
    if node.op == "Gemm" and position == 1:
        axes = (0, 1) if node.attrs.get("transB", 0) else (1, 0)
    elif node.op == "Gemm" and position == 0:
        axes = (1, 0) if node.attrs.get("transA", 0) else (0, 1)
    else:
        axes = _WEIGHT_AXES.get((node.op, position))
    if axes is None or ndim < 2:
        return None if axes is None else (0, 0)
    return axes[0] % ndim, axes[1] % ndim


def _used_as(graph: Graph, consumers: Mapping[str, list[Node]], name: str) -> tuple[Node, tuple[int, int]] | None:
    """The operator that multiplies by this constant, and its (channel, block) axes in the constant's own layout."""
    shape = graph.tensors[name].data.shape
    order = list(range(len(shape)))  # order[i]: the constant's axis that is axis i where it is used
    for _ in range(4):
        for node in consumers.get(name, ()):
            axes = _weight_axes(node, node.inputs.index(name), len(shape))
            if axes is not None:
                return node, (order[axes[0]], order[axes[1]]) if len(shape) > 1 else (0, 0)
        through = next((n for n in consumers.get(name, ()) if n.op in ("Transpose", "Identity", "Cast")), None)
        if through is None:
            return None
        if through.op == "Transpose":
            perm = through.attrs.get("perm") or list(range(len(shape)))[::-1]
            order = [order[p] for p in perm]
        name = through.outputs[0]
    return None


def _along(values: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    return values.reshape([-1 if i == axis else 1 for i in range(ndim)])


class _Weight:
    """One constant and its encoding: finds the layout, makes the integers."""

    def __init__(self, source: str, tensor: Tensor, enc: TensorEncoding, axes: tuple[int, int] | None):
        self.source, self.enc, self.axes = source, enc, axes
        self.name = tensor.name
        self.w = np.asarray(tensor.data, np.float32)

    def fail(self, rule: str):
        raise EncodingError(
            f"{self.source}: tensor '{self.name}' of shape {tuple(self.w.shape)}: {rule}; "
            "use the encodings file that was exported together with this model"
        )

    def _axis(self, axis: int) -> int:
        if not -self.w.ndim <= axis < self.w.ndim:
            self.fail(f"its encoding is along axis {axis}, which the tensor does not have")
        return axis % self.w.ndim

    def layouts(self) -> Iterator[_Layout]:
        """Likely first. All of them fit the shape; a scale count that fits no axis is an error."""
        enc, shape = self.enc, self.w.shape
        if enc.kind == "per_tensor":
            yield _Layout(enc.scale, enc.zero_point, 0)
            return
        if enc.kind == "per_channel":
            n = enc.scale.size
            channels = self.axes[0] if self.axes else 0
            order = [self._axis(enc.axis)] if enc.axis is not None else sorted(range(self.w.ndim), key=lambda a: a != channels)
            fits = [a for a in order if shape[a] == n]
            for a in fits:
                yield _Layout(_along(enc.scale, a, self.w.ndim), _along(enc.zero_point, a, self.w.ndim), a)
            # 0.6.1 does not mark blocks: a flat list of out * blocks entries.
            blocked = list(self._blocked(enc.scale, enc.zero_point)) if enc.axis is None and self.w.ndim > 1 else []
            yield from blocked
            if not fits and not blocked:
                where = f"axis {order[0]} has {shape[order[0]]}" if shape else "it has"
                self.fail(f"its encoding has {n} scales, but {where} channels")
        elif enc.kind == "per_block":
            found = list(self._blocked(enc.scale, enc.zero_point))
            if not found:
                self.fail(f"its encoding has scales of shape {enc.scale.shape} for blocks of {enc.block_size}, which do not divide it")
            yield from found
        else:
            found = list(self._lpbq())
            if not found:
                self.fail(
                    f"its encoding has {enc.scale.size} channel scales and integer block scales of shape {enc.block_scale.shape} "
                    f"for blocks of {enc.block_size}, which do not divide it"
                )
            yield from found

    def _blocked(self, scale: np.ndarray, zero_point: np.ndarray) -> Iterator[_Layout]:
        for nd, ca, ba, size in self._block_arrangements(scale):
            yield _Layout(nd(scale), nd(zero_point), ca, ba, size)

    def _block_arrangements(self, values: np.ndarray):
        """(reshape function, channel axis, block axis, block size) for each way that block values can lie on the weight."""
        ndim, shape, size = self.w.ndim, self.w.shape, self.enc.block_size
        if values.ndim > 1:  # nested: the file's own axes
            if self.enc.axis is None or not size:
                return
            ba = self._axis(self.enc.axis)
            per_axis = [shape[i] // size if i == ba else shape[i] for i in range(ndim)]
            if values.ndim != ndim or shape[ba] % size or any(v not in (1, p) for v, p in zip(values.shape, per_axis, strict=True)):
                return
            if values.shape[ba] != per_axis[ba]:
                return
            others = [i for i in range(ndim) if i != ba]
            ca = self.axes[0] if self.axes and self.axes[0] != ba else max(others, key=lambda i: values.shape[i], default=0)
            yield (lambda v: v), ca, ba, size
            return
        if ndim < 2:
            return
        first = self.axes or (0, 1)
        for ca, ba in (first, first[::-1]):
            channels, depth = shape[ca], shape[ba]
            if not channels or values.size % channels:
                continue
            blocks = values.size // channels
            step = size or (depth // blocks if blocks and depth % blocks == 0 else 0)
            if blocks < 1 or not step or blocks * step != depth:
                continue
            for channel_major in (ca < ba, ca > ba):

                def nd(v, ca=ca, ba=ba, blocks=blocks, channels=channels, channel_major=channel_major):
                    m = v.reshape(channels, blocks) if channel_major else v.reshape(blocks, channels).T
                    return (m if ca < ba else m.T).reshape([channels if i == ca else blocks if i == ba else 1 for i in range(ndim)])

                yield nd, ca, ba, step

    def _lpbq(self) -> Iterator[_Layout]:
        enc = self.enc
        for nd, ca, ba, size in self._block_arrangements(enc.block_scale):
            axes = [self._axis(enc.channel_axis)] if enc.channel_axis is not None else [ca]
            for a in axes:
                if a != ba and self.w.shape[a] == enc.scale.size:
                    scale = _along(enc.scale, a, self.w.ndim)
                    yield _Layout(scale, np.zeros_like(scale, np.int32), a, ba, size, nd(enc.block_scale))

    def _expand(self, values: np.ndarray, layout: _Layout) -> np.ndarray:
        if layout.block_axis is None or values.ndim == 0 or values.shape[layout.block_axis] == 1:
            return values
        return np.repeat(values, layout.block_size, axis=layout.block_axis)

    def _steps(self, layout: _Layout) -> np.ndarray:
        """The weight in steps of its grid, the zero point added: integers where it is on the grid."""
        scale = self._expand(layout.scale, layout)
        if layout.block_scale is not None:  # the simulation multiplies the two scales in fp32
            scale = scale * self._expand(layout.block_scale, layout).astype(np.float32)
        return self.w.astype(np.float64) / scale + self._expand(layout.zero_point, layout)

    def _strays(self, steps: np.ndarray) -> float:
        q = np.rint(steps)
        low, high = _grid(self.enc.bits, self.enc.signed)
        return float(np.mean((np.abs(steps - q) > _ON_GRID) | (q < low) | (q > high))) if steps.size else 0.0

    def quantize(self) -> tuple[np.ndarray, QParams, bool]:
        """(integers on the weight's grid, the grid, whether the weight was on it)."""
        if not np.isfinite(self.w).all():
            self.fail("it holds NaN or Inf")
        first = best = None
        for layout in self.layouts():
            steps = self._steps(layout)
            strays = self._strays(steps)
            if first is None:
                first = best = (strays, layout, steps)
            elif strays < best[0] and strays <= _STRAYS:
                best = (strays, layout, steps)
            if best[0] <= _STRAYS:
                break
        strays, layout, steps = best
        low, high = _grid(self.enc.bits, self.enc.signed)
        q = np.clip(np.rint(steps), low, high).astype(np.int32)
        return *self._with_grid(q, layout), strays <= _STRAYS

    def _with_grid(self, q: np.ndarray, layout: _Layout) -> tuple[np.ndarray, QParams]:
        bits, signed, axis = self.enc.bits, self.enc.signed, layout.channel_axis
        if layout.block_axis is None:
            if self.enc.kind == "per_tensor":
                return q, QParams(self.enc.scale, self.enc.zero_point, bits, signed)
            return q, QParams(layout.scale.ravel(), layout.zero_point.ravel(), bits, signed, axis=axis)
        if layout.block_scale is None and signed and not layout.zero_point.any():
            layout = _as_lpbq(layout, bits)
        if layout.block_scale is not None:
            # q * k fits the signed 8-bit grid for 4-bit q and k <= 16, so one int32 accumulation and one float scale per channel do.
            q8 = q * self._expand(layout.block_scale, layout)
            if -128 <= q8.min(initial=0) and q8.max(initial=0) <= 127:
                return q8, QParams(layout.scale.ravel(), np.zeros(layout.scale.size, np.int32), 8, True, axis=axis)
            scale = layout.scale * layout.block_scale.astype(np.float32)
        else:
            scale = layout.scale
        shape = [n // layout.block_size if i == layout.block_axis else n for i, n in enumerate(self.w.shape)]
        scale, zero_point = np.broadcast_to(scale, shape), np.broadcast_to(layout.zero_point, shape)
        return q, QParams(scale.copy(), zero_point.copy(), bits, signed, axis=layout.block_axis, block_size=layout.block_size)


def _as_lpbq(layout: _Layout, bits: int) -> _Layout:
    """Block scales that are all k * s, k = 1..16, of their channel's s, as LPBQ writes them in 0.6.1; else the layout itself.

    LPBQ's channel scale is its largest block scale / 16, and every block scale is the fp32 product k * s.
    """
    if bits > 4 or layout.scale.shape[layout.block_axis] < 2:
        return layout
    top = layout.scale.max(axis=layout.block_axis, keepdims=True)
    others = tuple(i for i in range(top.ndim) if i != layout.channel_axis)
    s = (top.max(axis=others, keepdims=True) / np.float32(16)).astype(np.float32)
    k = np.rint(layout.scale / s)
    if (k < 1).any() or (np.float32(k) * s != layout.scale).any():
        return layout
    zero = np.zeros(s.shape, np.int32)
    return _Layout(s, zero, layout.channel_axis, layout.block_axis, layout.block_size, k.astype(np.int32))


def _grid(bits: int, signed: bool) -> tuple[int, int]:
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def _storage(bits: int, signed: bool) -> type:
    size = 8 if bits <= 8 else 16 if bits <= 16 else 32
    return np.dtype(f"{'' if signed else 'u'}int{size}").type


def _to_signed(q: np.ndarray, grid: QParams) -> tuple[np.ndarray, QParams]:
    """The same values on the signed grid: weights are kept signed."""
    if grid.signed:
        return q, grid
    half = 1 << (grid.bits - 1)
    return q - half, QParams(grid.scale, grid.zero_point - half, grid.bits, True, grid.axis, grid.block_size)


def _fold_identities(graph: Graph):
    """The exporter stores equal constants once and names the others with Identity nodes; give each its own data again."""
    kept = []
    for node in graph.nodes:
        source = graph.tensors.get(node.inputs[0]) if node.op == "Identity" and node.inputs else None
        if source is not None and source.is_const and node.outputs[0] not in graph.outputs:
            graph.tensors[node.outputs[0]] = Tensor(node.outputs[0], source.shape, source.dtype, data=source.data)
        else:
            kept.append(node)
    graph.nodes[:] = kept


def apply_encodings(graph: Graph, encodings) -> Encodings:
    """Put ``encodings`` (an Encodings, a path or a dict) on ``graph``, in place, by tensor name; return them.

    Activations get ``Tensor.qparams``. Constants become integers on their grid in ``Tensor.data``; a weight that is not on its
    grid (a file exported without folding, say) is rounded to it, which is AIMET's own definition, and a warning names it.
    Names without a tensor are listed in ``unmatched``. Raises EncodingError when the encodings belong to another network.
    """
    encodings = read_encodings(encodings)
    if encodings.modules is not None:
        raise EncodingError(
            f"{encodings.source}: its keys are torch modules, not the tensors of an ONNX file; give the .encodings file beside it, "
            "or load it with qgemm.aimet.from_torch_encodings(model, path, example_inputs)"
        )
    if any(n.op in ("QuantizeLinear", "DequantizeLinear") for n in graph.nodes):
        raise EncodingError(
            f"{encodings.source}: the model already holds its encodings as QuantizeLinear nodes; load it without encodings, "
            "or give the plain ONNX file that was exported with them"
        )
    _fold_identities(graph)
    consumers = graph.consumers()
    encodings.unmatched = [n for n in encodings if n not in graph.tensors]
    encodings.off_grid = []
    _check_same_network(graph, consumers, encodings)
    for name, enc in encodings.items():
        tensor = graph.tensors.get(name)
        if tensor is None or enc.kind == "float":
            continue
        if not tensor.is_const:
            if enc.kind == "per_tensor":
                tensor.qparams = enc.qparams
            else:  # an entry derived from a weight's, on what a Transpose or Reshape makes of it: the weight's own is enough
                encodings.unmatched.append(name)
            continue
        if np.asarray(tensor.data).dtype.kind != "f":
            encodings.unmatched.append(name)
            continue
        use = _used_as(graph, consumers, name)
        q, grid, on_grid = _Weight(encodings.source, tensor, enc, use[1] if use else None).quantize()
        if use is not None:
            q, grid = _to_signed(q, grid)
            if not on_grid:
                encodings.off_grid.append(name)
        tensor.data, tensor.qparams = q.astype(_storage(grid.bits, grid.signed)), grid
        tensor.dtype = grid.dtype
    if encodings.off_grid:
        warnings.warn(
            f"{encodings.source}: {len(encodings.off_grid)} weights were not on the grid of their encodings and have been rounded to it "
            f"({', '.join(encodings.off_grid[:4])}); AIMET exports weights that are: check that model and encodings belong together",
            stacklevel=2,
        )
    return encodings


def _check_same_network(graph: Graph, consumers: Mapping[str, list[Node]], encodings: Encodings):
    if not encodings:
        raise EncodingError(f"{encodings.source}: it holds no encodings; compute them (sim.compute_encodings) before the export")
    weights = [n for n, t in graph.tensors.items() if t.is_const and (u := _used_as(graph, consumers, n)) and u[0].op in _WEIGHT_OPS]
    bare = [n for n in weights if n not in encodings]
    # A deduplicated constant carries another module's name, so one such name says nothing.
    strangers = [n for n in encodings.unmatched if encodings[n].kind in ("per_channel", "per_block", "lpbq") and "_dup_" not in n]
    share = 1 - len(encodings.unmatched) / len(encodings)
    if share >= 0.5 and not (strangers and bare):
        return
    have = ", ".join(repr(n) for n in (strangers or encodings.unmatched)[:3])
    lack = ", ".join(repr(n) for n in (bare or weights)[:3])
    raise EncodingError(
        f"{encodings.source}: these encodings belong to another network: {len(encodings.unmatched)} of {len(encodings)} names "
        f"are no tensor of the model (for example {have})"
        + (f", and its weights {lack} have no encoding" if bare else "")
        + "; give the encodings file that was exported together with the model"
    )
