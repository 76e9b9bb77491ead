"""The ``qgemm`` command: demo, info, inspect, validate, bench.

Exit codes: 0 done; 1 a check failed (agreement broken, SQNR below the asked one); 2 bad arguments, files or a missing package, said in
one line on stderr.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Sequence

import numpy as np

from . import __version__, _core
from .errors import ConfigError, ModelFormatError, QgemmError, ShapeError, require

_OPTIONAL = ("numpy", "torch", "onnx", "safetensors", "onnxruntime", "aimet-torch", "tqdm", "matplotlib")


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except QgemmError as e:
        if args.traceback:
            traceback.print_exc()
        print(f"qgemm {args.verb}: {type(e).__name__}: {' '.join(str(e).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `qgemm info | head`: the reader has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qgemm", description="Quantized PyTorch and AIMET models on CPUs with integer arithmetic.")
    parser.add_argument("--version", action="version", version=f"qgemm {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name, run, text):
        p = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        p.add_argument("--traceback", action="store_true", help="show where an error came from")
        p.set_defaults(run=run)
        return p

    def model(p):
        p.add_argument("file", metavar="FILE", help="a model: .qgemm, QDQ ONNX, or ONNX with --encodings")
        p.add_argument("--encodings", metavar="FILE", help="the AIMET encodings (JSON) that belong to an ONNX without Q/DQ nodes")
        p.add_argument("--on-unsupported", choices=("float", "raise"), default="float", help="what to do with an operator without integers")

    def data(p):
        p.add_argument("--shape", type=_shape, metavar="N,C,H,W", help="shape of the input, where the file leaves dimensions open")
        p.add_argument("--inputs", metavar="X.npy", help="inputs to use, float32 with the batch first (default: noise, fixed seed)")

    p = verb("demo", _demo, "run an AIMET-quantized network on real digits: accuracy, agreement, latency, report")
    p.add_argument("--batch", type=_positive, nargs="*", default=[1, 64], help="batch sizes to time; none given: no timing")
    p.add_argument("--threads", type=_threads, default=1, help="threads of torch and qgemm alike (default 1)")
    p.add_argument("--seconds", type=_seconds, default=2.0, help="time for each comparison of latencies (default 2)")
    p.add_argument("--report", choices=("W8A8", "W4A8"), default="W8A8", help="the network whose report is printed")

    verb("info", _info, "print CPU features, instruction sets, kernels chosen and why, threads, versions")

    p = verb("inspect", _inspect, "print the graph of a model, what becomes of each layer, its memory, and what is float and why")
    model(p)
    data(p)
    p.add_argument("--profile", action="store_true", help="time every operation as well")
    p.add_argument("--plot", metavar="PICTURE.png", help="draw the times as a bar chart (.png, .svg, .pdf)")
    p.add_argument("--seconds", type=_seconds, default=1.0, help="time for measuring (default 1)")

    p = verb("validate", _validate, "compare the outputs of a model with those of ONNX Runtime, which executes the same file in float")
    model(p)
    data(p)
    p.add_argument("--samples", type=_positive, default=16, help="samples of noise, without --inputs (default 16)")
    p.add_argument("--min-sqnr", type=float, metavar="DB", help="exit 1 when the SQNR of the outputs is lower")

    p = verb("bench", _bench, "latency of a model, against ONNX Runtime on the same file where it is installed")
    model(p)
    data(p)
    p.add_argument("--batch", type=_positive, nargs="+", default=[1], help="batch sizes (default 1)")
    p.add_argument("--threads", type=_threads, default=1, help="threads of qgemm and ONNX Runtime alike (default 1)")
    p.add_argument("--seconds", type=_seconds, default=2.0, help="time for each batch size (default 2)")
    return parser


def _positive(text: str) -> int:
    n = int(text)
    if n < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {n}")
    return n


def _threads(text: str) -> int:
    n, most = _positive(text), os.cpu_count() or 1
    if n > most:
        raise argparse.ArgumentTypeError(f"must be at most {most}, the number of this machine's CPUs, got {n}")
    return n


def _seconds(text: str) -> float:
    s = float(text)
    if not 0 < s <= 3600:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 3600, got {text}")
    return s


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(_positive(d) for d in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas between, such as 1,3,224,224, got {text!r}") from None


# ---- verbs ------------------------------------------------------------------------------------------------------------


def _demo(args) -> int:
    from . import demo

    return 0 if demo.run(args.batch, args.threads, args.seconds, args.report) else 1


def _info(args) -> int:
    from .bench import cpu_name

    features = [name for name, there in _core.cpu_features().items() if there]
    print(f"qgemm {__version__} on {cpu_name()}")
    print(f"features    {' '.join(features) or 'none that qgemm uses'}")
    print(f"ISA paths   {' '.join(_core.isas())}; this CPU: {' '.join(_core.available_isas())}; active: {_core.active_isa()}")
    print(f"threads     {_core.max_threads()}")
    print(f"packages    {'; '.join(f'{p} {_version(p)}' for p in _OPTIONAL)}")
    print()
    print(_core.explain())
    return 0


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _inspect(args) -> int:
    from .inspection import describe

    program = _load(args)
    measured = args.profile or args.plot
    try:
        inputs = _example(args, program)
    except ShapeError:
        if args.shape or args.inputs or measured:
            raise
        inputs = None
    print(describe(program, inputs))
    if measured:
        found = program.profile(*inputs, seconds=args.seconds)
        if args.profile:
            print(f"\n{found}")
        if args.plot:
            found.plot(args.plot)
            print(f"\nwrote {args.plot}")
    return 0


def _example(args, program) -> tuple[np.ndarray, ...]:
    """One sample for the model: --inputs, or noise (zeros for integers). ShapeError where the file leaves a shape open."""
    graph = program.graph
    if len(graph.inputs) == 1 and graph.tensors[graph.inputs[0]].dtype == "float32":
        return (_inputs(args, program, 1),)
    if args.shape or args.inputs:
        raise ConfigError(f"{args.file} has {len(graph.inputs)} inputs; --shape and --inputs are for one of float32")
    tensors = [graph.tensors[name] for name in graph.inputs]
    if any(t.shape is None or None in t.shape[1:] for t in tensors):
        raise ShapeError(f"{args.file} leaves the shapes of its inputs open: profile it in Python, with program.profile(...)")
    return tuple(np.zeros([d or 1 for d in t.shape], program.input_dtype(t.name)) for t in tensors)


def _validate(args) -> int:
    from .validation import validate

    program = _load(args)
    session = _session(args.file, threads=1, optimize=False)
    name, batch = session.get_inputs()[0].name, session.get_inputs()[0].shape[:1]
    fixed = batch[0] if batch and isinstance(batch[0], int) else None  # onnxruntime runs the file's batch size only
    x = _inputs(args, program, max(1, args.samples // (fixed or 1)) * (fixed or 1))
    size = fixed or len(x)
    batches = [x[i : i + size] for i in range(0, len(x), size)]
    program(batches[-1])  # a wrong shape, or a last batch that is too short, is refused in qgemm's words

    def reference(batch):
        """Of any size: a file with a fixed batch gets whole batches, the samples repeated to fill them."""
        want = np.asarray(batch)
        n = -(-len(want) // fixed) if fixed else 1
        whole = np.resize(want, (n * fixed, *want.shape[1:])) if fixed else want
        return np.concatenate([session.run(None, {name: part})[0] for part in np.split(whole, n)])[: len(want)]

    result = validate(program, reference, batches)
    noise = "" if args.inputs else " of noise"
    print(f"{args.file} on {len(x)} samples{noise}, against onnxruntime {_version('onnxruntime')} without fusion")
    print(result)
    if args.min_sqnr is not None and not result.sqnr_db >= args.min_sqnr:
        print(f"SQNR {result.sqnr_db:.2f} dB is below {args.min_sqnr:g} dB", file=sys.stderr)
        return 1
    return 0


def _bench(args) -> int:
    from . import bench

    program = _load(args)
    _input(args, program)
    _set_threads(args.threads)
    try:
        session = _session(args.file, args.threads, optimize=True)
    except QgemmError as e:
        session = None
        print(f"without ONNX Runtime: {e}\n", file=sys.stderr)
    other = f"onnxruntime {'float' if args.encodings else 'QDQ'}"
    columns = {}
    for batch in args.batch:
        x = _inputs(args, program, batch)
        x = np.ascontiguousarray(x[np.arange(batch) % len(x)])
        contenders = {"qgemm": lambda x=x: program(x)}
        if session is not None:
            feed = {session.get_inputs()[0].name: x}
            contenders[other] = lambda feed=feed: session.run(None, feed)
        columns[f"batch {batch}"] = bench.interleave(contenders, args.seconds, label=f"batch {batch}")
    print(f"{args.file}: {bench.conditions()}")
    print(bench.table(columns, other if session is not None else "qgemm"))
    return 0


# ---- what the verbs share ---------------------------------------------------------------------------------------------


def _load(args):
    from .io import load

    return load(args.file, encodings=args.encodings, on_unsupported=args.on_unsupported)


def _input(args, program):
    """The model's one input; ConfigError when it has another number of them."""
    if len(program.graph.inputs) != 1:
        raise ConfigError(f"{args.file} has {len(program.graph.inputs)} inputs; this verb feeds one: use qgemm.load in Python")
    return program.graph.tensors[program.graph.inputs[0]]


def _inputs(args, program, samples: int) -> np.ndarray:
    """--inputs, or noise that covers the input's encoding. ShapeError when the file leaves the shape open and --shape is not given."""
    tensor = _input(args, program)
    if args.inputs:
        try:
            x = np.load(args.inputs, allow_pickle=False)
        except (OSError, ValueError) as e:
            raise ModelFormatError(f"cannot read the array {args.inputs}: {e}; write it with numpy.save") from None
        if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiu" or x.ndim == 0:
            raise ModelFormatError(f"{args.inputs} must hold one array of numbers with the batch first, written by numpy.save")
        if len(x) == 0:
            raise ShapeError(f"{args.inputs} holds no samples (its shape is {x.shape}); give at least one")
        return np.ascontiguousarray(x, dtype=np.float32)
    shape = args.shape[1:] if args.shape else (tensor.shape or ())[1:]
    if None in shape or not (args.shape or tensor.shape):
        raise ShapeError(f"the input {tensor.name} of {args.file} has the shape {tensor.shape}: give --shape, or real data with --inputs")
    noise = np.random.default_rng(0).standard_normal((samples, *shape), dtype=np.float32)
    q = tensor.qparams
    if q is None or not q.per_tensor:
        return noise
    # Three standard deviations span the encoding: most values on the grid, some clipped, as real data would be.
    low, high = ((limit - int(q.zero_point)) * float(q.scale) for limit in (q.qmin, q.qmax))
    return noise * np.float32((high - low) / 6) + np.float32((high + low) / 2)


def _session(path: str, threads: int, optimize: bool):
    ort = require("onnxruntime", "this comparison", extra="test")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if not optimize:  # fused integer operators round the bias to int32; node by node, the file is executed as it says
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime has no common base class for what it raises
        raise ModelFormatError(f"onnxruntime does not take {path}: {str(e).splitlines()[0]}") from None


def _set_threads(n: int) -> None:
    """OpenMP's number of threads for this thread's next parallel regions, in the one libgomp that is mapped."""
    ctypes.CDLL("libgomp.so.1").omp_set_num_threads(n)
