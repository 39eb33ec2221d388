"""transition: BatchNorm, ReLU, 1x1 convolution, 2x2 average: pooled before the 1x1 against pooled after it."""

from blocks import Block, macs, part
from common import Call, fused, run, timed
from torch import Tensor, nn

PARTS = tuple(part("densenet121", f"features.transition{i}") for i in (1, 2, 3))


def pool_last(block: nn.Module, x: Tensor) -> Call:
    """The order of the paper: a fused BatchNorm, ReLU and 1x1 at full size, then the average."""
    return timed(nn.Sequential(fused(nn.Sequential(block.norm, block.relu, block.conv)), block.pool), x)


def _pooled_first(block: Block) -> int:
    """The 1x1 on a quarter of the positions: average and 1x1 commute."""
    return macs(block.module, block.x) // 4


if __name__ == "__main__":
    run("transition", PARTS, {"pool after the 1x1": pool_last}, arithmetic=_pooled_first)
