"""Swapped nets under torch.compile, torch.export, functional_call, torch.func, torch.fx and TorchScript."""

import importlib
import io
import warnings
from collections import Counter

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import lightops
from lightops.modules import DenseBlock, DepthwisePointwise, FallbackWarning, Fire, FusedResidual, InvertedResidual

from .nets import FAMILIES, make, small

FUSED_OPS = {
    "densenet": {"dense_block", "stem", "transition"},
    "squeezenet": {"conv1x1_bn_act", "fire", "head", "max_pool2d", "stem"},
    "mobilenet": {"conv1x1_bn_act", "depthwise_pointwise", "inverted_residual", "stem"},
    "mobilenet_v1": {"depthwise_pointwise", "head", "stem"},
}


# A compilation takes 5 to 10 s; two families cover every module that the other two use.
QUICK = [pytest.param(f, marks=() if f in ("densenet", "squeezenet") else pytest.mark.long) for f in FAMILIES]
EXPORTS = [
    pytest.param(f, strict, id=f"{f}-{strict}", marks=pytest.mark.long if strict and f != "squeezenet" else ())
    for f in FAMILIES
    for strict in (False, True)
]


def _image(n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def _ops(graphs: list[torch.fx.GraphModule]) -> set[str]:
    targets = {str(node.target) for graph in graphs for node in graph.graph.nodes}
    names = {t.split(".")[1] for t in targets if t.startswith("lightops.")}
    return {n for n in names if not n.startswith("pack_")}


@pytest.mark.parametrize("family", QUICK)
def test_compile_fullgraph(family: str) -> None:
    """No graph break, the fused ops in the graph, one recompilation over batch sizes, weights read at every call."""
    torch._dynamo.reset()
    model = small(family)
    with torch.no_grad():
        want = model(_image())
        lightops.swap_(model)
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(model, fullgraph=True, backend=counter)
        got = compiled(_image())
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
        assert got.stride() == want.stride()
        assert _ops(counter.graphs) == FUSED_OPS[family]
        for n in (3, 4, 5, 6):
            torch.testing.assert_close(compiled(_image(n)), model(_image(n)), rtol=1e-3, atol=1e-4)
        assert counter.frame_count <= 2
        for p in model.parameters():
            p.mul_(1.1)
        edited = model(_image())
        assert not torch.allclose(edited, want, atol=1e-3)
        torch.testing.assert_close(compiled(_image()), edited, rtol=1e-3, atol=1e-4)
        assert counter.frame_count <= 2


def test_compiled_training_gives_stocks_gradients() -> None:
    """Without a graph break, on the training ops and none of inference."""
    torch._dynamo.reset()
    stock, model = small("squeezenet").train(), small("squeezenet").train()
    for m in (stock, model):
        m.classifier[0].p = 0.0
    lightops.swap_(model)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    stock(_image()).sum().backward()
    compiled(_image()).sum().backward()
    assert not _ops(counter.graphs)
    targets = {str(node.target) for graph in counter.graphs for node in graph.graph.nodes}
    assert {"fire_train", "stem_train"} <= {t.split(".")[1] for t in targets if t.startswith("lightops_training.")}
    for (name, a), (_, b) in zip(stock.named_parameters(), model.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(("family", "strict"), EXPORTS)
def test_export(family: str, strict: bool) -> None:
    model = small(family)
    keys = set(model.state_dict())
    with torch.no_grad():
        want = model(_image())
        lightops.swap_(model)
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(model, (_image(),), dynamic_shapes=((({0: batch}),)), strict=strict)
        assert _ops([program.graph_module]) == FUSED_OPS[family]
        assert set(program.state_dict) <= keys
        for n in (2, 5):
            got = program.module()(_image(n))
            torch.testing.assert_close(got, model(_image(n)), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(program.module()(_image()), want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_functional_call(family: str) -> None:
    stock, model = small(family), small(family)
    lightops.swap_(model)
    other = {k: v * 0.9 if v.is_floating_point() else v for k, v in stock.state_dict().items()}
    with torch.no_grad():
        before = model(_image())
        want = torch.func.functional_call(stock, other, (_image(),))
        got = torch.func.functional_call(model, other, (_image(),))
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
        assert torch.equal(model(_image()), before)


def test_func_transforms_see_stock_modules() -> None:
    stock, model = small("squeezenet"), small("squeezenet")
    lightops.swap_(model)
    x, t = _image(1), torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        for m in (stock, model):
            m.requires_grad_(False)
        want, tangent = torch.func.jvp(stock, (x,), (t,))
        got, got_tangent = torch.func.jvp(model, (x,), (t,))
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(got_tangent, tangent)
        images = _image(3)[:, None]
        torch.testing.assert_close(torch.func.vmap(model)(images), torch.func.vmap(stock)(images))
    with torch.autograd.forward_ad.dual_level(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        dual = torch.autograd.forward_ad.make_dual(x, t)
        result = torch.autograd.forward_ad.unpack_dual(model(dual))
    torch.testing.assert_close(result.tangent, tangent)


@pytest.mark.parametrize("family", FAMILIES)
def test_fx_traces_the_stock_layers(family: str) -> None:
    model = small(family)
    with torch.no_grad():
        want = model(_image())
        lightops.swap_(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            traced = torch.fx.symbolic_trace(model)
        kinds = Counter(type(traced.get_submodule(n.target)) for n in traced.graph.nodes if n.op == "call_module")
        assert kinds[nn.Conv2d] == sum(isinstance(m, nn.Conv2d) for m in model.modules())
        assert torch.equal(traced(_image()), want)


@pytest.mark.parametrize("family", FAMILIES)
def test_torchscript_is_the_stock_net(family: str) -> None:
    model = small(family)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = model(_image())
        lightops.swap_(model)
        traced = torch.jit.trace(model, _image())  # its own check traces again
        assert "lightops::" not in str(traced.inlined_graph)
        torch.testing.assert_close(traced(_image()), want)
        torch.testing.assert_close(model(_image()), want, rtol=1e-3, atol=1e-4)


def test_fake_and_meta_tensors() -> None:
    model = small("squeezenet")
    lightops.swap_(model)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
            assert model(mode.from_tensor(_image())).shape == (2, 10)
        model.to("meta")
        y = model(torch.empty(2, 3, 64, 64, device="meta"))
        assert y.device.type == "meta"
        assert y.shape == (2, 10)


def test_flop_counter_counts_the_stock_layers() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    for swap in (False, True):
        model = small("squeezenet")
        if swap:
            lightops.swap_(model)
        with torch.no_grad(), warnings.catch_warnings(), FlopCounterMode(display=False) as counter:
            warnings.simplefilter("ignore", FallbackWarning)
            model(_image())
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_torchscript_compiles_the_stock_net(family: str) -> None:
    stock, model = small(family), small(family)
    lightops.swap_(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(model), file)
        file.seek(0)
        with torch.no_grad():
            torch.testing.assert_close(torch.jit.load(file)(_image()), stock(_image()), rtol=1e-4, atol=1e-5)


def test_quantization_sees_the_stock_layers() -> None:
    quantization = pytest.importorskip("torch.ao.quantization")
    fx = pytest.importorskip("torch.ao.quantization.quantize_fx")
    model = small("mobilenet")
    lightops.swap_(model)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = fx.prepare_fx(model, quantization.get_default_qconfig_mapping(), (_image(),))
        torch.testing.assert_close(prepared(_image()), model(_image()), rtol=1e-3, atol=1e-4)
    assert any("activation_post_process" in name for name, _ in prepared.named_modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_export_is_of_the_stock_layers(family: str) -> None:
    """ONNX knows no operator of ours; a swapped network is exported as the stock one, and answers like it."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    stock, model = small(family), small(family)
    lightops.swap_(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, (_image(),), dynamo=True, verbose=False)
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    (answer,) = session.run(None, {session.get_inputs()[0].name: _image().numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(answer), stock(_image()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "node", "block"),
    [
        ("torchvision:densenet121", "features.denseblock2", "features.denseblock2"),
        ("torchvision:squeezenet1_1", "features.7", "features.7"),
        ("torchvision:mobilenet_v2", "features.14", "features.14"),
        ("torchvision:resnet18", "layer3", "layer3.0"),
    ],
)
def test_a_feature_extractor_keeps_the_fused_blocks_that_it_takes_as_leaves(name: str, node: str, block: str) -> None:
    extraction = importlib.import_module("torchvision.models.feature_extraction")
    model = make(name)
    want = extraction.create_feature_extractor(model, [node])(_image())[node]
    lightops.swap_(model)
    leaves = [DenseBlock, DepthwisePointwise, Fire, FusedResidual, InvertedResidual]
    body = extraction.create_feature_extractor(model, [node], tracer_kwargs={"leaf_modules": leaves})
    with torch.no_grad():
        torch.testing.assert_close(body(_image())[node], want, rtol=1e-4, atol=1e-4)
    assert any(fused.name.startswith(block) for fused in lightops.explain(body).fused)
