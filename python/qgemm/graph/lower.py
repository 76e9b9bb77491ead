"""Graph after the passes -> list of Steps: which kernel runs each node, decided once, with the reason where it is not an integer one.

Integer kernels take uint8 inputs on a per-tensor grid. Whatever the model leaves without such a grid is computed in float32 by
numpy (floatops, floatnn) and, where its result has an encoding, rounded at once, as the simulation does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import _core
from ..errors import AccumulatorOverflowError, QuantizationError, UnsupportedOpError
from . import executors as ex
from . import expressions, floatlayers, floatnn
from . import native as nat
from . import native_float as fl
from .floatnn import Window
from .floatops import OPS
from .grids import quantize, real, shift
from .guard import check_grids, naming
from .ir import Graph, Node, QParams, Tensor
from .lower_conv import ConvLowering
from .lower_rows import RowLowering
from .passes.grid import MOVES, data_inputs, moves_bytes, pad_value
from .passes.util import named_axes
from .step import Native, Step
from .values import const_bytes, input_quantizer, raw_reader, raw_values, reader, writer

# Layers that on_unsupported="raise" does not allow in float.
COMPUTE = {"Conv", "ConvTranspose", "Linear", "Gemm", "MatMul", "Einsum"}

# Operators with integer kernels: what keeps one in float is its operands.
_INTEGER = {"Add", "MatMul", "AveragePool", "GlobalAveragePool", "Softmax", "LayerNormalization", "RMSNormalization", *MOVES}

_VIEWS = {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Identity", "Expand"}


# Moves that compare elements, so that which one moves depends on their values.
_SELECTS = {"MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin"}


def supported_ops() -> list[str]:
    return sorted(set(OPS) - {"Requantize"} | {"Lut"})


def lower(graph: Graph, on_unsupported: str = "float") -> list[Step]:
    """Raises UnsupportedOpError for operators nobody implements and, with on_unsupported="raise", for float compute layers."""
    unknown = [n for n in graph.nodes if n.op not in OPS and n.op != "Lut"]
    if unknown:
        named = ", ".join(f"'{n.name}' ({n.op})" for n in unknown[:8])
        raise UnsupportedOpError(f"qgemm does not execute: {named}. It executes: {', '.join(supported_ops())}")
    check_grids(graph)
    steps = Lowering(graph).steps()
    if on_unsupported == "raise":
        bad = [s for s in steps if s.scheme == "float" and s.op in COMPUTE]
        if bad:
            raise UnsupportedOpError(
                "these layers would compute in float: " + "; ".join(f"'{s.name}' ({s.op}): {s.reason}" for s in bad)
                + '. Pass on_unsupported="float" to allow it'
            )  # fmt: skip
    return steps


class Lowering(ConvLowering, RowLowering):
    def __init__(self, graph: Graph):
        self.graph = graph
        self.index_tensors = self._index_tensors()
        self.names = self._names()
        self.readers = graph.consumers()

    def steps(self) -> list[Step]:
        out = []
        for name in self.graph.inputs:
            qp = self.graph.tensors[name].qparams
            if qp is not None and qp.u8:
                form = nat.Quantize(name, name, nat.Grid.of(qp))
                out.append(
                    Step(name, "Quantize", "quantize", f"u{qp.bits}", input_quantizer(self.graph, name), (name,), (name,), native=form)
                )
            elif qp is not None:
                out.append(self._input_rounding(name, qp))
        made: dict[int, Step | None] = {}
        for n in self.graph.nodes:
            with naming(n):
                made[id(n)] = self._integer(n)
        chains = expressions.chains(self.graph, lambda n: made[id(n)] is None and self._real(n))
        inner = {id(n) for chain in chains.values() for n in chain.nodes[:-1]}
        for n in self.graph.nodes:
            if id(n) in inner:
                continue
            with naming(n):
                chain = chains.get(id(n))
                out.append(made[id(n)] or (self._float(n) if chain is None else self._expression(chain)))
        return out

    def _input_rounding(self, name: str, qp: QParams) -> Step:
        store = writer(self.graph, name)
        why = f"{qp.bits}-bit grid, kept as float32 values"
        grid = expressions.rounding(qp)
        form = None if grid is None else fl.Expression(grid, (name,), name)
        return Step(name, "Quantize", "numpy" if form is None else "expression", "float", lambda env: store(env, env[name]), (name,),
                    (name,), why, native=form)  # fmt: skip

    def _index_tensors(self) -> set[str]:
        """Values that hold shapes, indices and conditions rather than activations."""
        found = {k for k, t in self.graph.tensors.items() if np.dtype(t.dtype if t.dtype in np.sctypeDict else "float32").kind in "iub"}
        for n in self.graph.nodes:
            if n.op in ("Shape", "Size", "ArgMax", "ArgMin", "NonZero"):
                found.update(n.outputs)
        return found

    # ---- one node ----

    def _integer(self, n: Node) -> Step | None:
        """A kernel of the engine's for this operator; None where it is left to float arithmetic or to index arithmetic."""
        make: Callable[[Node], Step | None] | None = getattr(self, f"_{n.op.lower()}", None)
        step = make(n) if make is not None else None
        if step is None and n.op in MOVES and moves_bytes(self.graph, n):
            step = self._move(n)
        return step

    def _real(self, n: Node) -> bool:
        """True when ``n`` computes with real numbers or truth values: no shapes, no indices."""
        kinds = [self._kind(i) for i in (*n.inputs, *n.outputs) if i]
        return n.op == "Cast" or not any(k in "iu" for k in kinds)

    def _kind(self, name: str) -> str:
        t = self.graph.tensors[name]
        if t.qparams is not None:
            return "f"
        return t.data.dtype.kind if t.is_const else "i" if name in self.index_tensors and t.dtype != "bool" else "f"

    def _names(self) -> dict[int, str]:
        """id(node) -> the layer's name, once; further nodes of one module go by their own."""
        names, used = {}, set()
        for n in self.graph.nodes:
            name = n.module if n.module and n.module not in used else n.name
            used.add(name)
            names[id(n)] = name
        return names

    def _expression(self, chain: expressions.Chain) -> Step:
        n = chain.nodes[-1]
        module = next((m for m in chain.nodes if m.module and self.names[id(m)] == m.module), n)
        index = n.outputs[0] in self.index_tensors
        ins = tuple(i for i in chain.inputs if not self.graph.tensors[i].is_const)
        run, form = chain.bind()
        return Step(self.names[id(module)], n.op, "expression", "index" if index else "float", run, ins, (n.outputs[0],),
                    "" if index else self._why(n), module.module, 0, n.name, form)  # fmt: skip

    def _step(self, n: Node, kernel: str, scheme: str, run, reason: str = "", weight_bytes: int = 0, native=None) -> Step:
        consts = self.graph.tensors
        ins = tuple(i for i in dict.fromkeys(n.inputs) if i and not consts[i].is_const)
        outs = tuple(o for o in n.outputs if o)
        return Step(self.names[id(n)], n.op, kernel, scheme, run, ins, outs, reason, n.module, weight_bytes, n.name, native)

    def _qp(self, name: str) -> QParams | None:
        """The grid of a run-time tensor that is held as bytes, else None."""
        t = self.graph.tensors[name]
        return t.qparams if not t.is_const and t.qparams is not None and t.qparams.u8 else None

    def _result(self, n: Node) -> ex.Result:
        return ex.Result(self.graph.tensors[n.outputs[0]].qparams, n.attrs)

    # ---- layers with weights ----

    def _linear(self, n: Node) -> Step | None:
        return self._weighted(n, self._pack_linear, self._linear_floats)

    def _conv(self, n: Node) -> Step | None:
        three = len(self.graph.tensors[n.inputs[1]].shape or ()) == 5
        return self._weighted(n, self._pack_conv3d if three else self._pack_conv, self._conv_floats)

    def _weighted(self, n: Node, pack, floats=None) -> Step:
        """floats(node, reason): the layer on real numbers, where that is not numpy's; None where it is."""
        reason = self._why_float(n)
        if n.op == "Linear" and self._takes_16_bits(n):
            pack, reason = self._pack_linear16, ""
        if not reason:
            try:
                return pack(n)
            except AccumulatorOverflowError as e:
                reason = str(e)
            except QuantizationError as e:
                raise QuantizationError(f"layer '{n.module or n.name}': {e}") from None
        return (floats(n, reason) if floats is not None else None) or self._float(n, reason)

    def _why_float(self, n: Node) -> str:
        x, w = self.graph.tensors[n.inputs[0]], self.graph.tensors[n.inputs[1]]
        reason = _no_bytes(x, "input") or _weight_problem(w)
        if reason:
            return reason
        if len(n.inputs) > 2 and n.inputs[2] and not self.graph.tensors[n.inputs[2]].is_const:
            return f"bias '{n.inputs[2]}' is computed at run time"
        if n.op == "ConvTranspose":
            return self._why_float_transposed(n)
        if n.op == "Conv":
            if w.data.ndim not in (3, 4, 5):
                return f"{w.data.ndim - 2}-d convolution: integer kernels are 1-d to 3-d"
            if w.qparams.block_size:
                return "blockwise convolution weight: integer kernels take one scale a channel"
            if w.qparams.axis not in (None, 0):
                return f"weight scales along axis {w.qparams.axis}: integer kernels take one scale an output channel"
        elif w.qparams.axis not in (None, 0) and not w.qparams.block_size:
            return f"weight scales along axis {w.qparams.axis}: integer kernels take one scale an output channel"
        elif w.qparams.block_size and (w.qparams.axis != 1 or w.qparams.zero_point.any()):
            return "blockwise weight with zero points or along the output axis"
        return ""

    def _takes_16_bits(self, n: Node) -> bool:
        x, w = self.graph.tensors[n.inputs[0]], self.graph.tensors[n.inputs[1]]
        if x.is_const or x.qparams is None or not x.qparams.per_tensor or not 8 < x.qparams.bits <= 16:
            return False
        if len(n.inputs) > 2 and n.inputs[2] and not self.graph.tensors[n.inputs[2]].is_const:
            return False
        return not _weight_problem(w) and w.qparams.axis in (None, 0) and not w.qparams.block_size

    def _canonical(self, n: Node, qp: QParams | None = None, n_out: int | None = None) -> dict:
        """Keyword arguments common to all packers. qp: the weight's grid with scales per output channel, n_out of them; given where
        that is not what the weight itself says."""
        x, w = self.graph.tensors[n.inputs[0]].qparams, self.graph.tensors[n.inputs[1]]
        qp = qp or w.qparams
        n_out = n_out or w.data.shape[0]
        bits = 4 if qp.bits <= 4 else 8
        scale = np.ascontiguousarray(qp.scale.reshape(-1) if not qp.block_size else qp.scale, np.float32)
        zero = np.ascontiguousarray(np.broadcast_to(qp.zero_point.reshape(-1), (n_out,)), np.int32) if qp.zero_point.any() else None
        args = dict(scale=scale, zero_point=zero, bits=bits, x_scale=x.scale.item(), x_zero_point=x.zero_point.item(),
                    name=n.module or n.name)  # fmt: skip
        if len(n.inputs) > 2 and n.inputs[2]:
            b = self.graph.tensors[n.inputs[2]]
            if _joins_accumulator(b, x, qp, n_out):
                args["bias_int32"] = np.ascontiguousarray(b.data, np.int32)
            else:
                args["bias"] = np.ascontiguousarray(np.broadcast_to(real(b).reshape(-1), (n_out,)), np.float32)
        return args

    def _pack_linear(self, n: Node) -> Step:
        w = self.graph.tensors[n.inputs[1]]
        packed = _core.pack_linear(np.ascontiguousarray(w.data), group_size=w.qparams.block_size, **self._canonical(n))
        n_out, k = w.data.shape
        result = self._result(n)
        run = ex.linear(n.inputs[0], n.outputs[0], packed, n_out, k, result, n.module or n.name)
        form = expressions.rounded(result, nat.Linear(n.inputs[0], n.outputs[0], packed, k, result))
        return self._step(n, "linear", self._scheme(n), run, weight_bytes=packed.nbytes, native=form)

    def _linear_floats(self, n: Node, reason: str) -> Step:
        x, w, bias = (self.graph.tensors[i] if i else None for i in (*n.inputs, "")[:3])
        if not w.is_const or not self._floats(x) or (bias is not None and not bias.is_const):
            return self._float(n, reason)
        weight = np.ascontiguousarray(real(w), np.float32)
        n_out, k = weight.shape
        packed, result = _core.pack_floats(weight, True), self._result(n)
        added = None if bias is None else np.ascontiguousarray(np.broadcast_to(real(bias).reshape(-1), (n_out,)), np.float32)
        run = ex.product(reader(self.graph, x.name), n.outputs[0], packed, added, n_out, k, result, n.module or n.name)
        form = expressions.rounded(result, fl.Product(self._real_operand(x), n.outputs[0], packed, added, k, n_out, result))
        return self._step(n, "product", "float", run, reason, packed.nbytes, form)

    def _floats(self, t: Tensor) -> bool:
        """True for a run-time tensor of real numbers, held as bytes or as float32."""
        return not t.is_const and t.name not in self.index_tensors and held_dtype(t) == np.float32

    def _real_operand(self, t: Tensor) -> fl.Operand:
        grid = self._qp(t.name)
        value = np.ascontiguousarray(real(t), np.float32).reshape(t.data.shape) if t.is_const else t.name
        return fl.Operand(value, None if grid is None else nat.Grid.of(grid))

    def _pack_linear16(self, n: Node) -> Step:
        w = self.graph.tensors[n.inputs[1]]
        grid, _ = shift(self.graph.tensors[n.inputs[0]].qparams, signed=False)
        args = self._canonical(n) | {"x_scale": 1.0, "x_zero_point": 0}
        if "bias_int32" in args:
            args["bias"] = np.ascontiguousarray(real(self.graph.tensors[n.inputs[2]]).reshape(-1), np.float32)
            del args["bias_int32"]
        packed = _core.pack_linear(np.ascontiguousarray(w.data), **args)
        n_out, k = w.data.shape
        result = self._result(n)
        run = ex.linear16(n.inputs[0], n.outputs[0], packed, n_out, k, grid, result, n.module or n.name)
        form = expressions.rounded(result, nat.Linear16(n.inputs[0], n.outputs[0], packed, k, nat.Grid.of(grid), result))
        return self._step(n, "linear16", self._scheme(n), run, weight_bytes=packed.nbytes, native=form)

    def _pack_conv(self, n: Node) -> Step:
        w = self.graph.tensors[n.inputs[1]]
        groups = n.attrs.get("group", 1)
        data = w.data if w.data.ndim == 4 else w.data[:, :, None, :]
        packed = _core.pack_conv2d(np.ascontiguousarray(data), groups=groups, **self._canonical(n))
        win = Window(n.attrs, w.data.shape[2:])
        channels = w.data.shape[1] * groups
        result = self._result(n)
        run = ex.conv(n.inputs[0], n.outputs[0], packed, win, channels, w.data.shape[0], result, n.module or n.name)
        depthwise = groups > 1 and w.data.shape[1] == 1 and w.data.shape[0] == groups
        strided = depthwise or (groups == 1 and channels % 4 == 0 and win.of_pixels and not w.qparams.zero_point.any())
        form = expressions.rounded(result, nat.Conv(n.inputs[0], n.outputs[0], packed, win, result, strided))
        kernel = "conv2d depthwise" if depthwise else "conv2d"
        return self._step(n, kernel, self._scheme(n), run, weight_bytes=packed.nbytes, native=form)

    def _scheme(self, n: Node) -> str:
        x, w = self.graph.tensors[n.inputs[0]].qparams, self.graph.tensors[n.inputs[1]].qparams
        return f"W{w.bits}A{x.bits}" + (f" g{w.block_size}" if w.block_size else "")

    # ---- elementwise, pools ----

    def _lut(self, n: Node) -> Step:
        table, x, y = n.attrs["table"], n.inputs[0], n.outputs[0]
        qp = self._qp(x)
        used = np.arange(qp.qmax + 1)
        if np.array_equal(table[used], used):
            return self._step(n, "view", "bytes", ex.alias(x, y))
        return self._step(n, "lut", "u8", ex.lut(x, y, table), native=nat.Lut(x, y, np.ascontiguousarray(table, np.uint8)))

    def _requantize(self, n: Node) -> Step | None:
        x, y = self.graph.tensors[n.inputs[0]], self.graph.tensors[n.outputs[0]]
        if x.qparams is None and not x.is_const and y.qparams is not None and y.qparams.u8:
            form = nat.Quantize(x.name, y.name, nat.Grid.of(y.qparams))
            return self._step(n, "quantize", f"u{y.qparams.bits}", ex.quantize_step(x.name, y.name, y.qparams), native=form)
        return None

    def _add(self, n: Node) -> Step | None:
        out = self.graph.tensors[n.outputs[0]]
        if out.qparams is None or not out.qparams.u8:
            return None
        grids, reads = [], []
        for i in n.inputs:
            t = self.graph.tensors[i]
            qp = t.qparams
            if qp is None or not qp.per_tensor or qp.bits > 8:
                return None
            qp, _ = shift(qp, signed=False)
            grids.append(qp)
            reads.append(raw_reader(self.graph, i, qp))
        result = self._result(n)
        run = ex.add(*n.inputs, out.name, *reads, *grids, result)
        form = nat.Binary("add", *self._operands(n, grids), out.name, result)
        return self._step(n, "add", "u8", run, native=form)

    def _operands(self, n: Node, grids) -> list[nat.Operand]:
        """Both inputs of a sum or product on their grids; constants as bytes."""
        return [
            nat.Operand(i, nat.Grid.of(g), const_bytes(self.graph, i, g) if self.graph.tensors[i].is_const else None)
            for i, g in zip(n.inputs, grids, strict=True)
        ]

    def _maxpool(self, n: Node) -> Step | None:
        if any(n.outputs[1:]):
            raise UnsupportedOpError(f"MaxPool '{n.name}' also returns indices; qgemm returns the values only")
        kernel = n.attrs["kernel_shape"]
        x, y, win = n.inputs[0], n.outputs[0], Window(n.attrs, kernel)
        if len(kernel) > 2 or n.attrs.get("storage_order"):
            return None
        if not moves_bytes(self.graph, n):
            return self._pool_floats(n, win, None)
        return self._step(n, "max_pool2d", "bytes", ex.max_pool(x, y, win, n.name), native=nat.MaxPool(x, y, win))

    def _globalmaxpool(self, n: Node) -> Step | None:
        x, y = n.inputs[0], n.outputs[0]
        if not self._is_image(x):
            return None
        if not moves_bytes(self.graph, n):
            return self._pool_floats(n, None, None)
        return self._step(n, "max_pool2d", "bytes", ex.global_max_pool(x, y, n.name), native=nat.MaxPool(x, y, None))

    def _is_image(self, name: str) -> bool:
        """True unless a tensor is known to have other than one or two spatial axes."""
        shape = self.graph.tensors[name].shape
        return shape is None or len(shape) in (3, 4)

    def _averagepool(self, n: Node) -> Step | None:
        qp, kernel = self._qp(n.inputs[0]), n.attrs["kernel_shape"]
        win = Window(n.attrs, kernel)
        with_pad = bool(n.attrs.get("count_include_pad", 0)) and win.padded
        if len(kernel) > 2 or (win.ceil and with_pad):
            return None
        if qp is None or any(d != 1 for d in win.dilation):
            return self._pool_floats(n, win, with_pad)
        result = self._result(n)
        run = ex.avg_pool(n.inputs[0], n.outputs[0], win, with_pad, qp, result, n.name)
        form = expressions.rounded(result, nat.AvgPool(n.inputs[0], n.outputs[0], win, with_pad, nat.Grid.of(qp), result))
        return self._step(n, "avg_pool2d", f"u{qp.bits}", run, native=form)

    def _globalaveragepool(self, n: Node) -> Step | None:
        qp = self._qp(n.inputs[0])
        if not self._is_image(n.inputs[0]):
            return None
        if qp is None:
            return self._pool_floats(n, None, False)
        result = self._result(n)
        run = ex.global_avg_pool(n.inputs[0], n.outputs[0], qp, result, n.name)
        form = expressions.rounded(result, nat.AvgPool(n.inputs[0], n.outputs[0], None, False, nat.Grid.of(qp), result))
        return self._step(n, "avg_pool2d", f"u{qp.bits}", run, native=form)

    def _pool_floats(self, n: Node, win: Window | None, average: bool | None) -> Step | None:
        """A pool of real numbers; None where its input is not such. average: whether padding counts; None: the maximum."""
        x = self.graph.tensors[n.inputs[0]]
        if not self._floats(x):
            return None
        result, y = self._result(n), n.outputs[0]
        run = floatlayers.pool(reader(self.graph, x.name), x.name, y, win, average, result, n.name)
        form = expressions.rounded(result, fl.Pool(self._real_operand(x), y, win, average, result))
        kernel = "max_pool2d_f32" if average is None else "avg_pool2d_f32"
        return self._step(n, kernel, "float", run, self._why(n), native=form)

    def _reducemean(self, n: Node) -> Step | None:
        return self._reduced(n, floatlayers.MEAN)

    def _reducesum(self, n: Node) -> Step | None:
        return self._reduced(n, floatlayers.SUM)

    def _reducesumsquare(self, n: Node) -> Step | None:
        return self._reduced(n, floatlayers.SUM_OF_SQUARES)

    def _reducel2(self, n: Node) -> Step | None:
        return self._reduced(n, floatlayers.SUM_OF_SQUARES, root=True)

    def _reducemax(self, n: Node) -> Step | None:
        return None if moves_bytes(self.graph, n) else self._reduced(n, floatlayers.MAX)

    def _reduced(self, n: Node, kind: int, root: bool = False) -> Step | None:
        """A reduction of real numbers over axes that are known; None where it is not such. root: of the result."""
        x, axes, out = self.graph.tensors[n.inputs[0]], named_axes(self.graph, n), self.graph.tensors[n.outputs[0]]
        if not axes or not self._floats(x) or "lo" in n.attrs or "hi" in n.attrs:
            return None
        axes, keep, grid = tuple(axes), bool(n.attrs.get("keepdims", 1)), self._qp(out.name)
        run = floatlayers.reduction(reader(self.graph, x.name), axes, keep, kind, root, writer(self.graph, out.name), n.name)
        grid = None if grid is None else nat.Grid.of(grid)
        form = expressions.rounded(self._result(n), fl.Reduce(self._real_operand(x), out.name, axes, keep, kind, root, grid))
        return self._step(n, "reduce_f32", "float", run, self._why(n), native=form)

    def _selected(self, n: Node) -> fl.Select | None:
        """A reduction that picks one of the elements; None for others that compare them, and for values that are no bytes."""
        axes = named_axes(self.graph, n)
        if not axes or n.op not in ("ReduceMax", "ReduceMin") or self._qp(n.inputs[0]) is None or "lo" in n.attrs or "hi" in n.attrs:
            return None
        return fl.Select(n.inputs[0], n.outputs[0], tuple(axes), bool(n.attrs.get("keepdims", 1)), n.op == "ReduceMin")

    def _gather(self, n: Node) -> Step | None:
        """The channels of an image of bytes in another order."""
        x, index = self.graph.tensors[n.inputs[0]], self.graph.tensors[n.inputs[1]]
        if not moves_bytes(self.graph, n) or n.attrs.get("axis", 0) != 1 or not index.is_const or index.data.ndim != 1:
            return None
        channels = x.shape[1] if x.shape is not None and len(x.shape) == 4 else None
        if index.data.size != channels or not np.array_equal(np.sort(index.data), np.arange(channels)):
            return None
        order, y = np.ascontiguousarray(index.data, np.int32), n.outputs[0]
        run = ex.permute_channels(x.name, y, order, n.name)
        return self._step(n, "permute", "bytes", run, native=nat.PermuteChannels(x.name, y, order))

    def _matmul(self, n: Node) -> Step | None:
        grids = []
        for i in n.inputs:
            t = self.graph.tensors[i]
            if t.qparams is None or not t.qparams.per_tensor or t.qparams.bits > 8:
                return self._matmul_floats(n)
            grids.append(shift(t.qparams, signed=False)[0])
        reads = [raw_reader(self.graph, i, g) for i, g in zip(n.inputs, grids, strict=True)]
        result = self._result(n)
        run = ex.matmul(n.outputs[0], *reads, *grids, result, writer(self.graph, n.outputs[0]), n.module or n.name, self._heads(n))
        form = expressions.rounded(result, nat.MatMul(*self._operands(n, grids), n.outputs[0], result, ex.MATMUL_K))
        return self._step(n, "matmul", f"A{grids[0].bits}A{grids[1].bits}", run, native=form)

    def _heads(self, n: Node) -> bool:
        """True when all that reads the product is the transposition that puts attention's heads beside each other."""
        readers, shapes = self.readers.get(n.outputs[0], []), [self.graph.tensors[i].shape for i in n.inputs]
        return (
            len(readers) == 1 and readers[0].op == "Transpose" and readers[0].attrs.get("perm") == [0, 2, 1, 3]
            and all(s is not None and len(s) == 4 for s in shapes)
        )  # fmt: skip

    def _matmul_floats(self, n: Node) -> Step | None:
        sides = [self.graph.tensors[i] for i in n.inputs]
        if not all(t.data.dtype.kind in "fiu" if t.is_const else self._floats(t) for t in sides):
            return None
        result = self._result(n)
        run = ex.matmul_floats(n.outputs[0], *(reader(self.graph, i) for i in n.inputs), result, n.module or n.name, self._heads(n))
        form = expressions.rounded(result, fl.MatMul(*map(self._real_operand, sides), n.outputs[0], result))
        return self._step(n, "matmul floats", "float", run, self._why(n), native=form)

    # ---- moves and float ----

    def _move(self, n: Node) -> Step:
        qp = self._qp(n.outputs[0])
        moved = set(data_inputs(n))
        attrs = dict(n.attrs)
        inputs = list(n.inputs)
        reads = [raw_reader(self.graph, i, qp) if i in moved else reader(self.graph, i) for i in inputs]
        if n.op == "Pad" and attrs.get("mode", "constant") == "constant":
            byte = quantize(np.asarray(pad_value(self.graph, n), np.float32), qp).astype(np.uint8)
            reads = (reads + [lambda env: None] * 2)[: max(3, len(reads))]
            reads[2] = lambda env: byte
        fn = OPS[n.op](attrs)
        form = self._moved(n, fn, moved, lambda i: const_bytes(self.graph, i, qp), lambda v: int(quantize(np.asarray(v, np.float32), qp)))
        return self._step(n, _moving(n, form), "bytes", _call(n, fn, reads, [_put(o) for o in n.outputs]), native=form)

    def _moved(self, n: Node, fn, moved: set[str], constant, fill) -> nat.Move | nat.Concat | fl.Take | None:
        """The native form of an operation that puts every element somewhere, or a constant there.

        constant(name): a constant among the moved tensors, as they are held. fill(value): the byte that a padding of ``value`` consists
        of, or None.
        """
        if n.op in _SELECTS:
            return self._selected(n)
        inputs: list = []
        for i in n.inputs:
            t = self.graph.tensors[i] if i else None
            if t is None:
                inputs.append(None)
            elif i in moved:
                inputs.append(nat.MovedConstant(constant(i)) if t.is_const else i)
            else:
                inputs.append(real(t) if t.is_const else nat.Static(i))
        if n.op == "Concat":
            return nat.Concat(tuple(inputs), n.outputs[0], n.attrs["axis"])
        if n.op == "Pad" and n.attrs.get("mode", "constant") == "constant":
            value = pad_value(self.graph, n)
            byte = None if value is None else fill(value)
            if byte is None:
                return None
            inputs = (inputs + [None, None])[: max(3, len(inputs))]
            inputs[2] = np.asarray(-1 - byte)
        form = nat.Move(tuple(inputs), tuple(n.outputs), fn)
        if n.op == "Gather" and isinstance(inputs[1], nat.Static):
            x = inputs[0].data if isinstance(inputs[0], nat.MovedConstant) else inputs[0]
            return fl.Take(x, n.inputs[1], n.outputs[0], n.attrs.get("axis", 0), form)
        return form

    def _moved_float(self, n: Node, fn) -> Native | None:
        """The same for tensors that are not held as bytes of one grid; None where values change on the way."""
        if n.op not in MOVES or n.op == "Resize" or "lo" in n.attrs or "hi" in n.attrs:
            return None
        data = {i: self.graph.tensors[i] for i in data_inputs(n)}
        wide = [t.qparams for t in data.values() if not t.is_const and t.qparams is not None and not t.qparams.u8]
        to = [self.graph.tensors[o].qparams for o in n.outputs if o]
        # Onto the grid that all of them are on already, rounding changes nothing.
        if any(qp is not None for qp in to) and not (len(wide) == len(data) and all(wide[0].same(qp) for qp in (*wide, *to))):
            return None
        if len({real(t).dtype if t.is_const else held_dtype(t) for t in data.values()}) != 1:
            return None
        grids = {i: nat.Grid.of(t.qparams) for i, t in data.items() if self._qp(i) is not None}
        form = self._moved(n, fn, set(data), lambda i: np.ascontiguousarray(real(data[i])), lambda v: 0 if v == 0 else None)
        return fl.Dequantized(grids, form) if grids and form is not None else form

    def _float(self, n: Node, reason: str = "") -> Step:
        try:
            fn = OPS[n.op](n.attrs)
        except UnsupportedOpError as e:
            raise UnsupportedOpError(f"node '{n.name}': {e}") from None
        except KeyError as e:
            raise UnsupportedOpError(f"node '{n.name}' ({n.op}) misses the attribute {e}") from None
        if "lo" in n.attrs or "hi" in n.attrs:
            fn = _bounded(n, fn)
        read = raw_values if n.op in ("Shape", "Size") else reader  # a shape needs no values
        reads = [read(self.graph, i) for i in n.inputs]
        stores = [writer(self.graph, o) if o else None for o in n.outputs]
        run = _call(n, fn, reads, stores)
        form = self._moved_float(n, fn)
        if n.op == "Shape" or all(o in self.index_tensors for o in n.outputs if o):
            return self._step(n, _moving(n, form), "index", run, native=form)
        weight = sum(real_bytes(self.graph.tensors[i]) for i in n.inputs[1:] if i and self.graph.tensors[i].is_const)
        return self._step(n, _moving(n, form), "float", run, reason or self._why(n), weight, form)

    def _why(self, n: Node) -> str:
        """Why there is no integer kernel for this node here."""
        for i in data_inputs(n) if n.op in MOVES else [i for i in n.inputs if i]:
            t = self.graph.tensors[i]
            if n.op == "Add" and t.is_const and t.qparams is None:
                return f"constant '{i}' has no encoding"
            problem = "" if t.is_const or i in self.index_tensors else _no_bytes(t, "input")
            if problem and n.op in _INTEGER:
                return problem
        out = self.graph.tensors[n.outputs[0]]
        if n.op in ("Add", "Requantize", *MOVES):
            return _no_bytes(out, "result") or f"no integer kernel for {n.op} of these operands"
        return f"no integer kernel for {n.op}; computed in float32"


def _moving(n: Node, form) -> str:
    """The kernel's name for an operation that moves elements."""
    if form is None:
        return "numpy"
    if isinstance(form, fl.Select):
        return "max_pool2d"
    return "view" if n.op in _VIEWS else "take" if isinstance(form, fl.Take) else "copy"


def held_dtype(t: Tensor) -> np.dtype:
    """Of the array that holds a run-time tensor without a grid."""
    return np.dtype("float32" if t.dtype in ("float16", "bfloat16") else t.dtype)


def _call(n: Node, fn, reads, stores):
    """run(env) for a numpy operator; one with several outputs returns a tuple."""
    if len(reads) == 1 and len(stores) == 1:
        read, store = reads[0], stores[0]
        return lambda env: store(env, fn(read(env)))

    def run(env):
        r = fn(*[read(env) for read in reads])
        for store, value in zip(stores, r if isinstance(r, tuple) else (r,), strict=False):
            if store is not None:
                store(env, value)

    return run


def _put(name: str):
    if not name:
        return None

    def store(env, value):
        env[name] = value

    return store


def _bounded(n: Node, fn):
    """Operators that know no bounds of their own (Add) get them here; for the others applying them twice changes nothing."""
    attrs = {k: n.attrs[k] for k in ("lo", "hi") if k in n.attrs}
    return lambda *a: floatnn.bounded(fn(*a), attrs)


def real_bytes(t: Tensor) -> int:
    return 0 if t.data is None else t.data.size * (4 if t.qparams is not None else t.data.itemsize)


def _no_bytes(t: Tensor, what: str) -> str:
    """Why ``t`` is not held as uint8; "" when it is."""
    if t.is_const:
        return f"{what} '{t.name}' is a constant"
    if t.qparams is None:
        remedy = ": run aimet_torch's prepare_model before quantizing" if what == "input" else ""
        return f"{what} '{t.name}' has no encoding{remedy}"
    if t.qparams.axis is not None:
        return f"{what} '{t.name}' has one encoding a channel"
    if t.qparams.bits > 8:
        return f"{t.qparams.bits}-bit activation '{t.name}'"
    return ""


def _weight_problem(w: Tensor) -> str:
    if not w.is_const:
        return f"weight '{w.name}' is computed at run time"
    if w.qparams is None:
        return f"weight '{w.name}' has no encoding"
    if w.qparams.bits > 8:
        return f"{w.qparams.bits}-bit weight"
    return ""


def _joins_accumulator(b: Tensor, x: QParams, w: QParams, n_out: int) -> bool:
    """True for an int32 bias whose scale is the accumulator's, sx * sw."""
    qp = b.qparams
    if qp is None or qp.bits != 32 or qp.block_size or w.block_size or qp.zero_point.any() or b.data.shape != (n_out,):
        return False
    return bool(
        np.allclose(np.broadcast_to(qp.scale, (n_out,)), x.scale * np.broadcast_to(w.scale.reshape(-1), (n_out,)), rtol=1e-5, atol=0)
    )
