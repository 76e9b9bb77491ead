"""Networks that the benchmarks build themselves, with random weights: ``audio`` (Conv1d), ``unet`` (deconvolutions)."""
