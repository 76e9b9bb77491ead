"""The benchmark of the other products: signed inputs, 16-bit inputs, layers that share an input, activation by activation.

``shapes`` (kinds and lists), ``problem`` (operands, and the exact result on a sample of outputs), ``contenders/``, ``report``.
"""
