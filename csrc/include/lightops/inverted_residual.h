// MobileNetV2's block in one pass: out = PW act(DW act(EX x + ex_bias) + dw_bias) + pw_bias [+ x], batch norms folded.
// The hidden tensor, up to six times as wide as x, lives in a few rows of scratch. arXiv 1801.04381.
#pragma once

#include "lightops/common.h"

namespace lightops {

struct InvertedResidualParams {
  Nhwc x;                          // [N, H, W, C]
  Nhwc out;                        // [N, H', W', O]
  DType type = DType::f32;
  bool pairs = false;              // convolution weights hold pairs of bfloat16 (pack.h); type is bf16
  const void* ex = nullptr;        // packed [hidden, C, 1, 1]
  const void* ex_bias = nullptr;   // [hidden] or null
  Act ex_act = Act::relu6;
  int64_t hidden = 0;
  const void* dw = nullptr;        // packed [hidden, 1, kh, kw]
  const void* dw_bias = nullptr;
  Act dw_act = Act::relu6;
  Window window;                   // dilation 1
  const void* pw = nullptr;        // packed [O, hidden, 1, 1]
  const void* pw_bias = nullptr;
  bool residual = false;           // adds x: needs stride 1 and O == C
  void* workspace = nullptr;
  Parallel parallel;
};

int64_t inverted_residual_workspace(const InvertedResidualParams& p);
Status inverted_residual_cpu(const InvertedResidualParams& p);

}  // namespace lightops
