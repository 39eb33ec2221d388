"""Training ops on tensors whose offsets pass 2^31: a channel slice of a buffer that large, for x and for the gradient.
Where an index wraps around, results differ from those of the same values stored densely (or the process ends).
"""

import pytest
import torch

from tests.ops.test_process import wide_slice

from .calls import calls

CALLS = calls(torch.bfloat16)
KERNELS = (
    "bn_act, batch relu",
    "bn_act_mean, batch relu",
    "bn_act_max_pool2d, batch relu",
    "bn_act_conv2d, 1x1, batch relu",
    "bn_act_conv2d, 1x1 pooled, batch relu",
    "bn_act_conv2d, 3x3, batch relu",
    "bn_act_conv2d, depthwise, batch relu",
    "bn_act_conv2d, depthwise strided, batch relu",
    "stem_train, relu",
    "fire_train",
    "dense_block_train, 3, batch",
    "dense_block_train, 0, batch",
)


def test_every_op_is_here() -> None:
    assert {name.split(",")[0].split(" ")[0] for name in CALLS} == {name.split(",")[0] for name in KERNELS}


@pytest.mark.parametrize("name", KERNELS)
def test_offsets_beyond_32_bits(name: str) -> None:
    call = CALLS[name]()
    x, *params = call.tensors
    dense = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    wide = wide_slice(x.detach()).requires_grad_()
    assert wide.shape[0] * wide.stride(0) > 2**31
    want, got = call.run(dense, *params), call.run(wide, *params)
    assert torch.equal(got, want)
    grad = torch.randn(want.shape, generator=torch.Generator().manual_seed(3)).to(want.dtype)
    wide_grad = wide_slice(grad) if grad.dim() == 4 else grad
    grads = torch.autograd.grad(got, [wide, *params], wide_grad)
    for a, b in zip(grads, torch.autograd.grad(want, [dense, *params], grad), strict=True):
        assert torch.equal(a, b)
