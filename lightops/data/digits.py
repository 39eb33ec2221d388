"""The digits of scikit-learn (UCI, Alpaydin and Kaynak, 1998): 1,797 grey 8x8 pictures of ten classes.

They are part of the package scikit-learn (extra `train`), so nothing is downloaded: for tests and a first try.
"""

from __future__ import annotations

import torch
from torch import Tensor

CLASSES = tuple(str(digit) for digit in range(10))
# Of the training pixels scaled to [0, 1].
MEAN, STD = 0.3057, 0.3759
TEST_PICTURES = 360


def load(split: str = "test") -> tuple[Tensor, Tensor]:
    """Pictures uint8 [N, 8, 8] in 0..255 and labels int64 [N] of ``split``: "train" (1,437) or "test" (360).

    scikit-learn has no split of its own: a fixed random fifth is held out.

    Raises:
        ValueError: ``split`` is unknown.
        ImportError: scikit-learn is not installed; the message says how to get it.
    """
    if split not in ("train", "test"):
        raise ValueError(f"digits.load: split must be 'train' or 'test', got {split!r}")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            f"digits.load: scikit-learn cannot be imported ({error}); pip install 'lightops[train]'"
        ) from error
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    chosen = order[:TEST_PICTURES] if split == "test" else order[TEST_PICTURES:]
    # Ink is counted in 4x4 cells: 0 to 16.
    pixels = torch.from_numpy(images).mul(255 / 16).round().to(torch.uint8).view(-1, 8, 8)
    return pixels[chosen], torch.from_numpy(labels).long()[chosen]
