"""torchvision beside a CPU build of torch.

The registries' torchvision wheels are CUDA builds: next to a CPU-only torch their C++ library does not load and the
import stops at the schema of `torchvision::nms`. The classifiers and transforms need none of those operators, so
declaring the missing schemas is enough; the operators themselves still raise when called.
"""

import importlib
from types import ModuleType

import torch

# A Library unregisters its schemas when it is collected.
_schemas: list[torch.library.Library] = []

_MISSING = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def import_torchvision() -> ModuleType:
    """The torchvision package, imported plainly where that works, else with the schemas it misses declared first.

    Call it before importing timm, which imports torchvision itself. Raises ImportError without torchvision.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _MISSING:
        library.define(schema)
    _schemas.append(library)
    return importlib.import_module("torchvision")
