#!/usr/bin/env python3
"""Whole networks: qgemm against every runtime that is installed, side by side.

    python bench/models.py --prepare                                   # once: export, quantize, compile (many minutes)
    python bench/models.py                                             # ten networks, batch 1 and 8, 1 and 2 threads
    python bench/models.py --filter resnet18 --batch 1 --threads 1 --peers onnxruntime,openvino
    python bench/models.py --json models.json --markdown models.md --plot models.png

Each network, batch and number of threads gets a fresh process, in which all contenders take turns. docs/benchmarks.md says how a figure
is made.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import command  # noqa: E402
from harness.models import report  # noqa: E402

if __name__ == "__main__":
    sys.exit(command.main(report.Models(__doc__)))
