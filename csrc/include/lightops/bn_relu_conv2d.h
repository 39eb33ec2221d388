// Pre-activation convolution: out = act(conv2d(pre_act(x * scale + shift)) + bias), zero padding after the activation.
#pragma once

#include "lightops/common.h"

namespace lightops {

struct BnReluConv2dParams {
  Nhwc x;                          // [N, H, W, C]
  Nhwc out;                        // [N, H', W', O]
  DType type = DType::f32;
  bool pairs = false;              // convolution weights hold pairs of bfloat16 (pack.h); type is bf16
  const void* scale = nullptr;     // [C] or null (then shift is null too)
  const void* shift = nullptr;     // [C]
  Act pre_act = Act::relu;
  const void* weight = nullptr;    // packed [O, C, kh, kw]
  const void* bias = nullptr;      // [O] or null
  Act act = Act::none;
  Window window;
  Algo algo = Algo::direct;
  void* workspace = nullptr;
  Parallel parallel;
};

int64_t bn_relu_conv2d_workspace(const BnReluConv2dParams& p);
Status bn_relu_conv2d_cpu(const BnReluConv2dParams& p);

}  // namespace lightops
