"""Calibration: a float torch model and batches of its inputs -> a quantized program.

observers.py   ranges of activations from what they were: a small open set
place.py       which tensors carry a quantizer, by AIMET's conventions
floatrun.py    the float graph, node by node, values shown as they come
run.py         quantize(): the three together
"""

from .run import quantize

__all__ = ["quantize"]
