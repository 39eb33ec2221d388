// Classifier head: y = mean over pixels of act(x * scale + shift), then optionally a linear layer W y + b.
#pragma once

#include "lightops/common.h"

namespace lightops {

struct HeadParams {
  Nhwc x;                          // [N, H, W, C]
  DType type = DType::f32;
  bool pairs = false;              // convolution weights hold pairs of bfloat16 (pack.h); type is bf16
  const void* scale = nullptr;     // [C] or null
  const void* shift = nullptr;
  Act act = Act::none;
  const void* weight = nullptr;    // packed [O, C, 1, 1] or null
  const void* bias = nullptr;
  int64_t out_features = 0;        // O, or C without a linear layer
  void* out = nullptr;             // [N, out_features], dense
  void* workspace = nullptr;
  Parallel parallel;
};

int64_t head_workspace(const HeadParams& p);
Status head_cpu(const HeadParams& p);

}  // namespace lightops
