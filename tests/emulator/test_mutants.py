"""Faults planted into copies of the kernels: the quick cases must notice each (a wrong number or a reported fault)."""

import shutil
from pathlib import Path

import harness
import pytest
from gemm_mutants import GEMM_MUTANTS
from judge import gpu_of, run_case
from training_cases import CASES as TRAINING_CASES
from training_cases.case import run as run_training
from training_mutants import TRAINING_MUTANTS

# file, what to replace, by what, the ops whose cases are run
MUTANTS = {
    "no barrier in the pipeline": (
        "implicit_gemm.cuh",
        "      sync_threads();\n      copy_next(false);",
        "      copy_next(false);",
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
        "Activation<Math>(a.act));\n  sync_threads();",
        "Activation<Math>(a.act));",
        ["conv1x1_bn_act"],
    ),
    "last split dropped": (
        "epilogues.cuh",
        "of < a.splits; ++of",
        "of < a.splits - 1; ++of",
        ["conv1x1_bn_act", "bn_relu_conv2d"],
    ),
    "counts itself before the sums are left": (
        "epilogues.cuh",
        "  sync_threads();\n  if (thread_index() == 0) store_shared(slot, arrive",
        "  if (thread_index() == 0) store_shared(slot, arrive",
        ["conv1x1_bn_act"],
    ),
    "counter not left at zero": (
        "epilogues.cuh",
        "if (thread_index() == 0) store_global(a.arrivals + block, 0);",
        "",
        ["dense_block"],
    ),
    "a warp's second chunk of channels read from the first": (
        "producers.cuh",
        "ldmatrix_x4(a, base + (at ^ w * kChunkBytes));",
        "ldmatrix_x4(a, base + at);",
        ["depthwise_pointwise"],
    ),
    "output rows eight further on in their own swizzle": (
        "producers.cuh",
        "store_shared(base + (to ^ w * kChunkBytes) + half * 8 * kRowBytes, raw);",
        "store_shared(base + ((to + half * 7 * kRowBytes) ^ w * kChunkBytes), raw);",
        ["depthwise_pointwise"],
    ),
    "pitch of the output instead of the input": (
        "loaders.cuh",
        "pixel_at(from, args.x, on ? pixel[i] : 0)",
        "pixel_at(from, args.out, on ? pixel[i] : 0)",
        ["bn_relu_conv2d", "depthwise_pointwise"],
    ),
    "every part of a pair begins at the first channel": (
        "resident.cuh",
        "const int first_chunk = block_z() * a.chunks_per_split;",
        "const int first_chunk = 0;",
        ["depthwise_pointwise"],
    ),
    "weights that come ahead in the place of the producer's stages": (
        "resident.cuh",
        "unsigned char* const ring = scratch + a.ring_offset;",
        "unsigned char* const ring = scratch;",
        ["depthwise_pointwise", "fire"],
    ),
    "parts of a pair leave their sums in one place": (
        "resident.cuh",
        "a.first.images * a.tile.tiles_y * a.tile.tiles_x * a.units, block_z(), tables.tap",
        "a.first.images * a.tile.tiles_y * a.tile.tiles_x * a.units, 0, tables.tap",
        ["depthwise_pointwise"],
    ),
    "scale of a part's first chunk alone": (
        "addressing.cuh",
        "first_chunk * kRow,\n                          end_chunk * kRow);",
        "first_chunk * kRow,\n                          first_chunk * kRow + kRow);",
        ["dense_block"],
    ),
    "split that starts within a chunk does not load it": (
        "implicit_gemm.cuh",
        "if (at_start || copy_tap == 0) {",
        "if (copy_tap == 0) {",
        ["bn_relu_conv2d"],
    ),
    "padding through the affine map": (
        "loaders.cuh",
        "      if (pixel[i] < 0) continue;\n      float v[kElements];",
        "      if (pixel[i] == -2) continue;\n      float v[kElements];",
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
        "v[i] = v[i] * scale[i] + shift[i];",
        "v[i] = v[i] * scale[i];",
        ["bn_relu_conv2d"],
    ),
    "average of four taken as two": ("loaders.cuh", "mean[e] * 0.25f", "mean[e] * 0.5f", ["transition"]),
    "pool corner wrong": ("loaders.cuh", "k / 2 * args.x.width + k % 2", "k / 2 * args.x.width", ["transition"]),
    "kernel transposed": (
        "addressing.cuh",
        "tap / g.kernel_w * g.dilation_h, right = tap % g.kernel_w * g.dilation_w",
        "tap % g.kernel_w * g.dilation_h, right = tap / g.kernel_w * g.dilation_w",
        ["bn_relu_conv2d"],
    ),
    "swizzle of writers only": (
        "loaders.cuh",
        "stage + tile_offset(thread_index() / kRowChunks, thread_index() % kRowChunks) +",
        "stage + thread_index() / kRowChunks * kRowBytes + thread_index() % kRowChunks * 16 +",
        ["conv1x1_bn_act"],
    ),
    "bias of the neighbour": (
        "epilogues.cuh",
        "second + bits_to_float(pair.w[1])",
        "second + bits_to_float(pair.w[0])",
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
        "for (int kx = 0; kx < g.kernel_w; ++kx) {\n        if (!on",
        "for (int kx = 0; kx < g.kernel_w - 1; ++kx) {\n        if (!on",
        ["stem"],
    ),
    "store past the slice": (
        "epilogues.cuh",
        "const bool on = some && pixel >= 0;\n      const Vec16",
        "const bool on = pixel >= 0;\n      const Vec16",
        ["conv1x1_bn_act"],
    ),
    "no activation between the two": (
        "producers.cuh",
        "act.pack(v, raw);\n    store_shared(out + tile_offset(row, chunk)",
        "pack<Math>(v, raw);\n    store_shared(out + tile_offset(row, chunk)",
        ["depthwise_pointwise"],
    ),
    "stage reused too early": (
        "producers.cuh",
        "scratch + ahead * stage_bytes",
        "scratch + here * stage_bytes",
        ["depthwise_pointwise"],
    ),
    "border of the squeeze not zero": (
        "producers.cuh",
        "if (inside) act.pack(v, raw);",
        "act.pack(v, raw);",
        ["fire"],
    ),
    "keys of the readers alone": (
        "producers.cuh",
        "row_place(r, key)",
        "row_place(r)",
        ["fire"],
    ),
    "half of the gathered chunks": (
        "loaders.cuh",
        "part += kWarps)",
        "part += kRowChunks)",
        ["stem"],
    ),
    "tile read before it is published": (
        "resident.cuh",
        "        sync_threads();\n        weights.start_next();",
        "        weights.start_next();",
        ["fire"],
    ),
    "no barrier between tiles": (
        "stationary.cuh",
        "      sync_threads();\n      copy_next();",
        "      copy_next();",
        ["dense_block"],
    ),
    "the other half of the sum left out": (
        "stationary.cuh",
        "half ? other + own : own + other",
        "own",
        ["dense_block"],
    ),
    "weights beside the diagonal": (
        "producers.cuh",
        "column / 2 == lane % 4)",
        "(column + 2) / 2 % 4 == lane % 4)",
        ["depthwise_pointwise"],
    ),
    "tap without a pair doubled": (
        "producers.cuh",
        "if (tap < kTaps && column / 2",
        "if (column / 2",
        ["depthwise_pointwise"],
    ),
    "window of the pool one row short": (
        "max_pool2d.cu",
        "ky < a.window.kernel_h",
        "ky < a.window.kernel_h - 1",
        ["max_pool2d"],
    ),
    "residual forgotten": ("inverted_residual.cu", "if (p.residual) d.residual = p.x;", "", ["inverted_residual"]),
    "division a little too small": (
        "conv_args.h",
        "((1 << kReciprocalBits) + divisor - 1) / divisor",
        "(1 << kReciprocalBits) / divisor",
        ["depthwise_pointwise", "fire"],
    ),
    "centre tap off by one": ("fire.cu", " 1,\n                 4}", " 1,\n                 3}", ["fire"]),
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
        "Math::min_word(Math::max_word(word, low), high)",
        "Math::max_word(Math::min_word(word, low), high)",
        ["conv1x1_bn_act"],
    ),
}
MUTANTS |= TRAINING_MUTANTS | GEMM_MUTANTS
SEEDS = 60


def noticed(emulator, ops) -> bool:
    """ "op, bounded": by the cases that have a bound; those that are exact would notice anything."""
    for name in ops:
        op, _, bounded = name.partition(", ")
        for seed in range(SEEDS):
            try:
                if op in TRAINING_CASES:
                    case = TRAINING_CASES[op](seed)
                    if bounded and case.exact:
                        continue
                    run_training(emulator, case, gpu_of(case), seed)
                else:
                    run_case(emulator, op, seed)
            except AssertionError:
                return True
    return False


@pytest.mark.long
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_noticed(name, tmp_path):
    file, old, new, ops = MUTANTS[name]
    kernels = Path(shutil.copytree(harness.ROOT / "csrc/cuda", tmp_path / "cuda"))
    text = (kernels / file).read_text()
    assert old in text, f"the mutant's place in {file} is gone"
    (kernels / file).write_text(text.replace(old, new, 1))
    # A name of its own: a library loaded twice under one path would be the first again.
    library = harness.build_changed(f"mutant{sorted(MUTANTS).index(name)}.so", kernels, file)
    assert noticed(harness.Emulator(library), ops)
