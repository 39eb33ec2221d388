"""Each fused module against its stock block: numbers, dtypes, layouts."""

import pytest
import torch
from torch import Tensor

from lightops.modules import FallbackWarning, Fire

from .blocks import CASES, assert_fused, close, image, make

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def _layouts(x: Tensor) -> dict[str, Tensor]:
    """The same values under the strides a caller may have."""
    n, c, h, w = x.shape
    wide = torch.zeros(n, c + 5, h, w, dtype=x.dtype).contiguous(memory_format=torch.channels_last)
    wide[:, 2 : c + 2] = x
    offset = torch.zeros(x.numel() + 1, dtype=x.dtype)
    offset[1:] = x.flatten()
    return {
        "nchw": x.contiguous(),
        "nhwc": x.contiguous(memory_format=torch.channels_last),
        "channel slice": wide[:, 2 : c + 2],
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "offset": offset[1:].view(x.shape),
        "cropped": torch.nn.functional.pad(x, (1, 2, 3, 1))[:, :, 3:-1, 1:-2],
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_stock(name: str, dtype: torch.dtype) -> None:
    stock, fused = make(name, dtype)
    exact, _ = make(name, torch.float64)
    exact.load_state_dict({k: v.double() for k, v in stock.state_dict().items()})
    x = image(name, dtype)
    with torch.inference_mode():
        close(fused(x).double().to(dtype), exact(x.double()).to(dtype), dtype)
        assert fused(x).dtype == stock(x).dtype
    assert_fused(fused)


@pytest.mark.parametrize("name", CASES)
def test_layouts(name: str) -> None:
    """Any strides in; out as stock returns them."""
    stock, fused = make(name, torch.float64)
    x = image(name, torch.float64)
    with torch.no_grad():
        want = stock(x)
        for layout, given in _layouts(x).items():
            before = given.clone()
            got = fused(given)
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10, msg=lambda m, layout=layout: f"{layout}: {m}")
            assert torch.equal(given, before), layout
            if layout in ("nchw", "nhwc"):
                assert got.stride() == stock(given).stride(), layout
    assert_fused(fused)


# torchvision's inverted residual adds an NCHW x to a channels_last branch, where PyTorch follows x; inside a net x is
# channels_last by then.
@pytest.mark.parametrize("name", [n for n in CASES if n != "inverted_residual"])
def test_channels_last_weights_give_channels_last(name: str) -> None:
    stock, fused = make(name)
    stock.to(memory_format=torch.channels_last)
    fused.to(memory_format=torch.channels_last)
    x = image(name)
    with torch.no_grad():
        assert fused(x).stride() == stock(x).stride()
    assert_fused(fused)


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("stem", "transition", "sequential")])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 1)], ids=str)
def test_ambiguous_layouts(name: str, size: tuple[int, int]) -> None:
    """With one row or column NCHW and NHWC look alike: values and strides are stock's."""
    stock, fused = make(name, torch.float64)
    x = image(name, torch.float64, 1, *size)
    with torch.no_grad():
        want, got = stock(x), fused(x)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    assert got.stride() == want.stride()


@pytest.mark.parametrize("name", CASES)
def test_nan_reaches_what_stock_says(name: str) -> None:
    stock, fused = make(name, torch.float64)
    x = image(name, torch.float64)
    x[0, 1, 3, 4] = float("nan")
    x[1, 0, 5, 6] = float("inf")
    with torch.no_grad():
        want, got = stock(x), fused(x)
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.isinf(), want.isinf())


@pytest.mark.parametrize("name", CASES)
def test_autocast_computes_in_its_dtype(name: str) -> None:
    stock, fused = make(name)
    x = image(name).bfloat16()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        want, got = stock(x), fused(x)
    assert_fused(fused)
    close(got, want, torch.bfloat16)


FLOAT32_UNDER_AUTOCAST = {
    "conv1x1_bn_act": True,
    "depthwise_pointwise": True,
    "fire": True,
    "fire_complex": True,
    "stem": True,
    "bn_relu_conv2d": False,
    "dense_block": False,
    "fire_bypass": False,
    "inverted_residual": False,
    "transition": False,
}


@pytest.mark.parametrize("name", FLOAT32_UNDER_AUTOCAST)
def test_autocast_of_a_float32_input(name: str) -> None:
    """Cast first where stock casts first; stock code where it normalises or adds the float32 x."""
    stock, fused = make(name)
    x = image(name)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        want = stock(x)
        if FLOAT32_UNDER_AUTOCAST[name]:
            close(fused(x), want, torch.bfloat16)
            assert_fused(fused)
        else:
            with pytest.warns(FallbackWarning, match="autocast"):
                assert torch.equal(fused(x), want)


@pytest.mark.parametrize("winograd", [0, 2, 4])
def test_winograd_option(winograd: int) -> None:
    stock, _ = make("fire")
    x = image("fire")
    with torch.no_grad():
        want = stock(x)
        got = Fire.from_stock(stock, winograd=winograd)(x)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
