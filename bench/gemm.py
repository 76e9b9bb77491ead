#!/usr/bin/env python3
"""Quantized GEMM and Linear: qgemm against every library that is installed, side by side.

    python bench/gemm.py                                        # every shape list, 1 and 2 threads, all peers
    python bench/gemm.py --shapes bert_base --peers onnxruntime,onednn --threads 1
    python bench/gemm.py --json gemm.json --markdown gemm.md --plot gemm.png

Each number of threads gets a fresh process, in which all contenders take turns. docs/benchmarks.md says how a figure is made.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import command, gemm  # noqa: E402

if __name__ == "__main__":
    sys.exit(command.main(gemm.Gemm(__doc__)))
