// Pointwise convolution with a folded batch norm: out = act(W x + b) + residual.
#pragma once

#include "lightops/common.h"

namespace lightops {

struct Conv1x1BnActParams {
  Nhwc x;                          // [N, H, W, C]
  Nhwc out;                        // [N, H, W, O]
  DType type = DType::f32;         // of x, out and residual
  bool pairs = false;              // convolution weights hold pairs of bfloat16 (pack.h); type is bf16
  const void* weight = nullptr;    // packed [O, C, 1, 1]; f64 for f64, else f32
  const void* bias = nullptr;      // [O] or null
  Act act = Act::none;
  Nhwc residual;                   // [N, H, W, O], data null: none
  void* workspace = nullptr;       // conv1x1_bn_act_workspace() bytes
  Parallel parallel;
};

int64_t conv1x1_bn_act_workspace(const Conv1x1BnActParams& p);
Status conv1x1_bn_act_cpu(const Conv1x1BnActParams& p);

}  // namespace lightops
