// DenseNet's transition: out = W avgpool2x2(relu(x * scale + shift)) + b. The pool comes first: it commutes with the 1x1
// convolution, which then costs a quarter of the multiply-adds. arXiv 1608.06993.
#pragma once

#include "lightops/common.h"

namespace lightops {

struct TransitionParams {
  Nhwc x;  // [N, H, W, C]
  Nhwc out;  // [N, H / 2, W / 2, O]; may be a channel prefix of the next block's buffer
  DType type = DType::f32;
  bool pairs = false;  // convolution weights hold pairs of bfloat16 (pack.h); type is bf16
  const void* scale = nullptr;  // [C]
  const void* shift = nullptr;
  const void* weight = nullptr;  // packed [O, C, 1, 1]
  const void* bias = nullptr;  // [O] or null
  void* workspace = nullptr;
  Parallel parallel;
};

int64_t transition_workspace(const TransitionParams& p);
Status transition_cpu(const TransitionParams& p);

}  // namespace lightops
