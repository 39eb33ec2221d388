"""What the kernels move, at the networks' shapes in fp16: sectors against the byte floor, coalescing, bank
conflicts."""

import pytest
import shapes
from harness import ROOT, Gpu
from shapes import NETWORK, stem
from traffic_table import page

from lightops.bench import gpu_traffic
from lightops.bench.gpu_traffic import Map

# One image on a chip of one multiprocessor is planned as a large batch on a large chip.
GPU = Gpu(multiprocessors=1)

# Border pixels that neighbouring tiles both read; a 14x14 tile of a 3x3 reads 16x16.
HALO_AT_MOST = 1.5
CONFLICTS_AT_MOST = 0.05


@pytest.fixture(scope="module")
def traffic(emulator):
    return {name: op(emulator, *args, GPU) for name, (op, args) in NETWORK.items()}


@pytest.mark.parametrize("name", NETWORK)
def test_inputs_and_outputs_move_once(traffic, name):
    """Beside the border of tiles, listed apart, no more than 1.15 times the floor."""
    t = traffic[name]
    halo = max(0.0, t.input_blocks - 1) * input_share(name, t)
    assert t.moved / t.floor - halo <= 1.15
    assert t.input_blocks <= (2.2 if "stem" in name else HALO_AT_MOST * t.column_tiles)


def input_share(name, t):
    """Input bytes over the floor's, from the two ratios: moved = floor + halo, where nothing else is moved twice."""
    return (t.moved / t.floor - 1) / (t.input_blocks - 1) if t.input_blocks > 1.001 else 0.0


@pytest.mark.parametrize("name", [name for name, (op, _) in NETWORK.items() if op is not stem])
def test_activations_move_in_whole_sectors(traffic, name):
    # conv10's 1000 channels of 2 bytes end in half a sector: 2000 = 62.5 x 32.
    least = 0.9 if "conv10" in name else 0.999
    assert traffic[name].coalescing >= least


def test_the_page_of_the_docs_is_what_is_counted(emulator, traffic):
    assert (ROOT / "docs/gpu_traffic.md").read_text() == page(emulator, traffic), (
        "python tests/emulator/traffic_table.py"
    )


@pytest.mark.parametrize("name", NETWORK)
def test_memory_is_asked_for_every_byte_once(traffic, name):
    """With what neighbouring blocks share served by L2."""
    assert traffic[name].touched <= 1.15 * traffic[name].floor


@pytest.mark.parametrize("name", NETWORK)
def test_bank_conflicts_are_few(traffic, name):
    assert traffic[name].conflicts <= CONFLICTS_AT_MOST


def square(c, hw):
    return Map(1, c, hw, hw)


def stem_model(k, o, padding, pool):
    conv, side = shapes.stem_sizes(k, padding, pool)
    return gpu_traffic.stem(square(3, 224), square(o, conv), square(o, side), k * k, 2)


# The model of `lightops kernels --predict`, by the arguments of the functions of `shapes` (fp16).
MODELS = {
    shapes.stem: stem_model,
    shapes.dense_layer: lambda c, hw: gpu_traffic.dense_layer(square(c, hw), 32, 128, 2),
    shapes.transition: lambda c, hw: gpu_traffic.transition(square(c, hw), square(c // 2, hw // 2), 2),
    shapes.depthwise_pointwise: lambda c, o, hw, stride: gpu_traffic.depthwise_pointwise(
        square(c, hw), square(o, hw // stride), 9, 2
    ),
    shapes.fire: lambda c, s, e, hw: gpu_traffic.fire(square(c, hw), s, e, e, 2),
    shapes.conv1x1: lambda c, o, hw: [gpu_traffic.conv(square(c, hw), square(o, hw), 2)],
    shapes.head: lambda c, hw: gpu_traffic.head(square(c, hw), 0, 2, prologue=True),
}
# Whole sectors at the ends of rows, and rows of the workspace in whole chunks.
TOLERANCE = 0.03


@pytest.mark.parametrize("name", NETWORK)
def test_the_prediction_counts_what_the_kernels_touch(traffic, name):
    """Bytes and launches of `lightops kernels --predict` are those of the kernels, every sector counted once."""
    op, args = NETWORK[name]
    t, kernels = traffic[name], MODELS[op](*args)
    activations = sum(k.read + k.written for k in kernels)
    assert activations == t.floor
    assert activations * (1 - TOLERANCE) <= t.touched <= activations * (1 + TOLERANCE)
    weights = sum(k.weights for k in kernels)
    assert weights * (1 - TOLERANCE) <= t.touched_weights <= weights * (1 + TOLERANCE)
    assert t.launches == len(kernels)


@pytest.mark.parametrize("name", [name for name, (op, _) in NETWORK.items() if op is not shapes.head])
def test_the_prediction_counts_the_products(traffic, name):
    """The tensor cores get the model's multiply-adds, and those of pixels and channels that overhang a tile: of a 7x7
    map of one image, as here, 49 of a tile's 128 rows are pixels."""
    op, args = NETWORK[name]
    overhang = traffic[name].macs / sum(k.macs for k in MODELS[op](*args))
    assert 0.99 <= overhang <= (3.6 if args[-1] == 7 else 2.4)
