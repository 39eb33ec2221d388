"""Fallback to stock is an error in these tests, unless a test expects it."""

import pytest
import torch

from lightops.modules import FallbackWarning


@pytest.fixture(autouse=True)
def _no_silent_fallback():
    import warnings

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        yield
    torch.set_num_threads(threads)
