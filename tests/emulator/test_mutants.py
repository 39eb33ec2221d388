"""Faults planted into copies of the kernels: the quick cases must notice each (a wrong number or a reported fault)."""

import shutil
from pathlib import Path

import harness
import pytest
from judge import run_case

# file, what to replace, by what, the ops whose cases are run
MUTANTS = {
    "no barrier in the pipeline": (
        "implicit_gemm.cuh",
        "      sync_threads();\n      copy_next();",
        "      copy_next();",
        ["conv1x1_bn_act"],
    ),
    "waits for too few copies": (
        "implicit_gemm.cuh",
        "cp_async_wait<Block::kStages - 2>()",
        "cp_async_wait<Block::kStages - 1>()",
        ["conv1x1_bn_act"],
    ),
    "epilogue over live stages": (
        "implicit_gemm.cuh",
        "  cp_async_wait<0>();\n  sync_threads();  // the",
        "  cp_async_wait<0>();  // the",
        ["conv1x1_bn_act"],
    ),
    "no barrier before the store": (
        "implicit_gemm.cuh",
        "Activation(a.act));\n  sync_threads();",
        "Activation(a.act));",
        ["conv1x1_bn_act"],
    ),
    "last split dropped": (
        "implicit_gemm.cuh",
        "s < a.splits; ++s",
        "s < a.splits - 1; ++s",
        ["conv1x1_bn_act", "bn_relu_conv2d"],
    ),
    "padding through the affine map": (
        "loaders.cuh",
        "if (pixel[i] < 0) continue;",
        "if (pixel[i] == -2) continue;",
        ["bn_relu_conv2d"],
    ),
    "padding one row short": (
        "loaders.cuh",
        "y >= 0 && y < a.x.height && x >= 0",
        "y >= 1 && y < a.x.height && x >= 0",
        ["bn_relu_conv2d"],
    ),
    "shift forgotten": (
        "addressing.cuh",
        "bits_to_float(scale.w[j]) + bits_to_float(shift.w[j])",
        "bits_to_float(scale.w[j])",
        ["bn_relu_conv2d"],
    ),
    "average of four taken as two": ("loaders.cuh", "mean[e] * 0.25f", "mean[e] * 0.5f", ["transition"]),
    "pool corner wrong": ("loaders.cuh", "2 * x + corner % 2", "2 * x + corner / 2", ["transition"]),
    "kernel transposed": (
        "addressing.cuh",
        "tap / g.kernel_w * g.dilation_h, right = tap % g.kernel_w * g.dilation_w",
        "tap % g.kernel_w * g.dilation_h, right = tap / g.kernel_w * g.dilation_w",
        ["bn_relu_conv2d"],
    ),
    "swizzle of writers only": (
        "loaders.cuh",
        "stage + tile_offset(thread_index() / kRowChunks + i * (kThreads / kRowChunks), thread_index() % kRowChunks);",
        "stage + (thread_index() / 4 + i * (kThreads / 4)) * kRowBytes + thread_index() % kRowChunks * 16;",
        ["conv1x1_bn_act"],
    ),
    "bias of the neighbour": (
        "epilogues.cuh",
        "second += load_global(bias + at + 1, at + 1 < columns)",
        "second += load_global(bias + at, at < columns)",
        ["conv1x1_bn_act"],
    ),
    "activation after the residual": (
        "epilogues.cuh",
        "for (int e = 0; e < kElements; ++e) v[e] += other[e];",
        "for (int e = 0; e < kElements; ++e) v[e] = v[e] + other[e] < 0 ? 0 : v[e] + other[e];",
        ["conv1x1_bn_act"],
    ),
    "pool drops a tap": (
        "epilogues.cuh",
        "tap < a.pool.kernel_h * a.pool.kernel_w",
        "tap < a.pool.kernel_h * a.pool.kernel_w - 1",
        ["stem"],
    ),
    "store past the slice": (
        "addressing.cuh",
        "pack<Math>(value), on && channel < v.channels",
        "pack<Math>(value), on",
        ["conv1x1_bn_act"],
    ),
    "no activation between the two": (
        "producers.cuh",
        "sum[e] = act(sum[e]);",
        "sum[e] = sum[e];",
        ["depthwise_pointwise"],
    ),
    "stage reused too early": (
        "producers.cuh",
        "scratch + (chunk + 1) % 2 * stage_bytes",
        "scratch + chunk % 2 * stage_bytes",
        ["depthwise_pointwise"],
    ),
    "border of the squeeze not zero": (
        "producers.cuh",
        "inside ? act(first) : 0.f, inside ? act(second) : 0.f",
        "act(first), act(second)",
        ["fire", "dense_block"],
    ),
    "tile read before it is published": (
        "resident.cuh",
        "        sync_threads();\n        weights.start_next();",
        "        weights.start_next();",
        ["fire"],
    ),
    "centre tap off by one": ("fire.cu", "p.expand1_bias, 1, 4}", "p.expand1_bias, 1, 3}", ["fire"]),
    "slice one layer back": (
        "dense_block.cu",
        "p.in_channels + index * p.growth",
        "p.in_channels + (index ? index - 1 : 0) * p.growth",
        ["dense_block"],
    ),
    "average over one pixel less": (
        "head.cu",
        "p < pixels; p += kPixelLanes",
        "p < pixels - 1; p += kPixelLanes",
        ["head"],
    ),
    "relu hides NaN? no: clamp swapped": (
        "number.cuh",
        "return v < low ? low : v > high ? high : v;",
        "return v < high ? low : v > low ? high : v;",
        ["conv1x1_bn_act"],
    ),
}
SEEDS = 60


def noticed(emulator, ops) -> bool:
    for op in ops:
        for seed in range(SEEDS):
            try:
                run_case(emulator, op, seed)
            except AssertionError:
                return True
    return False


@pytest.mark.long
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_noticed(name, tmp_path, monkeypatch):
    file, old, new, ops = MUTANTS[name]
    kernels = Path(shutil.copytree(harness.ROOT / "csrc/cuda", tmp_path / "cuda"))
    text = (kernels / file).read_text()
    assert old in text, f"the mutant's place in {file} is gone"
    (kernels / file).write_text(text.replace(old, new, 1))
    monkeypatch.setattr(harness, "BUILD", tmp_path / "build")
    # A name of its own: a library loaded twice under one path would be the first again.
    library = harness.build(name=f"mutant{sorted(MUTANTS).index(name)}.so", kernels=kernels)
    assert noticed(harness.Emulator(library), ops)
