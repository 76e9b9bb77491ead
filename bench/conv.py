#!/usr/bin/env python3
"""Quantized convolution: qgemm against every library that is installed, side by side.

    python bench/conv.py                                                  # every layer, batch 1 and 8, 1 and 2 threads, all peers
    python bench/conv.py --shapes mobilenet_v2 --family depthwise --batch 1 --threads 1
    python bench/conv.py --filter '3x3 s2' --peers onnxruntime,openvino
    python bench/conv.py --json conv.json --markdown conv.md --plot conv.png

Each number of threads gets a fresh process, in which all contenders take turns. docs/benchmarks.md says how a figure is made.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import command  # noqa: E402
from harness.conv import report  # noqa: E402

if __name__ == "__main__":
    sys.exit(command.main(report.Conv(__doc__)))
