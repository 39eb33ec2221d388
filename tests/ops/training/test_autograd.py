"""Derivatives, schemas and fakes of the training ops, the native kernels and the reference behind them alike."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightops.ops.training._op import KERNELS, NAMESPACE
from lightops.testing.compare import bitwise_equal

from .calls import calls

CALLS = calls()
# One of each op, for what does not depend on the arguments.
ONE_EACH = (
    "bn_act, batch relu",
    "bn_act_mean, batch relu",
    "bn_act_max_pool2d, batch relu",
    "bn_act_conv2d, 1x1, batch relu",
    "bn_act_conv2d, depthwise, batch relu",
    "stem_train, relu",
    "fire_train",
    "dense_block_train, 3, batch",
)


@pytest.fixture(params=["native", "reference"])
def backend(request, monkeypatch) -> str:
    if request.param == "reference":
        monkeypatch.setenv("LIGHTOPS_BACKEND", "reference")
    return request.param


def test_every_op_is_called() -> None:
    differentiable = {name for name in KERNELS if not name.endswith("_backward")} - {"batch_stats"}
    assert {name.split(",")[0].split(" ")[0] for name in CALLS} == differentiable


@pytest.mark.parametrize("name", CALLS)
def test_gradcheck(name: str, backend: str) -> None:
    call = CALLS[name]()
    # Two forwards and two backwards give the same bits.
    assert torch.autograd.gradcheck(call.run, call.tensors, atol=1e-6, nondet_tol=0.0)


class _Recorder(TorchDispatchMode):
    """The calls of our ops, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == NAMESPACE:
            self.seen.append((func, args))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name: str) -> None:
    """Forward and backward op: schema, fake, autograd registration, tracing with dynamic shapes."""
    call = CALLS[name]()
    with _Recorder() as recorder:
        call.run(*call.tensors).sum().backward()
    assert any(func._opname.endswith("_backward") for func, _ in recorder.seen)
    for func, args in recorder.seen:
        torch.library.opcheck(func, _as_given(args, func), rtol=1e-6, atol=1e-6)


def _as_given(args, func):
    """A forward's tensors as leaves that want gradients; a backward's without."""
    wants = not func._opname.endswith("_backward") and func._opname != "batch_stats"

    def leaf(t):
        return t.detach().clone().requires_grad_(wants) if isinstance(t, Tensor) and t.is_floating_point() else t

    names = [argument.name for argument in func._schema.arguments]
    fixed = {"mean", "var", "mean_x", "var_x", "frozen", "masks"}
    return tuple(
        a if name in fixed else ([leaf(t) for t in a] if isinstance(a, list) else leaf(a))
        for name, a in zip(names, args, strict=False)
    )


@pytest.mark.parametrize("name", ONE_EACH)
def test_double_backward_says_what_to_do(name: str) -> None:
    call = CALLS[name]()
    (grad,) = torch.autograd.grad(call.run(*call.tensors).sum(), call.tensors[:1], create_graph=True)
    op = name.split(",")[0]
    with pytest.raises(NotImplementedError, match=rf"{op}: no double backward.*unswap_"):
        grad.sum().backward()


@pytest.mark.parametrize("name", ONE_EACH)
def test_gradients_only_where_wanted(name: str, backend: str) -> None:
    call = CALLS[name]()
    grad = torch.randn_like(call.run(*call.tensors))
    wanted = torch.autograd.grad(call.run(*call.tensors), call.tensors, grad)
    for mix in itertools.product((True, False), repeat=min(3, len(call.tensors))):
        if not any(mix):
            continue
        flags = [*mix, *(mix[-1] for _ in call.tensors[3:])]
        tensors = [t.detach().requires_grad_(flag) for t, flag in zip(call.tensors, flags, strict=True)]
        call.run(*tensors).backward(grad)
        for t, flag, want in zip(tensors, flags, wanted, strict=True):
            assert (t.grad is not None) == flag
            if flag:
                torch.testing.assert_close(t.grad, want, rtol=1e-12, atol=1e-12)


GRADIENTS = {
    "expanded": lambda g: g[:1, :1].expand_as(g) if g.dim() == 2 else g[:1, :1, :1, :1].expand_as(g),
    "zeros": torch.zeros_like,
    "contiguous": lambda g: g.clone(memory_format=torch.contiguous_format),
    "transposed": lambda g: g.transpose(-1, -2).contiguous().transpose(-1, -2),
    "slice": lambda g: torch.cat((g, g), 1)[:, g.shape[1] :],
    "offset": lambda g: torch.empty(g.numel() + 1, dtype=g.dtype)[1:].view(g.shape).copy_(g),
}


@pytest.mark.parametrize("layout", GRADIENTS)
@pytest.mark.parametrize("name", ONE_EACH)
def test_any_layout_of_the_gradient(name: str, layout: str) -> None:
    call = CALLS[name]()
    out = call.run(*call.tensors)
    grad = GRADIENTS[layout](torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(5)))
    kept = grad.clone()
    got = torch.autograd.grad(out, call.tensors, grad)
    want = torch.autograd.grad(call.run(*call.tensors), call.tensors, grad.contiguous())
    assert torch.equal(grad, kept), "the incoming gradient is not ours to change"
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


INPUTS = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "slice": lambda x: torch.cat((x, x, x), 1)[:, x.shape[1] : 2 * x.shape[1]],
    "slice of channels_last": lambda x: torch.cat((x, x), 1).contiguous(memory_format=torch.channels_last)[
        :, : x.shape[1]
    ],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "expanded": lambda x: x[:1].expand_as(x),
    "offset": lambda x: torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view(x.shape).copy_(x),
}


@pytest.mark.parametrize("layout", INPUTS)
@pytest.mark.parametrize("name", ONE_EACH)
def test_any_layout_of_the_input(name: str, layout: str) -> None:
    call = CALLS[name]()
    x = INPUTS[layout](call.tensors[0].detach())
    given, plain = x.detach().requires_grad_(), x.detach().contiguous().requires_grad_()
    out, want = call.run(given, *call.tensors[1:]), call.run(plain, *call.tensors[1:])
    torch.testing.assert_close(out, want, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(want)
    for a, b in zip(
        torch.autograd.grad(out, [given, *call.tensors[1:]], grad),
        torch.autograd.grad(want, [plain, *call.tensors[1:]], grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ONE_EACH)
def test_weight_gradients_take_the_weights_layout(name: str) -> None:
    call = CALLS[name]()
    tensors = [
        t.detach().contiguous(memory_format=torch.channels_last).requires_grad_() if t.dim() == 4 else t
        for t in call.tensors
    ]
    call.run(*tensors).sum().backward()
    for t in tensors[1:]:
        assert t.grad.stride() == t.stride()


# The gradient of a stem's image is the reference's, whose bits are torch's own.
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", [name for name in ONE_EACH if not name.startswith("stem")])
def test_threads_change_no_bit(name: str, threads: int) -> None:
    call = calls(torch.float32)[name]()
    kernel = KERNELS[name.split(",")[0]]
    if kernel.native is None:
        pytest.skip("no native kernel in this build")

    def everything() -> list[Tensor]:
        out = call.run(*call.tensors)
        return [out, *torch.autograd.grad(out, call.tensors, torch.ones_like(out))]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        want = everything()
        torch.set_num_threads(threads)
        assert all(bitwise_equal(a, b) for a, b in zip(everything(), want, strict=True))
    finally:
        torch.set_num_threads(before)
