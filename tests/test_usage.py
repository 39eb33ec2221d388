"""docs/usage.md: its snippets run, and what it quotes is what the code says."""

import re
from pathlib import Path

import pytest

from lightops._torchvision import import_torchvision

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "usage.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.filterwarnings("default")
def test_the_snippets_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_torchvision()
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for i, snippet in enumerate(SNIPPETS):
        exec(compile(snippet, f"snippet {i} of docs/usage.md", "exec"), names)
    assert names["half"].dtype.itemsize == 2
    assert names["y"].shape == (2, 1000)


REASONS = [
    "computes something else: off by",
    "its forward does not run on one tensor",
    "which has no fused form",
    "has a hook",
    "pads by input size",
    "has padding_mode=",
    "stock skips",
    "is a depthwise convolution, which is fused only with a 1x1 right behind it",
    "slower on this machine",
    "called with more than one argument",
    "LIGHTOPS_DISABLE is set",
]


@pytest.mark.parametrize("reason", REASONS)
def test_the_reasons_it_explains_are_those_that_are_given(reason: str) -> None:
    assert reason in PAGE
    sources = "".join(path.read_text() for path in (ROOT / "lightops").rglob("*.py"))
    assert reason in sources


def test_every_environment_variable_of_the_pages_is_read() -> None:
    text = PAGE + (ROOT / "README.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "lightops").rglob("*.py"))
    sources += "".join(path.read_text() for path in (ROOT / "csrc").rglob("*.cpp"))
    for name in set(re.findall(r"LIGHTOPS_[A-Z_]+", text)):
        assert name in sources, name
