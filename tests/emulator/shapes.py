"""The fused ops at the networks' shapes, for traffic counts. Batch 1: per image the counts of a large batch are the
same, as the planner is told of a chip that one image fills."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from drawing import pack, pack_depthwise
from harness import DTYPE_CODES, Emulator, Gpu, nhwc_fields, pointer, window_fields


@dataclass
class Traffic:
    """Bytes of one call: floor = every input and output once; moved = distinct sectors a block touches, over all
    blocks."""

    floor: int
    moved: int
    weights: int
    coalescing: float  # bytes asked for / bytes of the sectors fetched for them
    conflicts: float  # extra shared-memory wavefronts / all
    input_blocks: float  # input bytes over the floor's: above 1 it is the halo, or column tiles side by side
    touched: int  # distinct sectors of activations, over the whole launch: what a perfect L2 would ask memory for
    touched_weights: int
    macs: int  # multiply-adds of the matrix instructions
    launches: int
    one_kernel_floor: int = 0  # of two kernels: without the tensor between them
    column_tiles: int = 1  # blocks that read the same input at the same time: memory is asked once, L2 the other times


def tensor(c: int, h: int, w: int, dtype: torch.dtype, channels: int | None = None) -> torch.Tensor:
    """[1, C, H, W], channels innermost, the first C of `channels`."""
    whole = torch.randn(1, h, w, channels or c).to(dtype)
    return whole[..., :c].permute(0, 3, 1, 2)


def measure(
    emulator: Emulator, op: str, fields: list[int], inputs: dict, outputs: dict, weights: dict, gpu: Gpu
) -> Traffic:
    regions = [(t, False, name) for name, t in (inputs | weights).items()] + [
        (t, True, name) for name, t in outputs.items()
    ]
    launched = emulator_counters(emulator)["launches"]  # since the library was loaded
    outcome = emulator.run(op, fields, regions, gpu, counting=True)
    assert outcome.refusal is None, outcome.refusal
    assert outcome.faults == [], outcome.faults[:3]
    c = outcome.counters
    size = lambda ts: sum(t.numel() * t.element_size() for t in ts.values())  # noqa: E731
    blocks = lambda way, ts: sum(c[way].get(n, {"block_bytes": 0})["block_bytes"] for n in ts)  # noqa: E731
    scratch = sum(c[way].get("workspace", {"block_bytes": 0})["block_bytes"] for way in ("read", "written"))
    # Activations: vectors of scales and biases are broadcast loads, whose lanes ask for the same sector.
    both = [
        t
        for way in ("read", "written")
        for name, t in c[way].items()
        if name in inputs | outputs or name == "workspace"
    ]
    read = blocks("read", inputs)
    return Traffic(
        floor=size(inputs) + size(outputs),
        moved=read + blocks("written", outputs) + scratch,
        weights=blocks("read", weights),
        coalescing=sum(t["requested"] for t in both) / max(sum(t["sector_bytes"] for t in both), 1),
        conflicts=1 - c["shared_ideal"] / max(c["shared_wavefronts"], 1),
        input_blocks=read / max(size(inputs), 1),
        touched=sum(sum(c["touched"].get(name, (0, 0))) for name in (*inputs, *outputs, "workspace")),
        touched_weights=sum(sum(c["touched"][name]) for name in weights),
        macs=c["multiply_adds"],
        launches=c["launches"] - launched,
    )


COLUMNS = 128  # of a block, in the pointwise and the transition kernel


def f32(n: int) -> torch.Tensor:
    return torch.randn(n)


def dense_layer(emulator, c: int, hw: int, gpu: Gpu, dtype=torch.float16, growth: int = 32) -> Traffic:
    buffer = torch.randn(1, hw, hw, c + growth).to(dtype)
    view = buffer.permute(0, 3, 1, 2)
    w1, w2 = pack(torch.randn(4 * growth, c, 1, 1), dtype), pack(torch.randn(growth, 4 * growth, 3, 3), dtype)
    scale, shift, bias = f32(c), f32(c), f32(4 * growth)
    fields = [
        DTYPE_CODES[dtype],
        *nhwc_fields(view),
        c,
        growth,
        4 * growth,
        1,
        *map(pointer, (scale, shift, w1, bias, w2)),
    ]
    weights = {"w1": w1, "w2": w2, "scale": scale, "shift": shift, "bias": bias}
    traffic = measure(emulator, "dense_block", fields, {}, {"buffer": buffer}, weights, gpu)
    counters = emulator_counters(emulator)
    size = buffer.element_size() * hw * hw
    read = counters["read"].get("buffer", {"block_bytes": 0})["block_bytes"]
    # Between the two kernels the 1x1's output is written and read once (csrc/cuda/dense_block.cu says why).
    traffic.floor = (c + growth + 2 * 4 * growth) * size
    traffic.one_kernel_floor = (c + growth) * size
    traffic.moved += read
    traffic.input_blocks = read / (c * size)
    return traffic


def emulator_counters(emulator: Emulator) -> dict:
    import json

    return json.loads(emulator.library.emulator_counters())


def transition(emulator, c: int, hw: int, gpu: Gpu, dtype=torch.float16) -> Traffic:
    x, out = tensor(c, hw, hw, dtype), tensor(c // 2, hw // 2, hw // 2, dtype)
    w, scale, shift = pack(torch.randn(c // 2, c, 1, 1), dtype), f32(c), f32(c)
    fields = [DTYPE_CODES[dtype], *nhwc_fields(x), *nhwc_fields(out), pointer(scale), pointer(shift), pointer(w), 0]
    weights = {"w": w, "scale": scale, "shift": shift}
    traffic = measure(emulator, "transition", fields, {"x": x}, {"out": out}, weights, gpu)
    traffic.column_tiles = -(-c // 2 // COLUMNS)
    return traffic


def depthwise_pointwise(emulator, c: int, o: int, hw: int, stride: int, gpu: Gpu, dtype=torch.float16) -> Traffic:
    x, out = tensor(c, hw, hw, dtype), tensor(o, hw // stride, hw // stride, dtype)
    dw, pw = pack_depthwise(torch.randn(c, 1, 3, 3), dtype), pack(torch.randn(o, c, 1, 1), dtype)
    bd, bp = f32(c), f32(o)
    fields = [DTYPE_CODES[dtype], *nhwc_fields(x), *nhwc_fields(out), *nhwc_fields(None), pointer(dw), pointer(bd), 1,
              *window_fields(3, stride, 1), pointer(pw), pointer(bp), 1]  # fmt: skip
    return measure(
        emulator, "depthwise_pointwise", fields, {"x": x}, {"out": out}, {"dw": dw, "pw": pw, "bd": bd, "bp": bp}, gpu
    )


def fire(emulator, c: int, s: int, e: int, hw: int, gpu: Gpu, dtype=torch.float16) -> Traffic:
    x, out = tensor(c, hw, hw, dtype), tensor(2 * e, hw, hw, dtype)
    ws, w1, w3 = (
        pack(torch.randn(s, c, 1, 1), dtype),
        pack(torch.randn(e, s, 1, 1), dtype),
        pack(torch.randn(e, s, 3, 3), dtype),
    )
    bs, b1, b3 = f32(s), f32(e), f32(e)
    fields = [DTYPE_CODES[dtype], *nhwc_fields(x), *nhwc_fields(out), *nhwc_fields(None), pointer(ws), pointer(bs), s,
              pointer(w1), pointer(b1), e, pointer(w3), pointer(b3), e]  # fmt: skip
    weights = {"ws": ws, "w1": w1, "w3": w3, "bs": bs, "b1": b1, "b3": b3}
    return measure(emulator, "fire", fields, {"x": x}, {"out": out}, weights, gpu)


def stem(
    emulator, k: int, o: int, padding: int, pool: tuple | None, gpu: Gpu, hw: int = 224, dtype=torch.float16
) -> Traffic:
    side = stem_sizes(k, padding, pool, hw)[1]
    x, out = tensor(3, hw, hw, dtype), tensor(o, side, side, dtype)
    w, b = pack(torch.randn(o, 3, k, k), dtype, flat=True), f32(o)
    fields = [DTYPE_CODES[dtype], *nhwc_fields(x), *nhwc_fields(out), 0, pointer(w), pointer(b), 1,
              *window_fields(k, 2, padding), int(bool(pool)),
              *(window_fields(*pool) if pool else window_fields(1))]  # fmt: skip
    return measure(emulator, "stem", fields, {"x": x}, {"out": out}, {"w": w, "b": b}, gpu)


def stem_sizes(k: int, padding: int, pool: tuple | None, hw: int = 224) -> tuple[int, int]:
    """Side of the convolution's map and of the output."""
    conv = (hw + 2 * padding - k) // 2 + 1
    return conv, (conv + 2 * pool[2] - pool[0]) // pool[1] + 1 if pool else conv


def conv1x1(emulator, c: int, o: int, hw: int, gpu: Gpu, dtype=torch.float16) -> Traffic:
    x, out = tensor(c, hw, hw, dtype), tensor(o, hw, hw, dtype)
    w, b = pack(torch.randn(o, c, 1, 1), dtype), f32(o)
    fields = [DTYPE_CODES[dtype], *nhwc_fields(x), *nhwc_fields(out), *nhwc_fields(None), pointer(w), pointer(b), 1]
    traffic = measure(emulator, "conv1x1_bn_act", fields, {"x": x}, {"out": out}, {"w": w, "b": b}, gpu)
    traffic.column_tiles = -(-o // COLUMNS)
    return traffic


def head(emulator, c: int, hw: int, gpu: Gpu, dtype=torch.float16) -> Traffic:
    x, out = tensor(c, hw, hw, dtype), torch.empty(1, c, dtype=dtype)
    scale, shift = f32(c), f32(c)
    fields = [DTYPE_CODES[dtype], *nhwc_fields(x), pointer(scale), pointer(shift), 1, 0, 0, c, pointer(out)]
    return measure(emulator, "head", fields, {"x": x}, {"out": out}, {"scale": scale, "shift": shift}, gpu)


def grids(emulator: Emulator, op, args: tuple, gpu: Gpu) -> list[tuple[int, ...]]:
    """Blocks of every launch of one call, x, y and, where there are, z; nothing is executed."""
    with emulator.dry():
        op(emulator, *args, gpu)
    return [(x, y, z) if z > 1 else (x, y) for x, y, z, *_ in emulator_counters(emulator)["grids"]]


# One entry a distinct shape: op, arguments.
NETWORK = {
    "densenet121 stem": (stem, (7, 64, 3, (3, 2, 1))),
    "densenet121 block1 first": (dense_layer, (64, 56)),
    "densenet121 block1 last": (dense_layer, (224, 56)),
    "densenet121 block2 first": (dense_layer, (128, 28)),
    "densenet121 block2 last": (dense_layer, (480, 28)),
    "densenet121 block3 first": (dense_layer, (256, 14)),
    "densenet121 block3 last": (dense_layer, (992, 14)),
    "densenet121 block4 first": (dense_layer, (512, 7)),
    "densenet121 block4 last": (dense_layer, (992, 7)),
    "densenet121 transition1": (transition, (256, 56)),
    "densenet121 transition2": (transition, (512, 28)),
    "densenet121 transition3": (transition, (1024, 14)),
    "densenet121 head": (head, (1024, 7)),
    "mobilenet_v1 stem": (stem, (3, 32, 1, None)),
    "mobilenet_v1 dw2": (depthwise_pointwise, (32, 64, 112, 1)),
    "mobilenet_v1 dw3": (depthwise_pointwise, (64, 128, 112, 2)),
    "mobilenet_v1 dw4": (depthwise_pointwise, (128, 128, 56, 1)),
    "mobilenet_v1 dw5": (depthwise_pointwise, (128, 256, 56, 2)),
    "mobilenet_v1 dw6": (depthwise_pointwise, (256, 256, 28, 1)),
    "mobilenet_v1 dw8": (depthwise_pointwise, (512, 512, 14, 1)),
    "mobilenet_v1 dw14": (depthwise_pointwise, (1024, 1024, 7, 1)),
    "squeezenet1_1 stem": (stem, (3, 64, 0, (3, 2, 0))),
    "squeezenet1_1 fire2": (fire, (64, 16, 64, 55)),
    "squeezenet1_1 fire5": (fire, (256, 32, 128, 27)),
    "squeezenet1_1 fire9": (fire, (512, 64, 256, 13)),
    "squeezenet1_1 conv10": (conv1x1, (512, 1000, 13)),
}
