"""Fused modules as modules: copies, pickles, state, attributes, containers, threads."""

import copy
import io
import pickle
import threading
import warnings

import pytest
import torch
from torch import nn

from lightops.modules import DenseBlock, FallbackWarning, Fire, FusedModule, FusedSequential

from .blocks import CASES, assert_fused, close, image, make


def _copies(m: nn.Module) -> dict[str, nn.Module]:
    file = io.BytesIO()
    torch.save(m, file)
    file.seek(0)
    return {
        "deepcopy": copy.deepcopy(m),
        "pickle": pickle.loads(pickle.dumps(m)),
        "torch.save": torch.load(file, weights_only=False),
    }


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
@pytest.mark.parametrize("name", CASES)
def test_copies_are_independent_and_whole(name: str, used: bool) -> None:
    stock, fused = make(name, torch.float64)
    x = image(name, torch.float64)
    with torch.no_grad():
        want = stock(x)
        if used:
            fused(x)
        for how, twin in _copies(fused).items():
            assert type(twin) is type(fused), how
            assert twin._modules is twin._stock._modules, how
            assert twin._stock is not fused._stock, how
            close(twin(x), want, torch.float64)
            assert_fused(twin)
            for p in twin.parameters():
                p.mul_(2)
            close(fused(x), want, torch.float64)


def test_a_pickle_holds_no_packed_weights() -> None:
    stock, fused = make("conv1x1_bn_act")
    with torch.no_grad():
        fused(image("conv1x1_bn_act"))
    assert len(pickle.dumps(fused)) < len(pickle.dumps(stock)) + 4096


@pytest.mark.parametrize("name", CASES)
def test_state_dict_is_stock(name: str) -> None:
    stock, fused = make(name)
    a, b = stock.state_dict(), fused.state_dict()
    assert list(a) == list(b)
    assert a._metadata == b._metadata
    assert [n for n, _ in stock.named_modules()] == [n for n, _ in fused.named_modules()]
    assert [n for n, _ in stock.named_parameters()] == [n for n, _ in fused.named_parameters()]
    assert not stock.load_state_dict(b, strict=True).missing_keys
    assert not fused.load_state_dict(a, strict=True).missing_keys


def test_attributes_are_the_stock_blocks() -> None:
    stock, fused = make("inverted_residual")
    assert fused.use_res_connect is True
    assert fused.out_channels == stock.out_channels
    fused.use_res_connect = False
    assert fused._stock.use_res_connect is False
    x = image("inverted_residual")
    stock.use_res_connect = False
    with torch.no_grad():
        close(fused(x), stock(x), torch.float32)
    assert_fused(fused)
    with pytest.raises(AttributeError, match="no_such_thing"):
        fused.no_such_thing  # noqa: B018
    fused.extra = 3
    del fused.extra
    assert not hasattr(fused, "extra")


def test_children_set_on_either_are_on_both() -> None:
    _, fused = make("fire")
    fused.squeeze = nn.Conv2d(16, 4, 1)
    assert fused._stock.squeeze is fused.squeeze
    fused._stock.register_buffer("note", torch.ones(1))
    assert "note" in fused.state_dict()


def test_repr_names_op_and_backend() -> None:
    _, fused = make("fire")
    assert "fire, stock=Fire" in repr(fused)
    with torch.no_grad():
        fused(image("fire"))
    assert "backend=cpu" in repr(fused)


def test_containers_behave() -> None:
    stock, fused = make("dense_block")
    assert isinstance(fused, DenseBlock)
    assert len(fused) == 3
    assert list(fused.keys()) == list(stock.keys())
    assert "denselayer2" in fused
    assert fused["denselayer1"] is fused.denselayer1
    _, chain = make("sequential")
    assert isinstance(chain, nn.Sequential)
    assert isinstance(chain, FusedSequential)
    assert len(chain) == 5
    assert [type(m) for m in chain] == [type(m) for m in chain._stock]
    assert chain[0][0].in_channels == 3
    assert chain[-1] is chain._modules["4"]
    assert type(chain[:2]) is nn.Sequential
    _, plain = make("fire")
    assert plain
    with pytest.raises(TypeError):
        len(plain)


def test_appending_to_a_fused_sequential() -> None:
    stock, fused = make("sequential", torch.float64)
    x = image("sequential", torch.float64)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        fused(x)
        for m in (stock, fused):
            m.append(nn.Sigmoid())
        close(fused(x), stock(x), torch.float64)
        for m in (stock, fused):
            del m[1]
            m[0][0] = nn.Conv2d(3, 8, 5, padding=2).double().eval()
            torch.nn.init.constant_(m[0][0].weight, 0.01)
            torch.nn.init.zeros_(m[0][0].bias)
        # The second run's names stand for other layers now: these run one by one.
        close(fused(x), stock(x), torch.float64)
    assert "1x1" in fused.last_reason or "Conv2d" in fused.last_reason


def test_from_stock_refuses_a_fused_module() -> None:
    _, fused = make("fire")
    with pytest.raises(TypeError, match=r"Fire\.from_stock: got a Fire"):
        Fire.from_stock(fused)


def test_apply_and_init_functions_reach_the_children() -> None:
    _, fused = make("fire")
    fused.apply(lambda m: nn.init.ones_(m.weight) if isinstance(m, nn.Conv2d) else None)
    assert (fused.squeeze.weight == 1).all()
    x = image("fire")
    with torch.no_grad():
        close(fused(x), fused._stock(x), torch.float32)
    assert_fused(fused)


def test_data_parallel_replicas_use_their_own_tensors() -> None:
    """`replicate` copies __dict__ and rebuilds the children; what the replica computes must come from the rebuilt
    ones.
    """
    _, fused = make("fire", torch.float64)
    x = image("fire", torch.float64)
    with torch.no_grad():
        want = fused(x)
        replica = fused._replicate_for_data_parallel()
        for key, child in fused._modules.items():
            replica._modules[key] = copy.deepcopy(child)
        close(replica(x), want, torch.float64)
        for p in replica.parameters():
            p.mul_(2)
        close(fused(x), want, torch.float64)
        close(replica(x), replica._stock.forward(x), torch.float64)


def test_stock_forward_follows_the_training_flag() -> None:
    _, fused = make("dense_block")
    fused.training = True
    assert fused._stock.training
    fused.eval()
    assert not fused._stock.training


@pytest.mark.parametrize("name", ["dense_block", "fire", "inverted_residual", "sequential"])
def test_threads(name: str) -> None:
    """8 Python threads on one module, while its weights are repacked in between."""
    _, fused = make(name)
    inputs = [image(name, seed=i) for i in range(8)]
    with torch.no_grad():
        want = [fused(x) for x in inputs]
    wrong: list[object] = []

    def work(i: int) -> None:
        try:
            with torch.no_grad():
                for n in range(100):
                    if n % 20 == i:
                        fused.apply(lambda m: None)
                        for runner in fused._runners:
                            runner.forget()
                    if not torch.equal(fused(inputs[i]), want[i]):
                        wrong.append((i, n))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_deepcopy_of_a_model_keeps_one_block_used_twice_one() -> None:
    _, fused = make("fire")
    model = nn.ModuleDict({"a": fused, "b": fused})
    twin = copy.deepcopy(model)
    assert twin["a"] is twin["b"]
    assert isinstance(twin["a"], FusedModule)


def test_more_arguments_go_to_stock() -> None:
    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
            return self.conv(x) * gain

    from lightops.modules import Conv1x1BNAct

    fused = Conv1x1BNAct.from_stock(Gain(), "conv", None, None)
    x = torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        a = fused(x)
        assert_fused(fused)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            b = fused(x, gain=3.0)
        torch.testing.assert_close(b, 3 * a)
        assert any(issubclass(w.category, FallbackWarning) for w in seen)
