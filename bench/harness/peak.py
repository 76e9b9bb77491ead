"""What the CPU can do in this minute: vpdpbusd on registers, from the native loop in ``bench/native``."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "bench"
TARGET = "qgemm_bench_gemm"
_PROCESS_TIMEOUT = 60


def executable() -> Path:
    return BUILD / "bench" / "native" / TARGET


def build() -> str:
    """Build the native benchmark if it is not there. Returns why it could not be built, or an empty string."""
    if executable().is_file():
        return ""
    configure = ["cmake", "-S", str(ROOT), "-B", str(BUILD), "-DQGEMM_PYTHON=OFF", "-DQGEMM_BENCH=ON", "-DCMAKE_BUILD_TYPE=Release"]
    compile_ = ["cmake", "--build", str(BUILD), "--target", TARGET, "-j", str(len(os.sched_getaffinity(0)))]
    for command in (configure, compile_):
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as e:
            return f"{command[0]}: {e.strerror}"
        if done.returncode:
            errors = [line for line in (done.stderr + done.stdout).splitlines() if "rror" in line]
            return f"building {TARGET} failed: {errors[0].strip() if errors else done.returncode}"
    return ""


class Peak:
    """The peak of ``cpus`` together, one process on each, measured again when it is older than ``keep`` seconds."""

    def __init__(self, cpus: Sequence[int], keep: float = 20.0):
        self.cpus = list(cpus)
        self.keep = keep
        self.reason = "" if executable().is_file() else f"{TARGET} is not built"
        self._taken = -float("inf")
        self._gops: float | None = None

    def gops(self) -> float | None:
        """None when it cannot be measured; ``reason`` then says why."""
        if not self.reason and time.monotonic() - self._taken > self.keep:
            self._gops = self._measure()
            self._taken = time.monotonic()
        return self._gops

    def _measure(self) -> float | None:
        command = [str(executable()), "--benchmark_filter=^peak$", "--benchmark_format=json", "--benchmark_min_time=0.05"]
        command.append("--benchmark_repetitions=4")
        before = os.sched_getaffinity(0)
        running = []
        try:
            for cpu in self.cpus:
                os.sched_setaffinity(0, {cpu})  # the child inherits it
                pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
                running.append(subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes))
        except OSError as e:
            self.reason = f"{TARGET}: {e.strerror}"
        finally:
            os.sched_setaffinity(0, before)
        total = 0.0
        for process in running:
            try:
                text, _ = process.communicate(timeout=_PROCESS_TIMEOUT)
                runs = [r for r in json.loads(text)["benchmarks"] if r.get("run_type") == "iteration"]
                failed = [r["error_message"] for r in runs if r.get("error_occurred")]
                if failed or not runs:
                    self.reason = failed[0] if failed else f"{TARGET} has no benchmark 'peak' on this CPU"
                else:
                    total += max(r["GOPS"] for r in runs)
            except (subprocess.TimeoutExpired, json.JSONDecodeError, KeyError) as e:
                process.kill()
                self.reason = f"{TARGET}: {type(e).__name__}"
        return None if self.reason else total
