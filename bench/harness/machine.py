"""Where a figure was taken: CPU, cores, instruction set, versions. And pinning to a number of cores."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("qgemm", "numpy", "torch", "torchao", "onnx", "onnxruntime", "openvino")
# Read when a library loads, so they are set before any is imported: by the parent, for the process that measures.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores() -> list[int]:
    """One logical CPU of each physical core that this process may use, highest number first (0 serves most interrupts)."""
    seen: set[str] = set()
    chosen = []
    for cpu in sorted(os.sched_getaffinity(0), reverse=True):
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            siblings = path.read_text().strip()
        except OSError:
            siblings = str(cpu)
        if siblings not in seen:
            seen.add(siblings)
            chosen.append(cpu)
    return chosen


def environment(threads: int) -> dict[str, str]:
    """The environment of a process that measures on ``threads`` threads."""
    return {
        **os.environ,
        **{name: str(threads) for name in THREAD_VARIABLES},
        # Inductor otherwise keeps a pool of compiler processes beside the measurement.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }


def pin(threads: int) -> list[int]:
    """Bind this process to ``threads`` physical cores; call it before any library starts threads, which inherit the binding."""
    chosen = cores()[:threads]
    if len(chosen) < threads:
        raise SystemExit(f"{threads} threads need as many physical cores, and this process may use {len(chosen)}: give --threads fewer")
    os.sched_setaffinity(0, set(chosen))
    return chosen


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Installed packages of interest, and oneDNN as torch reports it."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if "torch" in found:
        import torch

        match = re.search(r"MKL-DNN v([\d.]+)", torch.__config__.show())
        if match:
            found["onednn (in torch)"] = match.group(1)
    return found


def describe() -> dict[str, Any]:
    """The CPU, what qgemm runs on it, and the versions, as the JSON file records them."""
    try:
        from qgemm import _core

        isa, features = _core.active_isa(), sorted(name for name, present in _core.cpu_features().items() if present)
    except ImportError:
        isa, features = "", []
    return {
        "cpu": cpu_name(),
        "isa": isa,
        "features": features,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": versions(),
    }
