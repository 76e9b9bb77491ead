#!/usr/bin/env python3
"""The other quantized products: signed and 16-bit inputs, layers that share an input, activation by activation; side by side.

    python bench/products.py                                          # every shape list, 1 and 2 threads, all peers
    python bench/products.py --shapes attention --peers onnxruntime,bf16 --threads 1
    python bench/products.py --json products.json --markdown products.md --plot products.png

Each number of threads gets a fresh process, in which all contenders take turns. docs/benchmarks.md says how a figure is made.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import command  # noqa: E402
from harness.products import report  # noqa: E402

if __name__ == "__main__":
    sys.exit(command.main(report.Products(__doc__)))
