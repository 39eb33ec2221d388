"""Segmentation and detection networks, float64: stock's answers, names and training step after the swap, and stock
again after the way back."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lightops
from lightops.modules import FusedModule

from .nets import torchvision, untrivial

models = torchvision.models
SEGMENTATION = {
    "lraspp_mobilenet_v3_large": (lambda make: make(num_classes=5), 20),
    "deeplabv3_mobilenet_v3_large": (lambda make: make(num_classes=5), 21),
    "fcn_resnet50": (lambda make: make(num_classes=5, aux_loss=True), 20),
}
DETECTION = {
    "ssdlite320_mobilenet_v3_large": (lambda make: make(num_classes=4), 38),
    "fasterrcnn_mobilenet_v3_large_320_fpn": (lambda make: make(num_classes=4, box_score_thresh=0.0), 20),
}
QUICK = "lraspp_mobilenet_v3_large"


def _make(name: str, build: Callable) -> nn.Module:
    torch.manual_seed(0)
    builder = models.get_model_builder(name)
    model = build(lambda **options: builder(weights=None, weights_backbone=None, **options))
    untrivial(model.backbone)
    return model.double().eval()


def _tensors(answer: Any) -> Iterator[Tensor]:
    if isinstance(answer, Tensor):
        yield answer
    else:
        for part in answer.values() if isinstance(answer, dict) else answer:
            yield from _tensors(part)


def _suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression, for a torchvision without its own operators."""
    order, kept = scores.argsort(descending=True, stable=True), []
    overlaps = torchvision.ops.box_iou(boxes, boxes)
    while len(order):
        kept.append(order[0])
        order = order[1:][overlaps[order[0], order[1:]] <= threshold]
    return torch.stack(kept) if kept else order


@pytest.fixture
def boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torchvision.extension._has_ops():
        monkeypatch.setattr(torchvision.ops.boxes, "nms", _suppress)


def _close(got: Any, want: Any) -> None:
    ours, theirs = list(_tensors(got)), list(_tensors(want))
    assert theirs
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def _train(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> dict[str, Tensor]:
    """Gradients and buffers after a step."""
    torch.manual_seed(3)
    loss(model.train()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert gradients
    return gradients | dict(model.named_buffers())


def _check(stock: nn.Module, least: int, x: Any, loss: Callable[[nn.Module], Tensor]) -> None:
    types = {name: type(module) for name, module in stock.named_modules()}
    swapped = copy.deepcopy(stock)
    report = lightops.swap_(swapped)
    assert len(report.fused) >= least, report
    assert list(swapped.state_dict()) == list(stock.state_dict())
    with torch.inference_mode():
        want = stock(x)
        for _ in range(2):
            _close(swapped(x), want)
    fused = [module for module in swapped.modules() if isinstance(module, FusedModule)]
    assert not {module.last_reason for module in fused if module.last_reason}
    theirs, ours = _train(stock, loss), _train(swapped, loss)
    assert list(ours) == list(theirs)
    largest = max(t.abs().max().item() for t in theirs.values())
    for name, tensor in theirs.items():
        torch.testing.assert_close(
            ours[name], tensor, rtol=1e-5, atol=1e-8 * largest, msg=lambda m, n=name: f"{n}: {m}"
        )
    lightops.unswap_(swapped)
    assert {name: type(module) for name, module in swapped.named_modules()} == types
    with torch.inference_mode():
        _close(swapped.eval()(x), stock.eval()(x))


def _cases(names: dict) -> list:
    return [name if name == QUICK else pytest.param(name, marks=pytest.mark.long) for name in names]


@pytest.mark.parametrize("name", _cases(SEGMENTATION))
def test_segmentation(name: str) -> None:
    build, least = SEGMENTATION[name]
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    _check(_make(name, build), least, x, lambda model: sum(y.square().mean() for y in model(x).values()))


@pytest.mark.parametrize("name", _cases(DETECTION))
def test_detection(name: str, boxes: None) -> None:
    del boxes
    build, least = DETECTION[name]
    generator = torch.Generator().manual_seed(1)
    x = [torch.rand(3, 96, 128, dtype=torch.float64, generator=generator) for _ in range(2)]
    corners = torch.tensor([[8.0, 8.0, 60.0, 70.0], [30.0, 20.0, 120.0, 90.0]], dtype=torch.float64)
    targets = [{"boxes": corners, "labels": torch.tensor([1, 3])} for _ in x]
    _check(_make(name, build), least, x, lambda model: sum(model(x, targets).values()))
