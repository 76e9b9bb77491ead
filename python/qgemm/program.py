"""An executable network: a graph, lowered for this CPU."""

from __future__ import annotations

import sys
import threading
import time

import numpy as np

from . import _core
from .errors import ConfigError, DeviceError, DTypeError, ModelFormatError, QgemmError, ShapeError
from .graph.compile import Compiled, Compiler, ShapesChanged
from .graph.grids import real
from .graph.guard import DAMAGE
from .graph.ir import Graph, Tensor
from .graph.layout import memory_order
from .graph.lower import lower
from .graph.native import NotNative
from .graph.step import Step
from .graph.values import dequantize_array, grid_arrays

# Shapes a program stays compiled for; each has memory of its own.
_SHAPES = 8


class Program:
    """Call it like the model: ``y = program(x)``. torch tensors in, torch tensors out; numpy in, numpy out.

    graph: the IR after the passes (``graph.passes.run_all``). on_unsupported: "float", or "raise" to refuse layers that would
    compute in float. The first axis may have any size where the model says so. A Program keeps no state between calls: any
    number of threads may use one. pickle and deepcopy keep the graph and pack the weights again.

    A program that is made (loaded, copied, unpickled) after torch was imported is a ``torch.nn.Module``; without torch it is not, and
    computes all the same.

    Inputs and outputs are float32 (or the integer type of the model's own input). Errors: ShapeError, DTypeError, DeviceError
    for an input that does not fit; UnsupportedOpError at construction.
    """

    def __new__(cls, *args, **kwargs):
        if cls is Program and sys.modules.get("torch") is not None:
            from .torch_program import TorchProgram as cls
        return super().__new__(cls)

    def __init__(self, graph: Graph, on_unsupported: str = "float"):
        if on_unsupported not in ("float", "raise"):
            raise ConfigError(f'on_unsupported must be "float" or "raise", got {on_unsupported!r}')
        self.graph = graph
        self.on_unsupported = on_unsupported
        self.steps: list[Step] = lower(graph, on_unsupported)
        self._plan = _with_last_uses(graph, self.steps)
        self._specs = [_InputSpec(graph.tensors[i]) for i in graph.inputs]
        self._reads = [_output_reader(graph, o) for o in graph.outputs]
        self._runner = _core.ProgramRunner()
        self._compiled: dict[tuple, Compiled | None] = {}
        self._lock = threading.Lock()
        self._may_alias = any(not graph.tensors[o].is_const and not _held_as_bytes(graph.tensors[o]) for o in graph.outputs)

    @property
    def inputs(self) -> list[str]:
        return list(self.graph.inputs)

    @property
    def outputs(self) -> list[str]:
        return list(self.graph.outputs)

    def input_dtype(self, name: str) -> np.dtype:
        """The element type that the input ``name`` must have."""
        return next(s.dtype for s in self._specs if s.name == name)

    def __call__(self, *inputs):
        """One output, or a tuple of them."""
        y = _core.run_program(self._runner, *inputs)  # None: not compiled for these shapes, or not plain tensors
        return self._general(inputs) if y is None else y

    def _general(self, inputs):
        arrays, torch = self._arrays(inputs)
        results = self._compiled_results(arrays)
        if results is None:
            results = self._stepwise(arrays)
        if torch is not None:
            results = [torch.from_numpy(r) for r in results]
        return results[0] if len(results) == 1 else tuple(results)

    def _compiled_results(self, arrays: list[np.ndarray]) -> list[np.ndarray] | None:
        arrays = [_dense(a) for a in arrays]
        compiled = self._compile(arrays)
        if compiled is None:
            return None
        if compiled.native:
            y = _core.run_program(self._runner, *arrays)
            if y is not None:  # None: other threads have pushed it out meanwhile
                return list(y) if len(self.graph.outputs) > 1 else [y]
        workspace = compiled.workspace()
        try:
            results = workspace.run(arrays, _execute)
        except ShapesChanged:
            return None
        compiled.idle.append(workspace)
        return results

    def _compile(self, arrays: list[np.ndarray]) -> Compiled | None:
        """The native program for arrays of these shapes and memory orders; None when it has none."""
        key = tuple((a.shape, memory_order(a.shape, a.strides)) for a in arrays)
        with self._lock:
            if key in self._compiled:
                return self._compiled[key]
            try:
                compiled = Compiler(self.graph, self.steps, _execute).compile(arrays)
            except NotNative:
                compiled = None
            if len(self._compiled) >= _SHAPES:
                del self._compiled[next(iter(self._compiled))]
            self._compiled[key] = compiled
            if compiled is not None and compiled.native:
                self._runner.add(compiled.core, _SHAPES)
            return compiled

    def _stepwise(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Every step in Python: what a compiled program must equal, byte for byte."""
        env = dict(zip(self.graph.inputs, arrays, strict=True))
        self._run(env)
        results = [read(env) for read in self._reads]
        if self._may_alias:  # the caller may write into what it gets: never into its own input
            results = [r.copy() if any(np.may_share_memory(r, a) for a in arrays) else r for r in results]
        return results

    def trace(self, *inputs) -> dict[str, np.ndarray]:
        """Run and return every run-time tensor by name: uint8 on 8-bit grids, float32 elsewhere."""
        arrays, _ = self._arrays(inputs)
        env = dict(zip(self.graph.inputs, arrays, strict=True))
        for step in self.steps:
            _execute(step, env)
        return env

    def profile(self, *inputs, seconds: float = 1.0):
        """Time every operation on ``inputs`` for about ``seconds``: a :class:`qgemm.profiling.Profile`, which prints as a table and plots.

        Errors as of a call, and ConfigError for ``seconds`` that are not above 0.
        """
        from .profiling import profile

        return profile(self, inputs, seconds)

    def _timed_calls(self, inputs):
        """Endless: seconds of every step, a list a call; the first call only warms up."""
        arrays = [_dense(a) for a in self._arrays(inputs)[0]]
        compiled = self._compile(arrays)
        if compiled is None:
            while True:
                yield self._timed_steps(arrays)
        workspace = compiled.workspace()
        workspace.run(arrays, _execute)
        of = [min(step, len(self.steps) - 1) for step, *_ in compiled.core.ops()]
        while True:
            seconds = np.zeros(len(of))
            workspace.run(arrays, _execute, seconds)
            yield np.bincount(of, seconds, len(self.steps)).tolist() if of else []

    def _timed_steps(self, arrays: list[np.ndarray]) -> list[float]:
        env, taken = dict(zip(self.graph.inputs, arrays, strict=True)), []
        for run, _, dead in self._plan:
            start = time.perf_counter()
            run(env)
            taken.append(time.perf_counter() - start)
            for name in dead:
                del env[name]
        return taken

    @property
    def memory(self) -> dict[str, int]:
        """Bytes: weight_bytes, packed for this CPU; and, for the shapes called so far, arena_bytes, the most that one call's tensors
        take together, minimum_bytes, what no plan of that arena could do without, and thread_bytes, what each thread beside the first
        needs for images of its own (0 before the first call)."""
        plans = [c.core.memory() for c in self._compiled.values() if c is not None]
        arena, minimum, thread = max(plans, default=(0, 0, 0))
        weights = sum(s.weight_bytes for s in self.steps)
        return {"weight_bytes": weights, "arena_bytes": arena, "minimum_bytes": minimum, "thread_bytes": thread}

    def _run(self, env: dict[str, np.ndarray]) -> None:
        for run, step, dead in self._plan:
            try:
                run(env)
            except Exception as e:
                _explain(step, env, e)
            for name in dead:
                del env[name]

    def _arrays(self, inputs):
        if len(inputs) != len(self._specs):
            names = ", ".join(self.graph.inputs)
            raise ShapeError(f"the model takes {len(self._specs)} input(s) ({names}), got {len(inputs)}")
        torch = sys.modules.get("torch")
        arrays, any_torch = [], False
        for spec, x in zip(self._specs, inputs, strict=True):
            if torch is not None and isinstance(x, torch.Tensor):
                any_torch = True
                if x.device.type != "cpu":
                    raise DeviceError(f"input '{spec.name}' lives on {x.device}; qgemm runs on the CPU: pass x.cpu()")
                x = x.detach().as_subclass(torch.Tensor)
                if x.dtype == torch.bfloat16:
                    raise DTypeError(f"input '{spec.name}' is bfloat16; the model takes {spec.dtype}: pass x.float()")
                x = x.numpy()
            elif not isinstance(x, np.ndarray):
                raise DTypeError(f"input '{spec.name}' is a {type(x).__name__}; pass a torch tensor or a numpy array")
            arrays.append(spec.check(x))
        return arrays, torch if any_torch else None

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        floats = sum(s.scheme == "float" for s in self.steps)
        return (
            f"Program({self.graph.name or 'network'}: {len(self.steps)} steps, {floats} in float; print(qgemm.report(program)) lists them)"
        )

    def __getstate__(self):
        return {"graph": self.graph, "on_unsupported": self.on_unsupported}

    def __setstate__(self, state):
        self.__init__(state["graph"], state["on_unsupported"])

    def __reduce_ex__(self, protocol):
        # By this name, so that a process without torch can read what one with torch has written.
        return Program.__new__, (Program,), self.__getstate__()


class _InputSpec:
    """Rank, fixed dimensions and element type of one graph input."""

    def __init__(self, t: Tensor):
        self.name, self.shape = t.name, t.shape
        self.dtype = np.dtype("float32" if t.dtype in ("float16", "bfloat16") else t.dtype)

    def check(self, x: np.ndarray) -> np.ndarray:
        if x.dtype != self.dtype:
            raise DTypeError(f"input '{self.name}' is {x.dtype}; the model takes {self.dtype}: convert it before the call")
        if self.shape is not None and x.shape != self.shape:
            wrong = len(x.shape) != len(self.shape) or any(d is not None and d != s for d, s in zip(self.shape, x.shape, strict=True))
            if wrong:
                want = "[" + ", ".join("any" if d is None else str(d) for d in self.shape) + "]"
                raise ShapeError(f"input '{self.name}' has shape {list(x.shape)}; the model takes {want}")
        return x


def _with_last_uses(graph: Graph, steps: list[Step]):
    """(run, step, tensors that nobody reads afterwards) a step, so that memory is free for reuse as early as possible."""
    last: dict[str, int] = {}
    for k, s in enumerate(steps):
        for name in (*s.inputs, *s.outputs):
            last[name] = k
    dead: list[list[str]] = [[] for _ in steps]
    for name, k in last.items():
        if name not in graph.outputs:
            dead[k].append(name)
    return [(s.run, s, tuple(d)) for s, d in zip(steps, dead, strict=True)]


def _output_reader(graph: Graph, name: str):
    t = graph.tensors[name]
    if t.is_const:
        value = real(t)
        return lambda env: value.copy()
    if _held_as_bytes(t):
        scale, zero = grid_arrays(t.qparams)
        return lambda env: dequantize_array(env[name], scale, zero)

    def read(env):
        y = np.asarray(env[name])
        return y if y.flags.writeable and 0 not in y.strides else y.copy()  # never a constant or a broadcast view

    return read


def _held_as_bytes(t: Tensor) -> bool:
    return t.qparams is not None and t.qparams.u8


def _dense(a: np.ndarray) -> np.ndarray:
    """``a`` without gaps between its elements, aligned."""
    order = memory_order(a.shape, a.strides)
    return a if a.transpose(order).flags.c_contiguous and a.flags.aligned else np.ascontiguousarray(a)


def _execute(step: Step, env) -> None:
    try:
        step.run(env)
    except Exception as e:
        _explain(step, env, e)


def _explain(step: Step, env, e: Exception):
    """Re-raise with the layer's name: a numpy error about two shapes says nothing to a user."""
    if isinstance(e, QgemmError) and step.name in str(e):
        raise e
    shapes = ", ".join(f"'{i}' {list(env[i].shape)}" for i in step.inputs if i in env)
    if isinstance(e, QgemmError):
        kind = type(e)
    elif isinstance(e, MemoryError):
        kind = ShapeError
    elif isinstance(e, DAMAGE):
        kind = ShapeError if isinstance(e, (ValueError, IndexError)) else ModelFormatError
    else:
        raise e
    raise kind(f"layer '{step.name}' ({step.op}) with {shapes}: {e}") from e
