"""``_torch.encodings``: the file that keys encodings by torch module, onto the modules of a torch model."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import EncodingError, UnsupportedOpError, require
from ..graph.from_onnx import import_onnx
from ..graph.ir import QParams, Tensor
from ..graph.passes import run_all
from ..program import Program
from .apply import _storage, _to_signed, _Weight
from .encodings import Encodings, read_encodings
from .export import as_inputs, as_modules, check_on_cpu, evaluating, first_line, names_and_axes, quiet

_ONNX_BITS = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class ModuleQParams:
    """The grids of one torch module: of its inputs and outputs by position, of its parameters by name."""

    inputs: dict[int, QParams] = field(default_factory=dict)
    outputs: dict[int, QParams] = field(default_factory=dict)
    params: dict[str, QParams] = field(default_factory=dict)


def _read(model, source) -> Encodings:
    encodings = read_encodings(source)
    if encodings.modules is None:
        raise EncodingError(
            f"{encodings.source}: its keys are tensors of an ONNX file, not torch modules; give the file that ends in '_torch.encodings', "
            "or load the ONNX file with qgemm.load(model, encodings=...)"
        )
    known = dict(model.named_modules())
    unknown = [n for n in encodings.modules if n not in known]
    if unknown:
        raise EncodingError(
            f"{encodings.source}: the model has no module {', '.join(map(repr, unknown[:3]))} ({len(unknown)} of {len(encodings.modules)} "
            "names are unknown): give the model that was simulated (after prepare_model and batch-norm folding), or its own encodings"
        )
    return encodings


def _parameter(model, encodings: Encodings, name: str) -> tuple[np.ndarray, QParams]:
    """(integers, grid) of the parameter ``name``; scales lie along axis 0, along axis 1 for transposed convolutions."""
    module_name, _, param = name.rpartition(".")
    module = model.get_submodule(module_name)
    value = getattr(module, param, None)
    if value is None:
        raise EncodingError(f"{encodings.source}: module '{module_name}' has no parameter '{param}': give the model that was simulated")
    axes = (1, 0) if "ConvTranspose" in type(module).__name__ else (0, 1)
    tensor = Tensor(name, tuple(value.shape), data=value.detach().float().numpy())
    q, grid, _ = _Weight(encodings.source, tensor, encodings[name], axes if value.ndim > 1 else (0, 0)).quantize()
    return _to_signed(q, grid)


def load_torch_encodings(model, source) -> dict[str, ModuleQParams]:
    """The grids of a ``_torch.encodings`` file (or of ``sim.save_encodings_to_json``), module by module.

    model: the torch model that was simulated; its modules settle which axis the scales belong to. source: path or dict.
    Returns module path -> :class:`ModuleQParams`; what AIMET keeps in floating point has no entry. Raises EncodingError when
    the file is malformed or names modules that ``model`` does not have.
    """
    require("torch", "qgemm.aimet.load_torch_encodings")
    encodings = _read(model, source)
    out = {}
    for name, enc in encodings.modules.items():
        out[name] = ModuleQParams(
            {i: e.qparams for i, e in enc.inputs.items() if e.kind != "float"},
            {i: e.qparams for i, e in enc.outputs.items() if e.kind != "float"},
            {p: _parameter(model, encodings, f"{name}.{p}")[1] for p, e in enc.params.items() if e.kind != "float"},
        )
    return out


def from_torch_encodings(model, source, example_inputs, on_unsupported: str = "float"):
    """Build a program from a torch model and its ``_torch.encodings``.

    The model is exported once with a mark where each quantizer stood, and the marks become QuantizeLinear/DequantizeLinear pairs:
    from there it is the road of any QDQ file. Arguments and errors otherwise as in :func:`qgemm.from_aimet`.
    """
    torch = require("torch", "qgemm.aimet.from_torch_encodings")
    onnx = require("onnx", "qgemm.aimet.from_torch_encodings")

    encodings = _read(model, source)
    check_on_cpu(model, "from_torch_encodings")
    inputs = as_inputs(example_inputs)
    with tempfile.TemporaryDirectory(prefix="qgemm-") as folder, torch.no_grad(), evaluating(model), as_modules():
        path = str(Path(folder) / "model.onnx")
        with quiet():
            outputs = model(*inputs)
        try:
            with quiet(), _marks(torch, model, encodings):
                torch.onnx.export(
                    model,
                    inputs,
                    path,
                    opset_version=20,
                    dynamo=False,
                    do_constant_folding=False,
                    custom_opsets={"qgemm": 1},
                    **names_and_axes(model, inputs, outputs),
                )
        except Exception as e:
            raise UnsupportedOpError(
                f"torch cannot export {type(model).__name__} to ONNX ({type(e).__name__}: {first_line(e)}); "
                "export the simulation with sim.onnx.export(...) and use qgemm.load(model, encodings=...)"
            ) from e
        proto = onnx.load(path)
        _insert_qdq(onnx, proto, model, encodings)
        onnx.save(proto, path)
        program = Program(run_all(import_onnx(path)), on_unsupported)
    program.source = "torch"
    return program


class _marks:
    """Hooks that put a ``qgemm::Mark`` node, named by the encoding's key, where the file has an activation encoding."""

    def __init__(self, torch, model, encodings: Encodings):
        class Mark(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, key):
                return x.clone()

            @staticmethod
            def symbolic(g, x, key):
                return g.op("qgemm::Mark", x, key_s=key).setType(x.type())

        self.mark, self.model, self.encodings, self.handles = Mark.apply, model, encodings, []

    def _marked(self, values, side: str, name: str, positions):
        many = isinstance(values, (tuple, list))
        items = list(values) if many else [values]
        for i in positions:
            if i >= len(items):
                raise EncodingError(
                    f"{self.encodings.source}: module '{name}' has no {side} {i}: give the model that was simulated, or its own encodings"
                )
            items[i] = self.mark(items[i], f"{name}.{side}[{i}]")
        return tuple(items) if many else items[0]

    def __enter__(self):
        for name, enc in self.encodings.modules.items():
            module = self.model.get_submodule(name)
            if enc.inputs:
                self.handles.append(
                    module.register_forward_pre_hook(lambda m, args, n=name, e=enc: self._marked(args, "input", n, e.inputs))
                )
            if enc.outputs:
                self.handles.append(
                    module.register_forward_hook(lambda m, args, out, n=name, e=enc: self._marked(out, "output", n, e.outputs))
                )

    def __exit__(self, *_):
        for h in self.handles:
            h.remove()


def _zero_point(onnx, name: str, grid: QParams, source: str):
    if grid.bits not in _ONNX_BITS:
        raise EncodingError(f"{source}: tensor '{name}': a grid of {grid.bits} bits has no ONNX type; use 4, 8 or 16 bits")
    kind = getattr(onnx.TensorProto, f"{'' if grid.signed else 'U'}INT{grid.bits}")
    return onnx.helper.make_tensor(f"{name}_zero_point", kind, grid.scale.shape, grid.zero_point.ravel().tolist())


def _insert_qdq(onnx, proto, model, encodings: Encodings):
    """Marks -> Q/DQ pairs; encoded initializers -> integers and DequantizeLinear."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    graph = proto.graph
    nodes = []

    def scale_of(name: str, grid: QParams):
        graph.initializer.append(numpy_helper.from_array(grid.scale, f"{name}_scale"))
        graph.initializer.append(_zero_point(onnx, name, grid, encodings.source))
        return f"{name}_scale", f"{name}_zero_point"

    renamed = {}
    for init in list(graph.initializer):
        enc = encodings.get(init.name)
        if enc is None or enc.kind == "float" or enc.role != "param":
            continue
        q, grid = _parameter(model, encodings, init.name)
        zero = _zero_point(onnx, init.name, grid, encodings.source)
        graph.initializer.append(
            helper.make_tensor(f"{init.name}_q", zero.data_type, q.shape, q.astype(_storage(grid.bits, True)).ravel().tolist())
        )
        attrs = {} if grid.axis is None else {"axis": grid.axis} | ({"block_size": grid.block_size} if grid.block_size else {})
        renamed[init.name] = f"{init.name}_qdq"
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [f"{init.name}_q", *scale_of(init.name, grid)], [renamed[init.name]], f"{init.name}_dq", **attrs
            )
        )
        graph.initializer.remove(init)
    for node in graph.node:
        if node.domain == "qgemm" and node.op_type == "Mark":
            enc = encodings[node.attribute[0].s.decode()]
            if enc.kind == "float":
                nodes.append(helper.make_node("Identity", list(node.input), list(node.output), node.name))
                continue
            out = node.output[0]
            scales = scale_of(out, enc.qparams)
            nodes.append(helper.make_node("QuantizeLinear", [node.input[0], *scales], [f"{out}_q"], f"{out}_q"))
            nodes.append(helper.make_node("DequantizeLinear", [f"{out}_q", *scales], [out], f"{out}_dq"))
        else:
            for i, name in enumerate(node.input):
                node.input[i] = renamed.get(name, name)
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    opsets = [o for o in proto.opset_import if o.domain != "qgemm"]
    del proto.opset_import[:]
    proto.opset_import.extend(opsets)
    for o in proto.opset_import:
        if o.domain in ("", "ai.onnx"):
            o.version = max(o.version, 21)
    proto.ir_version = max(proto.ir_version, 10)
