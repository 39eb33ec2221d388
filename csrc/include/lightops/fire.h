// SqueezeNet's Fire module: s = relu(SQ x + b); out = relu(E1 s + b1) ++ relu(E3 * s + b3) [+ bypass]. arXiv 1602.07360.
#pragma once

#include "lightops/common.h"

namespace lightops {

struct FireParams {
  Nhwc x;  // [N, H, W, C]
  Nhwc out;  // [N, H, W, E1 + E3]
  DType type = DType::f32;
  bool pairs = false;  // convolution weights hold pairs of bfloat16 (pack.h); type is bf16
  const void* squeeze = nullptr;  // packed [S, C, 1, 1]
  const void* squeeze_bias = nullptr;
  int64_t squeeze_channels = 0;
  const void* expand1 = nullptr;  // packed [E1, S, 1, 1]
  const void* expand1_bias = nullptr;
  int64_t expand1_channels = 0;
  const void* expand3 = nullptr;  // packed [E3, S, 3, 3]
  const void* expand3_bias = nullptr;
  int64_t expand3_channels = 0;
  Algo algo = Algo::direct;  // of the 3x3
  Nhwc bypass;  // [N, H, W, E1 + E3], data null: none
  void* workspace = nullptr;
  Parallel parallel;
};

int64_t fire_workspace(const FireParams& p);
Status fire_cpu(const FireParams& p);

}  // namespace lightops
