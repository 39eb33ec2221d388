"""The Triton kernels as the CUDA implementation of the operators, where the CUDA library is not there."""

import importlib
from functools import cache

import torch

from lightops import _ext

# Module of lightops.kernels.triton -> the operators it implements, under the same names.
OPERATORS = {
    "bn_relu_conv2d": ("bn_relu_conv2d",),
    "conv1x1_bn_act": ("conv1x1_bn_act",),
    "dense_block": ("dense_block", "dense_block_"),
    "depthwise_pointwise": ("depthwise_pointwise",),
    "fire": ("fire",),
    "head": ("head",),
    "stem": ("stem", "stem_out"),
    "transition": ("transition", "transition_out"),
}


@cache
def reason() -> str:
    """Why Triton does not serve CUDA tensors in this process; "" once its kernels are registered."""
    if why := _ext.triton_reason() or _ext.cpu_reason():
        return why
    if not _ext.cuda_reason():
        return "the CUDA library serves the operators in this process (LIGHTOPS_CUDA=0 at build time leaves it out)"
    register()
    return ""


def register() -> None:
    """Imports the kernels and gives them to the dispatcher for CUDA tensors."""
    for module, names in OPERATORS.items():
        kernels = importlib.import_module(f"lightops.kernels.triton.{module}")
        for name in names:
            torch.library.impl(f"lightops::{name}", "CUDA", getattr(kernels, name))
