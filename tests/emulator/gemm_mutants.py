"""Faults planted into the matrix products of training, as MUTANTS of test_mutants.py has those of inference."""

GEMM_MUTANTS = {
    "wgrad: no barrier in the pipeline": (
        "training/wgrad.cuh",
        "    loader.finish(place, dy);\n    sync_threads();",
        "    loader.finish(place, dy);",
        ["wgrad"],
    ),
    "wgrad: waits for too few copies": (
        "training/wgrad.cuh",
        "cp_async_wait<Block::kStages - 2>()",
        "cp_async_wait<Block::kStages - 1>()",
        ["wgrad"],
    ),
    "wgrad: stage reused too early": (
        "training/wgrad.cuh",
        "shared + (stage == 0 ? Block::kStages - 1 : stage - 1) * stage_bytes",
        "shared + stage * stage_bytes",
        ["wgrad"],
    ),
    "wgrad: first taps of every warp": (
        "training/wgrad.cuh",
        "const int row = slot + Tables::tap_shift(first_tap + t);",
        "const int row = slot + Tables::tap_shift(t);",
        ["wgrad"],
    ),
    "wgrad: the same pixels twice": ("training/wgrad.cuh", "a[k][m], &b[k * 2]", "a[k][m], &b[0]", ["wgrad"]),
    "wgrad: tiles without their image": (
        "training/wgrad.cuh",
        "at.w[1] = 0, ++at.w[0];",
        "at.w[1] = 0;",
        ["wgrad"],
    ),
    "wgrad: padding through the affine map": (
        "training/wgrad.cuh",
        "if (place < 0 || !input(at, place, &y, &x)) continue;",
        "if (place < 0 || (input(at, place, &y, &x), false)) continue;",
        ["wgrad"],
    ),
    "wgrad: shift forgotten": (
        "training/wgrad.cuh",
        "v[e] * bits_to_float(scale.w[e]) + bits_to_float(shift.w[e])",
        "v[e] * bits_to_float(scale.w[e])",
        ["wgrad"],
    ),
    "wgrad: average of four taken as two": ("training/wgrad.cuh", "v[e] * 0.25f", "v[e] * 0.5f", ["wgrad"]),
    "wgrad: last split dropped": ("training/wgrad.cu", "s < a.splits; ++s", "s < a.splits - 1; ++s", ["wgrad"]),
    "wgrad: every pixel of a strided map": (
        "training/wgrad_plan.cpp",
        "    a.x.pixel *= g.stride_w;\n",
        "",
        ["wgrad"],
    ),
    "bias: last part left out": (
        "training/channel_sum.cu",
        "a.x.channels, a.pass.parts}",
        "a.x.channels, a.pass.parts - 1}",
        ["wgrad"],
    ),
    "taps not turned round": (
        "training/pack.cu",
        "? a.kernel_h * a.kernel_w - 1 - group : group",
        "? group : group",
        ["pack_weight"],
    ),
    "zeros missing in a column": (
        "training/input_gradient.cu",
        "from_x * a.factor_w == x",
        "from_x * a.factor_w <= x",
        ["bn_act_dense_backward"],
    ),
    "padding of the forward pass": (
        "training/input_gradient.cu",
        "g.window.dilation[axis] * (g.window.kernel[axis] - 1) - g.window.padding[axis]",
        "g.window.padding[axis]",
        ["bn_act_dense_backward"],
    ),
    "gradient of an average of two": (
        "training/bn_act_dense.cu",
        "{2, 2}, true, 0.25f}",
        "{2, 2}, true, 0.5f}",
        ["bn_act_dense_backward"],
    ),
    "statistics: staged tile overwritten too early": (
        "moments.cuh",
        "    sync_threads();  // every thread has stored its rows\n",
        "",
        ["bn_act_dense"],
    ),
    "statistics: a row of threads left out": (
        "moments.cuh",
        "for (int lane = 0; lane < kLanes; ++lane)",
        "for (int lane = 0; lane < kLanes - 1; ++lane)",
        ["bn_act_dense"],
    ),
    "statistics: rows past the map": (
        "epilogues.cuh",
        "      if (on) stored(raw);",
        "      if (some) stored(raw);",
        ["bn_act_dense"],
    ),
    "statistics: deviations from the first tile's mean": (
        "training/conv_stats.cu",
        "squares - sum * off;",
        "squares;",
        ["bn_act_dense"],
    ),
}
