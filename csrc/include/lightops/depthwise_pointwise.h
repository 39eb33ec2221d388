// Depthwise-separable convolution: out = pw_act(PW dw_act(DW x + dw_bias) + pw_bias) + residual, batch norms folded.
// MobileNet, arXiv 1704.04861.
#pragma once

#include "lightops/common.h"

namespace lightops {

struct DepthwisePointwiseParams {
  Nhwc x;                          // [N, H, W, C]
  Nhwc out;                        // [N, H', W', O]
  DType type = DType::f32;
  bool pairs = false;              // convolution weights hold pairs of bfloat16 (pack.h); type is bf16
  const void* dw = nullptr;        // packed [C, 1, kh, kw]
  const void* dw_bias = nullptr;   // [C] or null
  Act dw_act = Act::relu;
  Window window;
  const void* pw = nullptr;        // packed [O, C, 1, 1]
  const void* pw_bias = nullptr;   // [O] or null
  Act pw_act = Act::relu;
  Nhwc residual;                   // [N, H', W', O], data null: none
  void* workspace = nullptr;
  Parallel parallel;
};

int64_t depthwise_pointwise_workspace(const DepthwisePointwiseParams& p);
Status depthwise_pointwise_cpu(const DepthwisePointwiseParams& p);

}  // namespace lightops
