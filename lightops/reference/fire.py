"""The Fire module of SqueezeNet (arXiv 1602.07360, section 3.2) with the bypass of section 6."""

import torch
import torch.nn.functional as F
from torch import Tensor


def fire(
    x: Tensor,
    squeeze_weight: Tensor,
    squeeze_bias: Tensor | None,
    expand1x1_weight: Tensor,
    expand1x1_bias: Tensor | None,
    expand3x3_weight: Tensor,
    expand3x3_bias: Tensor | None,
    *,
    bypass: Tensor | None = None,
) -> Tensor:
    """`s = relu(squeeze(x)); concat(relu(expand1x1(s)), relu(expand3x3(s))) + bypass`, the 3x3 padded by 1."""
    s = F.relu(F.conv2d(x, squeeze_weight, squeeze_bias))
    e1 = F.relu(F.conv2d(s, expand1x1_weight, expand1x1_bias))
    e3 = F.relu(F.conv2d(s, expand3x3_weight, expand3x3_bias, padding=1))
    out = torch.cat((e1, e3), 1)
    return out if bypass is None else out + bypass
