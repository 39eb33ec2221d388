"""Prints docs/gpu_traffic.md (`python tests/emulator/traffic_table.py > docs/gpu_traffic.md`); a test compares them."""

from __future__ import annotations

from harness import Emulator, Gpu
from shapes import NETWORK, Traffic, conv1x1, dense_layer, depthwise_pointwise, fire, grids, head, stem, transition

HEAD = """# What the CUDA kernels move, and how much of a GPU one image fills

Printed by `python tests/emulator/traffic_table.py`, fp16, counted by the emulator; no GPU has a part in it.

## Traffic

One image, planned as a large batch on a large chip. Floor: every input read and every output written once; for a dense
layer, which is two kernels, also the tensor between them written and read. In multiples of the floor:

- memory: distinct 32-byte sectors of activations that a launch touches: what a cache that holds what neighbours share
  asks memory for;
- to the blocks: distinct sectors that each block touches, added up: what L2 delivers. It contains the border that
  neighbouring tiles both read and the input that blocks of other output channels (column tiles) read again;
- input: the part of it that reads the input, in multiples of the input;
- weights: the same for weights, which every block reads.

Whole: bytes that lanes ask for over bytes of the sectors fetched for them. Conflicts: the share of shared-memory
wavefronts that two lanes in one bank cost. One kernel: what memory moves in multiples of a floor without the tensor
between the two kernels, which only a kernel that kept it on chip would reach
(`csrc/cuda/dense_block.cu` has what an H100 said of one).

| op | MB | memory | to the blocks | input | column tiles | weights | whole | conflicts | one kernel |
|---|---|---|---|---|---|---|---|---|---|"""

GRIDS = """
## Blocks of one image on 132 multiprocessors

Batch 1, fp16, an H100's number of multiprocessors and its shared memory. Grids of the launches, `tiles x parts of the
reduction` or, of fused pairs, `tiles x shares of the output channels` and `x parts of the reduction`.

| op | grids |
|---|---|"""
H100 = Gpu(multiprocessors=132)
SINGLE = {
    "densenet121 stem": (stem, (7, 64, 3, (3, 2, 1))),
    **{
        f"densenet121 block{block + 1}, {channels} channels": (dense_layer, (channels, side))
        for block, (first, last, side) in enumerate(((64, 224, 56), (128, 480, 28), (256, 992, 14), (512, 992, 7)))
        for channels in (first, (first + last) // 64 * 32, last)
    },
    **{f"densenet121 transition{i + 1}": (transition, (256 << i, 56 >> i)) for i in range(3)},
    "densenet121 head": (head, (1024, 7)),
    "mobilenet_v1 stem": (stem, (3, 32, 1, None)),
    **{
        f"mobilenet_v1 {c} to {o}, {side}x{side}, stride {stride}": (depthwise_pointwise, (c, o, side, stride))
        for c, o, side, stride in (
            (32, 64, 112, 1), (64, 128, 112, 2), (128, 128, 56, 1), (128, 256, 56, 2), (256, 256, 28, 1),
            (256, 512, 28, 2), (512, 512, 14, 1), (512, 1024, 14, 2), (1024, 1024, 7, 1),
        )
    },
    "squeezenet1_1 stem": (stem, (3, 64, 0, (3, 2, 0))),
    **{
        f"squeezenet1_1 fire, {c} to {2 * e}, {side}x{side}": (fire, (c, s, e, side))
        for c, s, e, side in ((64, 16, 64, 55), (256, 32, 128, 27), (384, 48, 192, 13), (512, 64, 256, 13))
    },
    "squeezenet1_1 conv10": (conv1x1, (512, 1000, 13)),
}  # fmt: skip


def row(name: str, t: Traffic) -> str:
    one = f"{t.touched / t.one_kernel_floor:.2f}" if t.one_kernel_floor else "-"
    cells = [
        name,
        f"{t.floor / 1e6:.3f}",
        *(f"{v / t.floor:.2f}" for v in (t.touched, t.moved)),
        f"{t.input_blocks:.2f}",
        str(t.column_tiles),
        f"{t.weights / t.floor:.2f}",
        f"{t.coalescing:.1%}",
        f"{t.conflicts:.1%}",
        one,
    ]
    return "| " + " | ".join(cells) + " |"


def page(emulator: Emulator, traffic: dict[str, Traffic]) -> str:
    lines = [HEAD, *(row(name, t) for name, t in traffic.items()), GRIDS]
    for name, (op, args) in SINGLE.items():
        lines.append(f"| {name} | {', '.join('x'.join(map(str, grid)) for grid in grids(emulator, op, args, H100))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    emulator = Emulator()
    whole = Gpu(multiprocessors=1)
    print(page(emulator, {name: op(emulator, *args, whole) for name, (op, args) in NETWORK.items()}), end="")
