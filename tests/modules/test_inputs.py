"""Whatever a fused module is given, it answers as its stock block does: the same result, or the same error in the same
words. After an error nothing has changed, not even what stock has moved by then, and the next call is right.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightops.modules import FallbackWarning

from .blocks import CASES, image, make

INPUTS: dict[str, Callable[[Tensor], Any]] = {
    "twice the channels": lambda x: torch.cat([x, x], 1),
    "a channel short": lambda x: x[:, :-1],
    "no channel": lambda x: x[:, :0],
    "float64": lambda x: x.double(),
    "bfloat16": lambda x: x.bfloat16(),
    "float16": lambda x: x.half(),
    "int32": lambda x: x.int(),
    "bool": lambda x: x > 0,
    "complex64": lambda x: x + 0j,
    "float8": lambda x: x.to(torch.float8_e4m3fn),
    "another device": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "mkldnn": lambda x: x.to_mkldnn(),
    "quantized": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8),
    "nested": lambda x: torch.nested.nested_tensor([*x]),
    "None": lambda x: None,
    "list": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "2-D": lambda x: x[0, 0],
    "3-D": lambda x: x[0],
    "5-D": lambda x: x[None],
    "no row": lambda x: x[:, :, :0],
    "no column": lambda x: x[:, :, :, :0],
    "no image": lambda x: x[:0],
    "one pixel": lambda x: x[:1, :, :1, :1],
    "one pixel an image": lambda x: x[:, :, :1, :1],
    "one row": lambda x: x[:, :, :1],
    "one column of one image": lambda x: x[:1, :, :, :1],
    "2x2": lambda x: x[:, :, :2, :2],
    "4x4 of one image": lambda x: x[:1, :, :4, :4],
}
MODES = ("evaluation", "evaluation with gradients", "training")


def _answer(module: nn.Module, x: Any, mode: str) -> tuple[Any, list[Tensor | None]] | Exception:
    """The result and all gradients, or the error."""
    grads = mode != "evaluation"
    if grads and isinstance(x, Tensor) and x.is_floating_point() and x.layout is torch.strided and not x.is_nested:
        x = x.detach().clone(memory_format=torch.preserve_format)
        x.requires_grad_(x.dtype != torch.float8_e4m3fn)
    try:
        with torch.set_grad_enabled(grads):
            y = module(x)
    except Exception as error:
        return error
    if not y.requires_grad or y.device.type == "meta" or y.layout is not torch.strided:
        return y.detach(), []
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(y.dtype))
    return y.detach(), [x.grad, *(p.grad for p in module.parameters())]


def _assert_alike(got: Tensor, want: Tensor) -> None:
    assert (got.dtype, got.shape, got.device, got.layout) == (want.dtype, want.shape, want.device, want.layout)
    if want.device.type == "meta":
        return
    got, want = (t.dequantize() if t.is_quantized else t.to_dense() if t.is_mkldnn else t for t in (got, want))
    # 16-bit values are summed in 16 bits here and there by stock, and never by lightops.
    unit = max(torch.finfo(want.dtype).eps, 1e-4) if want.is_floating_point() else 0
    size = want.abs().nan_to_num().max().item() if want.numel() else 0
    torch.testing.assert_close(got, want, rtol=10 * unit, atol=unit * max(size, 1), equal_nan=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", INPUTS)
@pytest.mark.parametrize("name", CASES)
def test_answers_as_stock(name: str, what: str, mode: str) -> None:
    stock, fused = (m.train(mode == "training") for m in make(name))
    good = image(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = copy.deepcopy(fused.state_dict())
        want, got = (_answer(m, INPUTS[what](good), mode) for m in (stock, fused))
        if isinstance(want, Exception):
            assert isinstance(got, Exception), f"stock raises {want!r}"
            assert type(got) is type(want)
            if name == "transition" and mode == "evaluation" and "too small" in str(want):
                assert "a 2x2 pool needs 2 rows and 2 columns" in str(got)  # the kernel's own words
            elif what != "nested":  # where stock's words name what happens to be compiled in
                assert str(got) == str(want)
            for key, t in fused.state_dict().items():
                assert torch.equal(t, before[key]), key
            stock.load_state_dict(before)
        else:
            assert not isinstance(got, Exception), got
            _assert_alike(got[0], want[0])
            assert len(got[1]) == len(want[1])
            for a, b in zip(got[1], want[1], strict=True):
                assert (a is None) == (b is None)
                if b is not None:
                    _assert_alike(a, b)
        for (key, t), other in zip(fused.state_dict().items(), stock.state_dict().values(), strict=True):
            torch.testing.assert_close(t, other, rtol=1e-4, atol=1e-5, equal_nan=True, msg=key)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        good = image(name, seed=3)
        _assert_alike(_answer(fused, good, mode)[0], _answer(stock, good, mode)[0])
