"""max_pool2d: the pools between fire modules. A swap takes one only beside a fused block; here it stands alone."""

from blocks import part
from common import Call, run, timed
from torch import Tensor, nn

from lightops.modules import MaxPool2d


def _alone(block: nn.Module, x: Tensor) -> Call:
    return timed(MaxPool2d.from_stock(block), x)


PARTS = (part("squeezenet1_1", "features.5"), part("squeezenet1_1", "features.8"))

if __name__ == "__main__":
    run("max_pool2d", PARTS, {"lightops": _alone})
