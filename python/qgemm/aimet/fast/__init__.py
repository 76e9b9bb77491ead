"""What ``qgemm.aimet.accelerate`` puts in place of the forwards of a simulation: one class a kind of module.

``watch``: what a cached result was made from, and whether that has changed. ``grids``: tensors that carry their bytes.
``quantizers``: AIMET's own quantizers, on our kernels. ``modules``: the layers. Needs torch and aimet_torch.
"""
