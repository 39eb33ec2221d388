"""Packed weights of the CUDA kernels: order, whole chunks, one rounding."""

import pytest
import torch

from lightops.kernels import cuda


@pytest.mark.parametrize("dtype", cuda.DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 8, 13])
def test_rows_are_whole_chunks_filled_with_zeros(dtype, channels):
    weight = torch.randn(5, channels, 3, 2)
    packed = cuda.pack_conv2d(weight, None, dtype)
    assert packed.shape[:2] == (6, 5)
    assert packed.shape[2] * dtype.itemsize % 16 == 0
    assert packed.is_contiguous()
    assert torch.equal(packed[..., channels:], torch.zeros_like(packed[..., channels:]))
    for tap in range(6):
        assert torch.equal(packed[tap, :, :channels], weight[:, :, tap // 2, tap % 2].to(dtype))


def test_flat_rows_run_over_taps_then_channels():
    weight = torch.randn(4, 3, 2, 2)
    packed = cuda.pack_conv2d(weight, None, torch.float32, flat=True)
    assert packed.shape == (4, 12)
    assert packed[1, 2 * 3 + 1] == weight[1, 1, 1, 0]


def test_depthwise():
    weight = torch.randn(9, 1, 3, 3)
    packed = cuda.pack_depthwise(weight, None, torch.float16)
    assert packed.shape == (9, 16)
    assert torch.equal(packed[4, :9], weight[:, 0, 1, 1].half())


def test_the_scale_is_folded_before_the_only_rounding():
    weight, scale = torch.randn(6, 5, 1, 1), torch.rand(6, dtype=torch.float64) * 3
    packed = cuda.pack_conv2d(weight, scale, torch.bfloat16)
    want = (weight.double() * scale.view(-1, 1, 1, 1)).bfloat16()
    assert torch.equal(packed[0, :, :5], want[:, :, 0, 0])
