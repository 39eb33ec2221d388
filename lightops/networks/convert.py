"""Checkpoints of other libraries under this package's names. torchvision's need no conversion (the names agree)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# timm's mobilenetv1_100 numbers blocks by stage and place in the stage; the stages have 1, 2, 2, 6, 2 blocks.
_TIMM_STAGES = (1, 2, 2, 6, 2)
_TIMM_BLOCK = re.compile(r"^blocks\.(\d+)\.(\d+)\.(conv_dw|bn1|conv_pw|bn2)\.(\w+)$")
_TIMM_OUTER = {"conv_stem.": "features.stem.conv.", "bn1.": "features.stem.bn.", "classifier.": "head.fc."}


def convert_timm_mobilenet_v1(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of timm's ``mobilenetv1_*`` (without ``head_conv``) as those of :func:`lightops.networks.mobilenet_v1`.

    timm's nets use relu6: build with ``act="relu6"`` (and ``same_padding=True, bn_eps=1e-3`` where timm was given
    ``pad_type="same", bn_eps=1e-3``). Tensors are passed on, not copied.

    Raises:
        KeyError: a key is not one of the MobileNet V1 names; the key is named.
    """
    first = [sum(_TIMM_STAGES[:stage]) + 1 for stage in range(len(_TIMM_STAGES))]

    def rename(key: str) -> str:
        match = _TIMM_BLOCK.match(key)
        if match and int(match[1]) < len(_TIMM_STAGES) and int(match[2]) < _TIMM_STAGES[int(match[1])]:
            return f"features.block{first[int(match[1])] + int(match[2])}.{match[3]}.{match[4]}"
        for prefix, ours in _TIMM_OUTER.items():
            if key.startswith(prefix):
                return ours + key[len(prefix) :]
        raise KeyError(f"convert_timm_mobilenet_v1: {key!r} is not a parameter of timm's mobilenetv1")

    return {rename(key): tensor for key, tensor in state_dict.items()}
