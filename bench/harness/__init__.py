"""Contenders timed against each other in one process, and what is made of the times.

=================  ====================================================================================
``command``        the command line: a process for each number of threads, the report
``benchmark``      what makes one benchmark: shapes, contenders, columns, summary
``gemm``           the GEMM benchmark: ``shapes`` (M, K, N), ``problem`` (operands, and the exact result
                   on a sample of outputs), ``contenders/`` (one object for each way to compute it:
                   what it delivers, whether it is installed)
``machine``        the CPU, its cores, the versions; pins this process to as many cores as threads
``lists``          shape lists: JSON files
``timing``         interleaved samples; minimum, median, interquartile range
``peak``           the rate of vpdpbusd in this minute, from the native loop in ``bench/native``
``measure``        rows: check every contender, time all of them
``summary``        ratios and geometric means of the rows
``present``        terminal, Markdown, plot
=================  ====================================================================================
"""
