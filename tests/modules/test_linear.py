"""The classifier alone: a linear layer on `[N, C]` features as the head op."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from lightops.modules import FallbackWarning, FusedModule, FusedSequential, Linear, Run
from lightops.modules.linear import LinearPiece

from .blocks import assert_fused, close, untrivial

IN, OUT = 760, 720  # above the least size, no multiple of a panel


def _pair(dtype: torch.dtype = torch.float32, bias: bool = True) -> tuple[nn.Linear, Linear]:
    stock, twin = (untrivial(nn.Linear(IN, OUT, bias)).eval().to(dtype) for _ in range(2))
    return stock, Linear.from_stock(twin)


def _features(n: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, IN, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("n", [1, 2, 17])
def test_equals_stock(n: int, dtype: torch.dtype, bias: bool) -> None:
    stock, fused = _pair(dtype, bias)
    x = _features(n, dtype)
    with torch.no_grad():
        want = copy.deepcopy(stock).double()(x.double()).to(dtype)
        close(fused(x), want, dtype)
    assert_fused(fused)


def test_integers_are_exact() -> None:
    stock, fused = _pair()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for layer in (stock, fused):
            generator.manual_seed(2)
            layer.weight.copy_(torch.randint(-3, 4, (OUT, IN), generator=generator))
            layer.bias.copy_(torch.randint(-9, 10, (OUT,), generator=generator))
        x = torch.randint(-5, 6, (5, IN), generator=generator).float()
        assert torch.equal(fused(x), stock(x))
    assert_fused(fused)


def test_strided_features() -> None:
    """Columns of a wider tensor, every other row, a transposed tensor."""
    stock, fused = _pair(torch.float64)
    x = _features(4, torch.float64)
    wide = torch.full((8, IN + 9), float("nan"), dtype=x.dtype)
    wide[::2, 3 : IN + 3] = x
    with torch.no_grad():
        for given in (wide[::2, 3 : IN + 3], x.t().contiguous().t(), x[:1].expand(4, IN)):
            got = fused(given)
            torch.testing.assert_close(got, stock(given), rtol=1e-12, atol=1e-12)
            assert got.is_contiguous()
    assert_fused(fused)


def test_nan_stays_in_its_row() -> None:
    stock, fused = _pair()
    x = _features()
    x[1, 700] = float("nan")
    with torch.no_grad():
        assert torch.equal(fused(x).isnan(), stock(x).isnan())
    assert_fused(fused)


@pytest.mark.parametrize("shape", [(IN,), (2, 3, IN), (2, 5, 3, IN)], ids=str)
def test_other_ranks_are_stock(shape: tuple[int, ...]) -> None:
    stock, fused = _pair()
    x = torch.randn(shape)
    with torch.no_grad(), pytest.warns(FallbackWarning, match=f"{len(shape)}-D"):
        assert torch.equal(fused(x), stock(x))
    with torch.no_grad():
        close(fused(_features()), stock(_features()), torch.float32)
    assert_fused(fused)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bits_are_stock(dtype: torch.dtype) -> None:
    stock, fused = _pair()
    stock, fused, x = stock.to(dtype), fused.to(dtype), _features(dtype=dtype)
    with torch.no_grad(), pytest.warns(FallbackWarning, match=str(dtype)):
        assert torch.equal(fused(x), stock(x))


def test_autocast_is_stock() -> None:
    stock, fused = _pair()
    x = _features()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), pytest.warns(FallbackWarning, match="bfloat16"):
        assert torch.equal(fused(x), stock(x))


@pytest.mark.parametrize("size", [(128, 10), (64, 8191), (2900, 2900)], ids=str)
def test_sizes_left_to_stock(size: tuple[int, int]) -> None:
    stock = nn.Linear(*size).eval()
    x = torch.randn(2, size[0])
    with torch.no_grad(), pytest.warns(FallbackWarning, match="left to stock"):
        assert torch.equal(Linear.from_stock(copy.deepcopy(stock))(x), stock(x))


def test_gradients_and_wrong_widths_are_stocks() -> None:
    stock, fused = _pair()
    x = _features()
    fused(x).sum().backward()
    assert fused.last_reason is None
    stock(x).sum().backward()
    assert torch.equal(fused.weight.grad, stock.weight.grad)
    with torch.no_grad(), pytest.warns(FallbackWarning, match="input shape"):
        assert fused(x[:0]).shape == (0, OUT)
    with (
        torch.no_grad(),
        pytest.raises(RuntimeError, match="shapes cannot be multiplied"),
        pytest.warns(FallbackWarning, match="input shape"),
    ):
        fused(x[:, 1:])


EDITS = {
    "in place": lambda m: m.weight.mul_(2),
    "through data": lambda m: m.weight.data.mul_(2),
    "another parameter": lambda m: setattr(m, "weight", nn.Parameter(m.weight * 2)),
    "bias": lambda m: m.bias.add_(1),
    "no bias": lambda m: setattr(m, "bias", None),
    "loaded": lambda m: m.load_state_dict({k: v * 3 for k, v in m.state_dict().items()}),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edits_are_seen(edit: str) -> None:
    stock, fused = _pair()
    x = _features()
    with torch.no_grad():
        before = fused(x)
        for layer in (stock, fused):
            EDITS[edit](layer)
        assert not torch.equal(fused(x), before)
        close(fused(x), stock(x), torch.float32)
    assert_fused(fused)


def test_it_is_a_linear_layer() -> None:
    _, fused = _pair()
    assert isinstance(fused, nn.Linear)
    assert (fused.in_features, fused.out_features) == (IN, OUT)
    assert list(fused.state_dict()) == ["weight", "bias"]
    calls = []
    handle = fused.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        fused(_features())
    handle.remove()
    assert calls == [1]
    assert_fused(fused)
    for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert type(twin) is Linear
        assert twin.weight is not fused.weight
        with torch.no_grad():
            assert torch.equal(twin(_features()), fused(_features()))


def test_a_forward_of_its_own_is_kept() -> None:
    stock = untrivial(nn.Linear(IN, OUT)).eval()
    stock.forward = lambda x: x * 2
    fused: FusedModule = Linear.from_stock(stock)
    with torch.no_grad(), pytest.warns(FallbackWarning, match="overridden"):
        assert torch.equal(fused(_features()), _features() * 2)


def test_in_a_sequential_behind_dropout() -> None:
    stock = nn.Sequential(nn.Dropout(0.5), untrivial(nn.Linear(IN, OUT))).eval()
    fused = FusedSequential.from_stock(copy.deepcopy(stock), [Run(("0", "1"), LinearPiece("1", neutral=("0",)))])
    x = _features()
    with torch.no_grad():
        close(fused(x), stock(x), torch.float32)
        assert_fused(fused)
        assert torch.equal(fused(x[:, None]), stock(x[:, None]))  # walked by stock: no features of a pooled map
        fused.train()
        with pytest.warns(FallbackWarning, match="dropout"):
            assert (fused(x) - stock(x)).abs().max() > 0.1


def test_compiled_graphs_keep_the_stock_product() -> None:
    torch._dynamo.reset()
    _, fused = _pair()
    counter = CompileCounterWithBackend("aot_eager")
    with torch.no_grad():
        got = torch.compile(fused, fullgraph=True, backend=counter)(_features())
        close(got, fused(_features()), torch.float32)
    assert not any("lightops" in str(node.target) for graph in counter.graphs for node in graph.graph.nodes)
