"""The benchmark of whole networks: ``shapes`` (a network and a batch size), ``artefacts`` (what is built once and kept), ``problem``
(an input, the float32 output it is judged by), ``contenders/``, ``report``.
"""
