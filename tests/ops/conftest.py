import pytest
import torch

from lightops import _ext

pytest.register_assert_rewrite("tests.ops.suite")


@pytest.fixture(scope="session", autouse=True)
def kernels() -> None:
    """These tests are about the CPU kernels: without them there is nothing to test, a failure and no skip."""
    reason = _ext.cpu_reason()
    if reason:
        pytest.fail(reason, pytrace=False)


@pytest.fixture
def threads():
    """`threads(n)` sets the size of torch's pool; the old size comes back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
