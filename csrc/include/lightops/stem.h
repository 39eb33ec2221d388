// The first layer: out = maxpool(act(conv2d(x) + bias)), the pool optional. x may be planar (NCHW) or NHWC.
#pragma once

#include "lightops/common.h"

namespace lightops {

struct StemParams {
  Nhwc x;                          // [N, H, W, C]; for planar input only data and sizes are read
  bool planar = false;             // NCHW, contiguous
  Nhwc out;                        // [N, H', W', O]
  DType type = DType::f32;
  bool pairs = false;              // convolution weights hold pairs of bfloat16 (pack.h); type is bf16
  const void* weight = nullptr;    // packed [O, C, kh, kw]
  const void* bias = nullptr;
  Act act = Act::relu;
  Window window;
  bool pooled = false;
  Window pool;                     // dilation 1; windows may overhang (ceil mode): what lies outside does not count
  void* workspace = nullptr;
  Parallel parallel;
};

int64_t stem_workspace(const StemParams& p);
Status stem_cpu(const StemParams& p);

}  // namespace lightops
