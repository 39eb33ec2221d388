"""Triton kernels of the same ops, with the schemas of `torch.ops.lightops`. Importing this package imports triton."""
