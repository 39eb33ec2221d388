"""One stem at every level: a seam header `csrc/include/lightops/<op>.h` has all its siblings, and each holds what its
level owes.

Only files are read, nothing is imported or built.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEADERS = ROOT / "csrc" / "include" / "lightops"

# Headers of the seam that are no op, and why.
NOT_AN_OP = {
    "cuda": "the CUDA entry points of all ops",
    "common": "types that all kernels share",
    "dispatch": "the choice of an instruction set",
    "pack": "weight layouts, made once per weight and not per call",
}
SIBLINGS = {
    "kernel": "csrc/cpu/{op}.cpp",
    "binding": "csrc/torch/{op}.cpp",
    "reference": "lightops/reference/{op}.py",
    "public function": "lightops/ops/{op}.py",
    "module": "lightops/modules/{op}.py",
    "test": "tests/ops/test_{op}.py",
    "micro-benchmark": "benchmarks/bench_{op}.py",
}
# An op that is not in the exceptions has all of these: a module may change from one backend to the other.
GPU_SIBLINGS = {
    "CUDA kernel": "csrc/cuda/{op}.cu",
    "CUDA binding": "csrc/torch/cuda/{op}.cpp",
    "Triton kernel": "lightops/kernels/triton/{op}.py",
}
NOT_ON_GPU: dict[str, str] = {}  # op: why
OPS = sorted(header.stem for header in HEADERS.glob("*.h") if header.stem not in NOT_AN_OP)
# The training ops, one folder further down at every level.
TRAINING = HEADERS / "training"
NOT_A_TRAINING_OP = {
    "cuda": "the CUDA entry points of all training ops",
    "dropout_noise": "PyTorch's own random numbers: its specification is `Tensor.bernoulli_`",
    "norm": "the batch norm that all of them apply",
    "weight": "weights ordered for a product",
}
TRAINING_SIBLINGS = {
    "kernel": "csrc/cpu/training/{op}.cpp",
    "binding": "csrc/torch/training/{op}.cpp",
    "reference": "lightops/reference/training/{op}.py",
    "public function": "lightops/ops/training/{op}.py",
    "test": "tests/ops/training/test_{op}.py",
    "micro-benchmark": "benchmarks/bench_training_{op}.py",
}
TRAINING_GPU_SIBLINGS = {
    "CUDA kernel": "csrc/cuda/training/{op}.cu",
    "CUDA binding": "csrc/torch/cuda/training/{op}.cpp",
}
NOT_TRAINED_ON_GPU = {
    "stem": "keeps a byte a value for SqueezeNet on the CPU; elsewhere the stem is a chain of the others"
}
# File and operator, where the operator's name is not free: inference has a dense block, a Fire and a stem too.
TRAINING_OPS = {
    header.stem: {
        "dense_block": "dense_block_train",
        "fire": "fire_train",
        "stem": "stem_train",
    }.get(header.stem, header.stem)
    for header in sorted(TRAINING.glob("*.h"))
    if header.stem not in NOT_A_TRAINING_OP
}


def text_of(level: str, op: str) -> str:
    path = ROOT / SIBLINGS[level].format(op=op)
    assert path.is_file(), f"{op}: no {level}, wanted {path.relative_to(ROOT)}"
    return path.read_text()


def functions_in(source: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


def test_there_are_ops():
    assert len(OPS) >= 9
    assert all((HEADERS / f"{name}.h").is_file() for name in NOT_AN_OP)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("level", SIBLINGS)
def test_sibling_exists(level, op):
    text_of(level, op)


@pytest.mark.parametrize(
    ("op", "pattern"),
    [(op, pattern) for op in OPS if op not in NOT_ON_GPU for pattern in GPU_SIBLINGS.values()]
    + [
        (header.stem, pattern)
        for header in sorted(TRAINING.glob("*.h"))
        if header.stem not in {*NOT_A_TRAINING_OP, *NOT_TRAINED_ON_GPU}
        for pattern in TRAINING_GPU_SIBLINGS.values()
    ],
)
def test_gpu_sibling_exists(op, pattern):
    path = ROOT / pattern.format(op=op)
    assert path.is_file(), f"{op}: wanted {path.relative_to(ROOT)}, or a reason here why there is none"


@pytest.mark.parametrize("op", OPS)
class TestLevel:
    def test_header_declares_the_kernel(self, op):
        header = (HEADERS / f"{op}.h").read_text()
        assert re.search(rf"\bStatus {op}_cpu\(", header)
        assert header.startswith("//"), f"{op}.h begins with its formula"

    def test_binding_defines_the_operator(self, op):
        assert re.search(rf'"{op}\(', text_of("binding", op)), f"csrc/torch/{op}.cpp defines no schema {op}(...)"

    def test_reference_is_public(self, op):
        assert op in functions_in(text_of("reference", op))
        assert op in exported("lightops/reference/__init__.py")

    def test_public_function_has_its_contract(self, op):
        functions = functions_in(text_of("public function", op))
        assert op in exported("lightops/ops/__init__.py")
        assert {f"pack_{op}", f"run_{op}"} <= functions.keys()
        docstring = ast.get_docstring(functions[op]) or ""
        for part in ("`", "arXiv", "Shapes:", "dtypes:", "Layout:", "Raises:"):
            assert part in docstring, f"the docstring of ops.{op} says nothing of {part!r}"
        assert f'register_fake("{op}"' in text_of("public function", op)

    def test_reference_and_public_function_take_the_same_arguments(self, op):
        """The public one adds `winograd` and `backend`, nothing else."""
        reference, public = (
            arguments(functions_in(text_of(level, op))[op]) for level in ("reference", "public function")
        )
        assert [name for name in public if name not in ("winograd", "backend")] == reference

    def test_test_holds_the_common_suite(self, op):
        assert re.search(rf'\(OpSuite\):\n    op = "{op}"', text_of("test", op))


@pytest.mark.parametrize(("op", "function"), TRAINING_OPS.items())
class TestTrainingLevel:
    @pytest.mark.parametrize("level", TRAINING_SIBLINGS)
    def test_sibling_exists(self, level, op, function):
        path = ROOT / TRAINING_SIBLINGS[level].format(op=op)
        assert path.is_file(), f"{op}: no {level}, wanted {path.relative_to(ROOT)}"

    def test_binding_defines_forward_and_backward(self, op, function):
        folder = ROOT / "csrc/torch/training"
        text = "".join(path.read_text() for path in [*sorted(folder.glob(f"{op}*.cpp")), folder / "schemas.cpp"])
        assert f'"{function}(' in text
        assert f'"{function}_backward(' in text or op == "batch_stats", (
            "the ops that read statistics differentiate them"
        )

    def test_reference_and_public_function_are_public(self, op, function):
        for level, package in (("reference", "reference"), ("public function", "ops")):
            path = TRAINING_SIBLINGS[level].format(op=op)
            assert function in functions_in((ROOT / path).read_text())
            assert function in exported(f"lightops/{package}/training/__init__.py")

    def test_public_function_has_its_contract(self, op, function):
        text = (ROOT / TRAINING_SIBLINGS["public function"].format(op=op)).read_text()
        docstring = ast.get_docstring(functions_in(text)[function]) or ""
        for part in ("`", "arXiv", "Shapes:", "dtypes:", "Raises:"):
            assert part in docstring, f"the docstring of ops.training.{function} says nothing of {part!r}"
        assert "derivative" in docstring or "Differentiable in" in docstring
        assert f'"{function}",' in text, "defined on the dispatcher"
        assert f'"{function}_backward",' in text or op == "batch_stats"

    def test_gradients_are_checked(self, op, function):
        calls = (ROOT / "tests/ops/training/calls.py").read_text()
        assert function in calls


def test_every_training_reference_has_a_header():
    found = {path.stem for path in (ROOT / "lightops/reference/training").glob("*.py")} - {"__init__"}
    assert found == set(TRAINING_OPS)


def exported(path: str) -> set[str]:
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return set(ast.literal_eval(node.value))
    raise AssertionError(f"{path} has no __all__")


def arguments(function: ast.FunctionDef) -> list[str]:
    spec = function.args
    return [argument.arg for argument in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]


@pytest.mark.parametrize("path", sorted((ROOT / "lightops" / "reference").glob("*.py")), ids=lambda path: path.stem)
def test_every_reference_has_a_header(path):
    """`activation` and `bn` are the pieces that the ops are written with."""
    assert path.stem in {*OPS, "__init__", "activation", "bn"}
