"""What the kernels move, at the networks' shapes in fp16: sectors against the byte floor, coalescing, bank
conflicts."""

import pytest
from harness import Gpu
from shapes import NETWORK, stem

# One image on a chip of one multiprocessor is planned as a large batch on a large chip.
GPU = Gpu(multiprocessors=1)

# Border pixels that neighbouring tiles both read; a 14x14 tile of a 3x3 reads 16x16.
HALO_AT_MOST = 1.5
# Fire on 55x55, 27x27 and 13x13 maps: tiles that are not whole multiples of 8 pixels wide meet in some banks where
# their rows wrap. A tile of 8 pixels would avoid that and multiply a tenth more rows. The stems put rows together from
# 2-byte elements, which no order of their threads keeps apart.
CONFLICTS = {
    "squeezenet1_1 fire2": 0.07,
    "squeezenet1_1 fire5": 0.08,
    "squeezenet1_1 fire9": 0.12,
    "densenet121 stem": 0.22,
    "squeezenet1_1 stem": 0.10,
}


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


@pytest.mark.parametrize("name", NETWORK)
def test_bank_conflicts_are_few(traffic, name):
    assert traffic[name].conflicts <= CONFLICTS.get(name, 0.05)
