// The first layer in training, where no batch norm stands between convolution and pool (SqueezeNet):
//   out = maxpool(act(conv2d(x) + bias)), act the identity or ReLU.
// The convolution's result is never stored. `places` says where in its window each maximum is, kx + ky * kernel width: the
// first one in row order, and a NaN before any number (the last one), as torch does. Backward, with d = dout where
// out > 0 (all of dout without ReLU), brought to its place in dy: dweight = sum over pixels of dy x, dbias = sum of dy,
// dx = transposed convolution of dy (which an image does not need: only the CUDA kernels have it).
#pragma once

#include "lightops/common.h"

namespace lightops {

struct StemTrainParams {
  Nhwc x;  // [N, H, W, C]
  Nhwc out;  // [N, H', W', O], dense
  uint8_t* places = nullptr;  // [N, H', W', O]
  DType type = DType::f32;  // of everything: f32 or f64 on the CPU; f16, bf16 or f32 in CUDA
  const void* weight = nullptr;  // [O, C, kh, kw], dense
  const void* bias = nullptr;
  Act act = Act::relu;
  Window window;  // dilation 1
  Window pool;  // dilation 1, at most 256 pixels; windows may overhang (ceil mode)
  void* workspace = nullptr;
  Parallel parallel;
};

struct StemTrainBackwardParams {
  Nhwc x;  // [N, H, W, C]
  Nhwc dout, out;  // [N, H', W', O]
  const uint8_t* places = nullptr;
  DType type = DType::f32;
  Act act = Act::relu;
  Window window, pool;
  const void* weight = nullptr;  // [O, C, kh, kw], dense; for dx
  Nhwc dx;  // null: not wanted
  void* dweight = nullptr;  // [O, C, kh, kw]; null: not wanted
  void* dbias = nullptr;  // [O]; null: not wanted
  void* workspace = nullptr;
  Parallel parallel;
};

int64_t stem_train_workspace(const StemTrainParams& p);
Status stem_train_cpu(const StemTrainParams& p);
int64_t stem_train_backward_workspace(const StemTrainBackwardParams& p);
Status stem_train_backward_cpu(const StemTrainBackwardParams& p);

}  // namespace lightops
