"""What every public training op says to an x or an activation that it cannot take."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightops.ops import training
from lightops.ops.training import Prologue

POINTWISE, DENSE = torch.zeros(4, 4, 1, 1), torch.zeros(4, 4, 3, 3)
WINDOW = ((2, 2), (2, 2))

CALLS: dict[str, Callable[[Any, str], Any]] = {
    "batch_stats": lambda x, act: training.batch_stats(x),
    "bn_act": lambda x, act: training.bn_act(x, Prologue(act=act)),
    "bn_act_conv2d": lambda x, act: training.bn_act_conv2d(x, Prologue(act=act), POINTWISE),
    "bn_act_max_pool2d": lambda x, act: training.bn_act_max_pool2d(x, Prologue(act=act), *WINDOW),
    "bn_act_mean": lambda x, act: training.bn_act_mean(x, Prologue(act=act)),
    "dense_block_train": lambda x, act: training.dense_block_train(
        x, [None, None, torch.zeros(2, 4, 3, 3)], [1e-5], [], [], 2, 0
    ),
    "fire_train": lambda x, act: training.fire_train(
        x, POINTWISE, None, POINTWISE, None, torch.zeros(4, 4, 3, 3), None
    ),
    "stem_train": lambda x, act: training.stem_train(x, POINTWISE, None, (1, 1), (0, 0), act, *WINDOW),
}


@pytest.mark.parametrize("op", CALLS)
def test_x(op):
    CALLS[op](torch.randn(2, 4, 5, 6), "relu")
    for x in (torch.zeros(4, 5, 6), torch.zeros(4)):
        with pytest.raises(ValueError, match=f"{op}: argument 'x' expected 4D input .got {x.dim()}D"):
            CALLS[op](x, "relu")
    with pytest.raises(TypeError, match=f"{op}: argument 'x' got list, wants torch.Tensor"):
        CALLS[op]([1.0], "relu")


@pytest.mark.parametrize("op", [op for op in CALLS if op.startswith("bn_act") or op == "stem_train"])
def test_act(op):
    with pytest.raises(ValueError, match="argument 'act' got 'gelu', wants one of none, relu"):
        CALLS[op](torch.zeros(2, 4, 5, 6), "gelu")


def test_every_public_op_is_here():
    ops = {name for name in training.__all__ if name.startswith(("batch", "bn_act")) or name.endswith("_train")}
    assert ops == set(CALLS)
