"""Lowering of transposed and three-dimensional convolutions, of products and of linear resizing."""

from __future__ import annotations

import dataclasses

import numpy as np

from .. import _core
from . import convops, expressions, floatlayers
from . import executors as ex
from . import native as nat
from . import native_float as fl
from .floatnn import Window
from .grids import real, shift
from .ir import Node, QParams
from .step import Step
from .values import raw_reader, reader


class ConvLowering:
    """Methods of Lowering, by operator name."""

    def _mul(self, n: Node) -> Step | None:
        out = self.graph.tensors[n.outputs[0]]
        grids = []
        for i in n.inputs:
            qp = self.graph.tensors[i].qparams
            if qp is None or not qp.per_tensor or qp.bits > 8:
                return None
            grids.append(shift(qp, signed=False)[0])
        if out.qparams is None or not out.qparams.u8:
            return None
        reads = [raw_reader(self.graph, i, g) for i, g in zip(n.inputs, grids, strict=True)]
        result = self._result(n)
        form = nat.Binary("mul", *self._operands(n, grids), out.name, result)
        return self._step(n, "mul", "u8", convops.product(out.name, *reads, *grids, result), native=form)

    def _conv_floats(self, n: Node, reason: str) -> Step | None:
        """A convolution of real numbers by the engine; None where its operands are not such tensors and constants."""
        x, w, b = (self.graph.tensors[i] if i else None for i in (*n.inputs, "")[:3])
        if not self._floats(x) or not w.is_const or (b is not None and not b.is_const):
            return None
        data, groups, y = real(w), n.attrs.get("group", 1), n.outputs[0]
        if data.ndim not in (3, 4) or data.dtype != np.float32 or data.size == 0:
            return None
        bias = None if b is None else np.ascontiguousarray(np.broadcast_to(real(b).reshape(-1), len(data)), np.float32)
        packed = floatlayers.pack(data.reshape(*data.shape[:2], *([1] * (4 - data.ndim)), *data.shape[2:]), groups)
        result, win = self._result(n), Window(n.attrs, data.shape[2:])
        read, channels = reader(self.graph, x.name), data.shape[1] * groups
        run = floatlayers.conv(read, x.name, y, packed, bias, win, channels, len(data), groups, result, n.module or n.name)
        form = expressions.rounded(result, fl.Conv(self._real_operand(x), y, packed, bias, win, len(data), groups, result))
        return self._step(n, "conv2d_f32", "float", run, reason, packed.nbytes, form)

    def _batchnormalization(self, n: Node) -> Step | None:
        """One that no layer before it could take in: y = x * k + b a channel, a depthwise convolution of one tap whose weight is the
        sign of k and whose scale is its size."""
        x, params = self._qp(n.inputs[0]), [self.graph.tensors[i] for i in n.inputs[1:5]]
        rank = self.graph.tensors[n.inputs[0]].shape
        if x is None or rank is None or len(rank) not in (3, 4) or any(n.outputs[1:]) or not all(t.is_const for t in params):
            return None
        if n.attrs.get("training_mode"):
            return None
        gamma, beta, mean, var = (real(t).astype(np.float64).reshape(-1) for t in params)
        k = gamma / np.sqrt(var + n.attrs.get("epsilon", 1e-5))
        scale, bias = np.abs(k).astype(np.float32), (beta - mean * k).astype(np.float32)
        smallest = np.finfo(np.float32).tiny
        sign = np.where(scale < smallest, 0, np.sign(k)).astype(np.int8).reshape(-1, 1, 1, 1)
        packed = _core.pack_conv2d(
            sign, groups=len(sign), scale=np.maximum(scale, smallest), bias=bias, x_scale=x.scale.item(), x_zero_point=x.zero_point.item(),
            name=n.module or n.name,
        )  # fmt: skip
        result, win = self._result(n), Window({}, (1,) * (len(rank) - 2))
        run = ex.conv(n.inputs[0], n.outputs[0], packed, win, len(sign), len(sign), result, n.module or n.name)
        form = expressions.rounded(result, nat.Conv(n.inputs[0], n.outputs[0], packed, win, result, strided=len(sign) > 1))
        return self._step(n, "conv2d depthwise", f"u{x.bits}", run, weight_bytes=packed.nbytes, native=form)

    def _resize(self, n: Node) -> Step | None:
        """Linear interpolation of height and width between two grids; nearest ones move bytes."""
        grid, out, attrs = self._qp(n.inputs[0]), self.graph.tensors[n.outputs[0]], n.attrs
        coord = attrs.get("coordinate_transformation_mode", "half_pixel")
        plain = not (attrs.get("antialias") or attrs.get("axes") or attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch")
        known = coord in ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
        if attrs.get("mode", "nearest") != "linear" or grid is None or out.qparams is None or not out.qparams.u8 or not (plain and known):
            return None
        given = [self.graph.tensors[i] if i else None for i in (*n.inputs[1:], "", "", "")[1:3]]
        if given[0] is not None and not given[0].is_const:
            return None
        scales, sizes = (
            None if t is None else t.name if not t.is_const else t.data.reshape(-1) if t.data.size == 4 else None for t in given
        )
        if (scales is None) == (sizes is None) or (scales is not None and (scales[:2] != 1).any()):
            return None
        axes = convops.LinearAxes(scales, sizes, coord)
        result = self._result(n)
        run = convops.resize_linear(n.inputs[0], out.name, axes, grid, result, n.module or n.name)
        form = nat.ResizeLinear(n.inputs[0], out.name, axes, nat.Grid.of(grid), result)
        return self._step(n, "resize_linear", f"u{grid.bits}", run, native=form)

    def _convtranspose(self, n: Node) -> Step:
        return self._weighted(n, self._pack_transposed, self._transposed_floats)

    def _transposed_floats(self, n: Node, reason: str) -> Step | None:
        """A transposed convolution of real numbers by the engine; None where its operands are not such tensors and constants."""
        x, w, b = (self.graph.tensors[i] if i else None for i in (*n.inputs, "")[:3])
        if not self._floats(x) or not w.is_const or (b is not None and not b.is_const):
            return None
        data, groups, y = real(w), n.attrs.get("group", 1), n.outputs[0]
        plain = not n.attrs.get("output_shape") and n.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        if not plain or data.ndim not in (3, 4) or data.dtype != np.float32 or data.size == 0 or len(data) % groups:
            return None
        win, n_out = Window(n.attrs, data.shape[2:]), data.shape[1] * groups
        parts = floatlayers.phases(data.reshape(*data.shape[:2], *([1] * (4 - data.ndim)), *data.shape[2:]), win, groups)
        if parts is None:
            return None
        bias = None if b is None else np.ascontiguousarray(np.broadcast_to(real(b).reshape(-1), n_out), np.float32)
        extra = tuple(n.attrs.get("output_padding") or [0] * len(win.kernel))
        result, read, label = self._result(n), reader(self.graph, x.name), n.module or n.name
        run = floatlayers.transposed(read, x.name, y, parts, bias, win, extra, len(data), n_out, groups, result, label)
        form = fl.ConvTranspose(self._real_operand(x), y, parts, bias, win, extra, n_out, groups, result)
        weight_bytes = sum(p.packed.nbytes for p in parts)
        return self._step(n, "conv2d_f32", "float", run, reason, weight_bytes, expressions.rounded(result, form))

    def _why_float_transposed(self, n: Node) -> str:
        """Why no integer kernel takes this weight, which is int8 on a grid already."""
        w = self.graph.tensors[n.inputs[1]]
        if w.data.ndim not in (3, 4):
            return f"{w.data.ndim - 2}-d transposed convolution: integer kernels are 1-d and 2-d"
        if w.qparams.block_size:
            return "blockwise convolution weight: integer kernels take one scale a channel"
        if w.qparams.axis not in (None, 1):
            return f"weight scales along axis {w.qparams.axis}: integer kernels take one scale an output channel, axis 1"
        if n.attrs.get("output_shape") or n.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return "output_shape or auto_pad: integer kernels take explicit pads"
        return ""

    def _pack_transposed(self, n: Node) -> Step:
        w, groups = self.graph.tensors[n.inputs[1]], n.attrs.get("group", 1)
        data = w.data if w.data.ndim == 4 else w.data[:, :, None, :]
        win = Window(n.attrs, w.data.shape[2:])
        flat = (1,) * (2 - len(win.kernel))
        n_out = w.data.shape[1] * groups
        packed = _core.pack_conv_transpose2d(
            np.ascontiguousarray(data),
            groups=groups,
            stride=(*flat, *win.stride),
            dilation=(*flat, *win.dilation),
            **self._canonical(n, _per_output(w.qparams, groups), n_out),
        )
        extra = n.attrs.get("output_padding") or [0] * len(win.kernel)
        result, label = self._result(n), n.module or n.name
        run = convops.conv_transpose(n.inputs[0], n.outputs[0], packed, win, extra, w.data.shape[0], n_out, result, label)
        form = expressions.rounded(result, nat.ConvTranspose(n.inputs[0], n.outputs[0], packed, win, tuple(extra), result))
        return self._step(n, "conv_transpose2d", self._scheme(n), run, weight_bytes=packed.nbytes, native=form)

    def _pack_conv3d(self, n: Node) -> Step:
        w, groups = self.graph.tensors[n.inputs[1]], n.attrs.get("group", 1)
        packed = _core.pack_conv3d(np.ascontiguousarray(w.data), groups=groups, **self._canonical(n))
        win, channels = Window(n.attrs, w.data.shape[2:]), w.data.shape[1] * groups
        result, label = self._result(n), n.module or n.name
        run = convops.conv3d(n.inputs[0], n.outputs[0], packed, win, channels, w.data.shape[0], result, label)
        form = expressions.rounded(result, nat.Conv3d(n.inputs[0], n.outputs[0], packed, win, result))
        return self._step(n, "conv3d", self._scheme(n), run, weight_bytes=packed.nbytes, native=form)


def _per_output(qp: QParams, groups: int) -> QParams:
    """The grid of a transposed convolution's weight [Cin, Cout / groups, ...] with one scale an output channel of all groups."""
    if qp.axis is None or groups == 1:
        return qp
    return dataclasses.replace(qp, scale=np.tile(qp.scale.reshape(-1), groups), zero_point=np.tile(qp.zero_point.reshape(-1), groups))
