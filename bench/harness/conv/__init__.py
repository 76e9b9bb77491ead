"""The convolution benchmark: uint8 NHWC in, requantized uint8 NHWC out, and floating point beside it.

``shapes`` (geometries and lists), ``problem`` (operands, and the exact result on a sample of outputs), ``contenders/``, ``report``.
"""
