"""OpenVINO: a model of one convolution between uint8 tensors, its requantization fused (FakeQuantize).

A model's edges are NCHW and the kernel's tensors NHWC, so the model changes layout on both sides, which a network does not do between
its layers. Those nodes' own times (as OpenVINO reports them for the same call) are not counted.
"""

from __future__ import annotations

import numpy as np

from ...contenders.base import Contender, Variant
from ..problem import Problem

_EDGES = {"Reorder", "Transpose"}


class Convolution(Contender):
    name = "OpenVINO u8"
    library = "openvino"
    output = "u8"
    modules = ("openvino",)

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        variants = [self._variant(problem, threads, 0)]
        if len(problem.shape.size) == 1:
            variants.append(self._variant(problem, threads, 1))
        return variants

    def _variant(self, p: Problem, threads: int, first: int) -> Variant:
        """first: 1 leaves out the dimension of the rows."""
        import openvino as ov
        from openvino import opset13 as op

        parameter = op.parameter([p.shape.batch, p.shape.c_in, *p.size[first:]], ov.Type.u8)
        centred = op.subtract(op.convert(parameter, "f32"), op.constant(np.float32(p.x_zero_point)))
        x = op.multiply(centred, op.constant(np.float32(p.x_scale)))
        geometry = [list(v[first:]) for v in (p.stride, p.padding, p.padding, p.dilation)]
        y = op.add(self._product(op, p, x, geometry, first), op.constant(p.bias.reshape(1, -1, *[1] * (2 - first))))
        low, high = (np.float32(p.out_scale * (q - p.out_zero_point)) for q in (0, 255))
        q = op.convert(op.fake_quantize(y, low, high, np.float32(0), np.float32(255), 256), "u8")
        # As in harness.contenders.open_vino: floating-point parts stay float32.
        config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True}
        request = ov.Core().compile_model(ov.Model([q], [parameter], "conv"), "CPU", config).create_infer_request()
        image = np.ascontiguousarray(p.x.transpose(0, 3, 1, 2)).reshape([p.shape.batch, p.shape.c_in, *p.size[first:]])
        request.set_input_tensor(0, ov.Tensor(image, shared_memory=True))
        request.infer(None, share_outputs=True)

        def times(of_edges: bool) -> dict[str, float]:
            """Seconds by kernel of the last call's nodes."""
            nodes = [i for i in request.get_profiling_info() if (i.node_type in _EDGES) == of_edges]
            return {f"{i.node_name} {i.exec_type}": i.real_time.total_seconds() for i in nodes}

        def edges(taken: float) -> float:
            # On several threads the times of nodes may add up to more than the call took: the rest is counted in full.
            return min(sum(times(True).values()), taken - sum(times(False).values()))

        kernels = [name.split()[-1] for name, seconds in times(False).items() if seconds]

        def call(kept: np.ndarray = image) -> None:  # the shared tensor does not keep its memory alive
            request.infer(None, share_outputs=True)

        def result() -> np.ndarray:
            data = request.get_output_tensor(0).data
            return data.reshape(p.shape.batch, p.n, *p.out_size).transpose(0, 2, 3, 1)

        name = f"{'1-D ' if first else ''}{' '.join(kernels)}"
        return Variant(call, result, name, edges)

    @staticmethod
    def _product(op, p: Problem, x, geometry, first: int):
        stride, begin, end, dilation = geometry
        w, scale = (p.w_transposed, p.w_scale[:1]) if p.shape.transposed else (p.w, p.w_scale)
        if first:
            w = w.reshape(*w.shape[:2], w.shape[3])
        ones = [1] * (2 - first)
        if p.groups > 1:  # [groups, out of a group, in of a group, ...]; transposed: in before out
            w = w.reshape(p.groups, w.shape[0] // p.groups, *w.shape[1:])
            scale = scale.reshape(1, 1, 1, *ones) if p.shape.transposed else scale.reshape(p.groups, -1, 1, *ones)
        else:
            scale = scale.reshape(-1, 1, *ones)
        weight = op.multiply(op.convert(op.constant(np.ascontiguousarray(w)), "f32"), op.constant(scale))
        if p.shape.transposed:
            make = op.group_convolution_backprop_data if p.groups > 1 else op.convolution_backprop_data
            extra = list(p.output_padding[first:])
            return make(x, weight, stride, pads_begin=begin, pads_end=end, dilations=dilation, output_padding=extra)
        return (op.group_convolution if p.groups > 1 else op.convolution)(x, weight, stride, begin, end, dilation)


CONTENDERS: list[Contender] = [Convolution()]
