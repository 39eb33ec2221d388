"""The checks that PyTorch runs on every module of its own, driven by the same `ModuleInfo` records, for our modules in
training and in evaluation.
"""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.common_device_type import instantiate_device_type_tests
from torch.testing._internal.common_modules import FunctionInput, ModuleInfo, ModuleInput, TrainEvalMode, modules
from torch.testing._internal.common_utils import TestCase, freeze_rng_state

from ..blocks import CASES, image, make


def _class(name: str) -> type[nn.Module]:
    """A case as a class: constructing it gives `make(name)`'s fused twin."""
    return type(name, (nn.Module,), {"__new__": lambda cls: make(name)[1]})


def _inputs(name: str):
    def inputs(module_info, device, dtype, requires_grad, training, **kwargs) -> list[ModuleInput]:
        def stock_result(module: nn.Module, parameters: list, x: Tensor) -> Tensor:
            stock = make(name)[0].to(x.dtype).train(module.training)
            stock.load_state_dict(module.state_dict())
            return stock(x)

        sizes = ((2, 6, 5), (3, 8, 8))
        return [
            ModuleInput(
                FunctionInput(),
                FunctionInput(image(name, torch.float64, *size).to(dtype).requires_grad_(requires_grad)),
                reference_fn=stock_result,
            )
            for size in sizes
        ]

    return inputs


MODULES = [
    ModuleInfo(_class(name), module_inputs_func=_inputs(name), dtypes=(torch.float64,), supports_gradgrad=False)
    for name in CASES
]
_BOTH = {"train_eval_mode": TrainEvalMode.train_and_eval}


def _cases(info: ModuleInfo, device: str, dtype: torch.dtype, training: bool, requires_grad: bool = False):
    """(module, x, record) of every input, the module in its mode."""
    records = info.module_inputs_func(info, device=device, dtype=dtype, requires_grad=requires_grad, training=training)
    for record in records:
        module = info.module_cls().to(dtype).train(training)
        yield module, record.forward_input.args[0], record


class TestModuleInfo(TestCase):
    @modules(MODULES, **_BOTH)
    def test_forward(self, device, dtype, module_info, training):
        for module, x, record in _cases(module_info, device, dtype, training):
            with freeze_rng_state():
                # The reference first: a training forward moves the statistics.
                want = record.reference_fn(module, x)
                torch.testing.assert_close(module(x), want, rtol=1e-9, atol=1e-9)
                assert module.last_reason is None

    @modules(MODULES, **_BOTH)
    def test_repr(self, device, dtype, module_info, training):
        for module, _, _ in _cases(module_info, device, dtype, training):
            assert type(module).__name__ in repr(module)
            assert module.op in str(module)

    @modules(MODULES, **_BOTH)
    def test_pickle(self, device, dtype, module_info, training):
        for module, x, _ in _cases(module_info, device, dtype, training):
            twin = pickle.loads(pickle.dumps(module))
            torch.testing.assert_close(twin(x), module(x))
            file = io.BytesIO()
            torch.save(module, file)
            file.seek(0)
            torch.testing.assert_close(torch.load(file, weights_only=False)(x), module(x))

    @modules(MODULES, **_BOTH)
    def test_save_and_load(self, device, dtype, module_info, training):
        for module, x, _ in _cases(module_info, device, dtype, training):
            with torch.no_grad():
                for p in module.parameters():
                    p.mul_(1.25)
            other = module_info.module_cls().to(dtype).train(training)
            other.load_state_dict(module.state_dict(), strict=True)
            torch.testing.assert_close(other(x), module(x))

    @modules(MODULES, **_BOTH)
    def test_non_contiguous_inputs_and_gradients(self, device, dtype, module_info, training):
        for module, x, _ in _cases(module_info, device, dtype, training):
            strange = torch.stack((x, x), -1)[..., 0].requires_grad_()
            plain = x.clone().requires_grad_()
            assert not strange.is_contiguous()
            twin = copy.deepcopy(module)
            outcomes = []
            for m, leaf in ((module, strange), (twin, plain)):
                y = m(leaf)
                grad = torch.stack((torch.ones_like(y), torch.ones_like(y)), -1)[..., 0]
                y.backward(grad if m is module else grad.contiguous())
                outcomes.append((y, leaf.grad, *(p.grad for p in m.parameters())))
            for got, want in zip(*outcomes, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)

    @modules(MODULES, **_BOTH)
    def test_grad(self, device, dtype, module_info, training):
        for module, x, _ in _cases(module_info, device, dtype, training, requires_grad=True):
            x = x.detach()[:, :, :4, :4].requires_grad_()
            names = [name for name, _ in module.named_parameters()]
            state = copy.deepcopy(dict(module.named_buffers()))

            def run(x, *parameters, module=module, names=names, state=state):
                buffers = {name: t.clone() for name, t in state.items()}
                given = dict(zip(names, parameters, strict=True))
                return torch.func.functional_call(module, {**given, **buffers}, (x,))

            leaves = [p.detach().requires_grad_() for p in module.parameters()]
            assert torch.autograd.gradcheck(run, (x, *leaves), fast_mode=True, nondet_tol=0.0, atol=1e-4)

    @modules(MODULES, **_BOTH)
    def test_gradgrad_is_refused(self, device, dtype, module_info, training):
        for module, x, _ in _cases(module_info, device, dtype, training, requires_grad=True):
            (grad,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
            with pytest.raises(NotImplementedError, match="unswap_"):
                grad.square().sum().backward()

    @modules(MODULES, **_BOTH)
    def test_memory_format(self, device, dtype, module_info, training):
        for module, x, record in _cases(module_info, device, dtype, training):
            want = record.reference_fn(module, x)
            for of_input in (torch.contiguous_format, torch.channels_last):
                for of_module in (torch.contiguous_format, torch.channels_last):
                    twin = copy.deepcopy(module).to(memory_format=of_module)
                    y = twin(x.contiguous(memory_format=of_input))
                    torch.testing.assert_close(y, want, rtol=1e-9, atol=1e-9)
                    if y.dim() == 4 and of_input is of_module:
                        assert y.is_contiguous(memory_format=of_input)

    @modules(MODULES, **_BOTH)
    def test_dtype_and_copies(self, device, dtype, module_info, training):
        for module, x, _ in _cases(module_info, device, dtype, training):
            assert module.float().double()(x).dtype is dtype
            empty = copy.deepcopy(module).to_empty(device=device)
            empty.load_state_dict(module.state_dict())
            torch.testing.assert_close(empty(x), module(x))

    @modules(MODULES, **_BOTH)
    def test_zero_grad_and_modes(self, device, dtype, module_info, training):
        for module, x, _ in _cases(module_info, device, dtype, training, requires_grad=True):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                module(x).sum().backward()
            module.zero_grad(set_to_none=False)
            assert all(not p.grad.any() for p in module.parameters())
            module.train(not training)
            assert all(m.training is not training for m in module.modules())
            module(x)
            module.train(training)
            module(x)
            assert module.last_reason is None


instantiate_device_type_tests(TestModuleInfo, globals(), only_for="cpu")
