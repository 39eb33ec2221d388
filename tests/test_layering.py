"""One-way arrows, by parsing Python imports and C++ includes: nothing is imported, so it runs before any build."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "lightops"
CSRC = ROOT / "csrc"

_NATIVE = {"_ext", "_env", "_version"}
# part of lightops -> parts it may import. A part that is not listed is an error: say where it belongs.
ALLOWED = {
    "__init__": _NATIVE,
    "__main__": {"cli"},
    "_env": set(),
    "_version": set(),
    "_ext": {"_env", "_version"},
    "_torchvision": set(),
    "networks": set(),
    "data": set(),
    "reference": set(),
    "kernels": {"_env", "_version"},
    "ops": {"kernels", "reference", *_NATIVE},
    "modules": {"ops", "reference", *_NATIVE},
    "swap": {"modules", "ops", "reference", "_torchvision", *_NATIVE},
    "testing": {"reference", "networks", "_torchvision"},
    "cli": {"*"},
    "bench": {"*"},
    "train": {"*"},
}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(source: str, path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it the import stands; relative imports resolved."""
    package = ("lightops", *path.relative_to(PACKAGE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def imported_parts(source: str, path: Path) -> set[str]:
    """Parts of lightops that a file imports."""
    return {name.split(".")[1] for name in imported_names(source, path) if name.startswith("lightops.")}


def file_of(name: str) -> Path | None:
    """The file that a dotted name, or a name in it, is of."""
    for dotted in (name, name.rpartition(".")[0]):
        base = ROOT.joinpath(*dotted.split("."))
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


def wrong_arrows(source: str, path: Path) -> list[str]:
    part = part_of(path)
    if part not in ALLOWED:
        return [f"lightops/{part} is not in the table of tests/test_layering.py"]
    if "*" in ALLOWED[part]:
        return []
    known = imported_parts(source, path) & (ALLOWED.keys() | {"_C"})
    return [f"{part} -> {other}" for other in sorted(known - ALLOWED[part] - {part})]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_python_imports_go_one_way(path):
    assert wrong_arrows(path.read_text(), path) == []


def test_no_file_imports_itself_through_others():
    """An import inside a function, where it hides such a circle, counts."""
    graph = {
        path: {found for name in imported_names(path.read_text(), path) if (found := file_of(name)) not in (None, path)}
        for path in PACKAGE.rglob("*.py")
    }
    assert sum(map(len, graph.values())) > len(graph)
    assert list(TopologicalSorter(graph).static_order())  # CycleError names the files


@pytest.mark.parametrize(
    ("file", "source", "arrow"),
    [
        ("networks/densenet.py", "from lightops import ops", "networks -> ops"),
        ("networks/densenet.py", "from ..swap.core import swap_", "networks -> swap"),
        ("reference/fire.py", "def f():\n    import lightops.ops.fire", "reference -> ops"),
        ("ops/fire.py", "from ..modules import Fire", "ops -> modules"),
        ("ops/fire.py", "from lightops import _C", "ops -> _C"),
        ("ops/fire.py", "from . import _dispatch", None),
        ("ops/fire.py", "from lightops.reference.fire import fire", None),
    ],
)
def test_the_check_sees_wrong_arrows(file, source, arrow):
    assert wrong_arrows(source, PACKAGE / file) == ([arrow] if arrow else [])


# Headers of types, C functions and intrinsics that always inline. What a compiler emits out of line all the same is
# found in the objects themselves (tests/packaging/test_build_steps.py).
_PLAIN = {"cstddef", "cstdint", "cstring", "math.h"}
_SIMD = {"immintrin.h", "arm_neon.h"}
_STD_TEMPLATE = re.compile(r"\bstd::(?!(?:u?int(?:8|16|32|64|ptr)_t|size_t|ptrdiff_t|mem(?:cpy|set|move|cmp))\b)\w+")


def includes(path: Path) -> list[tuple[str, str]]:
    """("<" or '"', name) of every include."""
    return re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def native_files(folder: str) -> list[Path]:
    kinds = {".h", ".cpp", ".cu", ".cuh", ".inc"}
    return sorted(path for path in (CSRC / folder).rglob("*") if path.suffix in kinds)


def is_kernel_file(path: Path) -> bool:
    return "once" not in path.relative_to(CSRC / "cpu").parts


@pytest.mark.parametrize("path", native_files("include"), ids=lambda path: path.name)
def test_the_seam_includes_standard_headers_only(path):
    assert [name for kind, name in includes(path) if kind == "<" and name not in _PLAIN] == []
    assert [name for kind, name in includes(path) if kind == '"' and not name.startswith("lightops/")] == []


@pytest.mark.parametrize("path", native_files("cpu"), ids=lambda path: str(path.relative_to(CSRC)))
def test_cpu_kernels_are_torch_free_and_odr_safe(path):
    names = [name for kind, name in includes(path) if kind == "<"]
    assert [name for name in names if re.match(r"(torch|ATen|c10|cuda|pybind11)\b", name)] == []
    local = [name for kind, name in includes(path) if kind == '"']
    homes = (path.parent, CSRC / "include", CSRC / "cpu")
    assert [name for name in local if not any((home / name).is_file() for home in homes)] == []
    if is_kernel_file(path):
        assert [name for name in names if name not in _PLAIN | _SIMD] == []
        # A std:: template instantiated in an AVX-512 object may be the copy that the linker keeps for everyone.
        assert _STD_TEMPLATE.findall(path.read_text()) == []


@pytest.mark.parametrize("path", native_files("cuda"), ids=lambda path: str(path.relative_to(CSRC)))
def test_cuda_kernels_are_torch_free(path):
    assert [name for _, name in includes(path) if re.match(r"(torch|ATen|c10|pybind11)\b", name)] == []


@pytest.mark.parametrize("path", native_files("torch"), ids=lambda path: str(path.relative_to(CSRC)))
def test_bindings_use_the_stable_abi_and_the_seam(path):
    allowed = r"torch/(csrc/stable/|headeronly/|csrc/inductor/aoti_torch/c/)"
    torch_names = [name for _, name in includes(path) if re.match(r"(torch|ATen|c10)/", name)]
    assert [name for name in torch_names if not re.match(allowed, name)] == []
    local = [name for kind, name in includes(path) if kind == '"']
    assert [name for name in local if not name.startswith("lightops/") and not (path.parent / name).is_file()] == []


@pytest.mark.parametrize("path", native_files("python"), ids=lambda path: path.name)
def test_the_python_module_is_torch_free(path):
    assert [name for _, name in includes(path) if re.match(r"(torch|ATen|c10)\b", name)] == []


def test_only_ext_loads_native_code():
    loads = re.compile(r"load_library|lightops\._C|from lightops import _C")
    users = {part_of(path) for path in PACKAGE.rglob("*.py") if loads.search(path.read_text())}
    assert users <= {"_ext"}
