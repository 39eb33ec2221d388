"""Models in the formats of the other runtimes, exported once per content and kept in the cache folder."""

import contextlib
import hashlib
import importlib.metadata
import io
import logging
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from lightops.bench.contestants import Task, Unavailable


def export_onnx(task: Task) -> str:
    """Path of the network as ONNX with a free batch dimension called "batch"."""
    return str(_cached(task, "onnx", _write_onnx) / "model.onnx")


def export_ncnn(task: Task) -> tuple[str, str, str, str]:
    """Paths of ncnn's two files for one picture, and the names of its input and output."""
    folder = _cached(task, "ncnn", _write_ncnn)
    return str(folder / "model.ncnn.param"), str(folder / "model.ncnn.bin"), "in0", "out0"


def _cached(task: Task, form: str, write: object) -> Path:
    """The folder of this export, written under another name first so that an interrupted export is never taken."""
    folder = task.cache / f"{task.subject.name.rpartition(':')[2]}-{form}-{_digest(task, form)}"
    if not folder.is_dir():
        task.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=task.cache) as made:
            write(task, Path(made))
            with contextlib.suppress(FileExistsError):
                shutil.copytree(made, folder)
    return folder


def _digest(task: Task, form: str) -> str:
    """Hash of the parameters and buffers, the structure, the input shape and the versions that made the export."""
    digest = hashlib.sha256(repr(task.subject.model).encode())
    for name, tensor in task.subject.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    versions = [torch.__version__, *(_version(p) for p in (("onnx", "onnxscript") if form == "onnx" else ("pnnx",)))]
    digest.update(repr((tuple(task.x.shape[1:]), versions)).encode())
    return digest.hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise Unavailable(f"{package} is not installed, and the model must be exported with it") from error


def _write_onnx(task: Task, folder: Path) -> None:
    # Two pictures: an exporter takes a batch of one for a constant.
    example = task.x[:1].repeat(2, 1, 1, 1)
    batch = torch.export.Dim("batch", min=1, max=4096)
    with _quiet():
        torch.onnx.export(
            task.subject.copy(),
            (example,),
            str(folder / "model.onnx"),
            dynamo=True,
            input_names=["x"],
            output_names=["y"],
            dynamic_shapes=({0: batch},),
            verbose=False,
        )


def _write_ncnn(task: Task, folder: Path) -> None:
    try:
        import pnnx
    except ImportError as error:
        raise Unavailable(f"pnnx is not installed ({error}), and the model must be exported with it") from error
    tool = pnnx.EXEC_PATH
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(task.subject.copy(), task.x[:1])
    traced.save(str(folder / "model.pt"))
    shape = "[" + ",".join(str(n) for n in task.x[:1].shape) + "]"
    # fp16=0: pnnx halves the weights by default, which costs 1.7e-2 of MobileNetV2's answer.
    command = [tool, "model.pt", f"inputshape={shape}f32", "fp16=0"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / "model.ncnn.param").is_file():
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(f"pnnx failed: {lines[-1] if lines else done.returncode}")
    (folder / "model.pt").unlink()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's progress lines and deprecation warnings off the screen."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
