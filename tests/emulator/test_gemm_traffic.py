"""How often the matrix products of training move each tensor, at the networks' shapes in bfloat16."""

from __future__ import annotations

import pytest
import torch
from harness import Gpu, nhwc_fields, pointer, window_fields
from test_training_traffic import RELU, Call, check_traffic, image, norm_of, prepare

# One image on a chip of one multiprocessor is planned as a large batch on a large chip.
GPU = Gpu(multiprocessors=1)


def forward(c: int, o: int, kernel: int, hw: int, pool: bool = False) -> Call:
    """With the statistics of y, which the kernel takes itself: y is not read."""
    x, y, w = image(c, hw), image(o, hw // 2 if pool else hw), torch.randn(o, c, kernel, kernel).to(torch.bfloat16)
    n, out = norm_of(x), {"mean_y": torch.empty(o), "var_y": torch.empty(o)}
    call = prepare("bn_act_conv2d", x, {}, {"y": y}, n.vectors() | out | {"w": w})
    call.fields += [*nhwc_fields(x), *nhwc_fields(y), *n.fields(), RELU, pointer(w), 0]
    call.fields += [*window_fields(kernel, 1, kernel // 2), 1, int(pool), *map(pointer, out.values())]
    return call


def backward(c: int, o: int, kernel: int, hw: int, pool: bool = False, dx: bool = True) -> Call:
    x, dy, w = image(c, hw), image(o, hw // 2 if pool else hw), torch.randn(o, c, kernel, kernel).to(torch.bfloat16)
    n, gradient, dweight = norm_of(x), image(c, hw) if dx else None, torch.empty_like(w)
    vectors = {"dgamma": torch.empty(c), "dbeta": torch.empty(c)} if dx else {}
    written = {"dx": gradient} if dx else {}
    call = prepare("bn_act_conv2d_backward", x, {"dy": dy}, written, n.vectors() | vectors | {"w": w, "dw": dweight})
    call.fields += [*nhwc_fields(dy), *nhwc_fields(x), *n.fields(), RELU, pointer(w)]
    call.fields += [*window_fields(kernel, 1, kernel // 2), 1, int(pool), *nhwc_fields(gradient)]
    call.fields += [*(map(pointer, vectors.values()) if dx else (0, 0)), pointer(dweight), 0]
    return call


# What is moved of each tensor, times its size: once a tile of the other's 64 or 128 channels. The tiles of the same
# pixels run together, so that all but the first read comes from L2. A 3x3 reads the border of its tiles besides. The
# backward pass of a batch norm reads x twice more, and where no pool lies between its dx is written twice: first as the
# gradient of what the norm gives.
NETWORK = {
    "densenet121 1x1": (forward, (256, 128, 1, 56), {"x": 1, "y": 1}),
    "densenet121 3x3": (forward, (128, 32, 3, 56), {"x": 1.35, "y": 1}),
    "densenet121 transition": (forward, (256, 128, 1, 56, True), {"x": 1, "y": 1}),
    "mobilenet_v1 1x1": (forward, (256, 256, 1, 28), {"x": 2, "y": 1}),
    "densenet121 1x1, weight gradient": (backward, (256, 128, 1, 56, False, False), {"x": 1, "dy": 2}),
    "densenet121 3x3, weight gradient": (backward, (128, 32, 3, 56, False, False), {"x": 1, "dy": 2}),
    "densenet121 transition, weight gradient": (backward, (256, 128, 1, 56, True, False), {"x": 1, "dy": 4}),
    "mobilenet_v1 1x1, weight gradient": (backward, (256, 256, 1, 28, False, False), {"x": 2, "dy": 2}),
    "squeezenet1_1 expand, weight gradient": (backward, (32, 128, 3, 27, False, False), {"x": 2, "dy": 1}),
    "densenet121 transition, backward": (backward, (256, 128, 1, 56, True), {"x": 3, "dy": 6, "dx": 1}),
    "mobilenet_v1 1x1, backward": (backward, (256, 256, 1, 28), {"x": 4, "dy": 4, "dx": 2}),
}


@pytest.mark.parametrize("name", NETWORK)
def test_matrix_products_move_tensors_once_a_tile(emulator, name):
    build, args, times = NETWORK[name]
    torch.manual_seed(0)
    call = build(*args)
    check_traffic(emulator, call, times, GPU)


@pytest.mark.parametrize("name", [name for name, (build, _, _) in NETWORK.items() if build is forward])
def test_statistics_do_not_read_the_output(emulator, name):
    build, args, _ = NETWORK[name]
    call = build(*args)
    regions = [(t, False, label) for label, t in call.read.items()]
    regions += [(t, True, label) for label, t in (call.written | call.vectors).items()]
    assert "y" not in emulator.run(call.op, call.fields, regions, GPU, counting=True).counters["read"]
