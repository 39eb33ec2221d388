"""The inverted residual with linear bottleneck of MobileNetV2 (arXiv 1801.04381, section 3.3)."""

from torch import Tensor

from lightops.reference.bn import BatchNormParams
from lightops.reference.conv1x1_bn_act import conv1x1_bn_act
from lightops.reference.depthwise_pointwise import depthwise_pointwise


def inverted_residual(
    x: Tensor,
    ex_weight: Tensor,
    dw_weight: Tensor,
    pw_weight: Tensor,
    *,
    ex_bias: Tensor | None = None,
    ex_bn: BatchNormParams | None = None,
    dw_bias: Tensor | None = None,
    dw_bn: BatchNormParams | None = None,
    pw_bias: Tensor | None = None,
    pw_bn: BatchNormParams | None = None,
    act: str = "relu6",
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | None = None,
    residual: bool = False,
) -> Tensor:
    """`pw_bn(pw(act(dw_bn(dw(act(ex_bn(ex(x)))))))) (+ x)`: expand 1x1, depthwise, linear projection 1x1."""
    hidden = conv1x1_bn_act(x, ex_weight, ex_bias, ex_bn, act=act)
    return depthwise_pointwise(
        hidden, dw_weight, pw_weight, dw_bias=dw_bias, dw_bn=dw_bn, pw_bias=pw_bias, pw_bn=pw_bn,
        dw_act=act, pw_act="none", stride=stride, padding=padding, residual=x if residual else None,
    )  # fmt: skip
