"""Kernels other than the CPU's: what belongs to the CUDA library on the Python side, and the Triton kernels."""
