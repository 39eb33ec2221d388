// Convolution of a normalised, activated tensor that is never stored, with the batch statistics of its result:
//   u = act(norm(x)), y = conv2d(u, weight) + bias, mean[k] and biased var[k] of y over its pixels.
// groups is 1 or, for depthwise, C (weight [C, 1, kh, kw]). pool: u is averaged over 2x2 windows before the
// convolution. Padding is zeros of u. Backward, from the gradient of y:
//   du = transposed convolution of dy; dz = du * act'(z); dbeta = sum dz; dgamma = sum dz * xhat;
//   dx = gamma / sqrt(var + eps) * (dz - mean(dz) - xhat * mean(dz * xhat)), without the two means when frozen;
//   dweight = sum over pixels of dy * u; dbias = sum of dy.
#pragma once

#include "lightops/training/norm.h"

namespace lightops {

struct BnActConv2dParams {
  Nhwc x;  // [N, H, W, C]
  Nhwc y;  // [N, H', W', K]
  DType type = DType::f32;  // of x, y, weight and bias
  Norm norm;
  Act act = Act::none;
  const void* weight = nullptr;  // dense [K, C / groups, kh, kw]
  const void* bias = nullptr;    // [K] or null
  Window window;
  int64_t groups = 1;
  bool pool = false;
  void* mean = nullptr;          // [K] in the compute type; null: no statistics are taken
  void* var = nullptr;
  void* workspace = nullptr;
  Parallel parallel;
};

struct BnActConv2dBackwardParams {
  Nhwc dy;  // [N, H', W', K]
  Nhwc x;   // [N, H, W, C]
  DType type = DType::f32;  // of dy, x, dx, weight, dweight and dbias
  Norm norm;
  Act act = Act::none;
  const void* weight = nullptr;
  Window window;
  int64_t groups = 1;
  bool pool = false;
  // What is null is not wanted and costs nothing.
  Nhwc dx;                  // [N, H, W, C]
  void* dgamma = nullptr;   // [C] in the compute type
  void* dbeta = nullptr;
  void* dweight = nullptr;  // dense [K, C / groups, kh, kw]
  void* dbias = nullptr;    // [K]
  void* workspace = nullptr;
  Parallel parallel;
};

int64_t bn_act_conv2d_workspace(const BnActConv2dParams& p);
Status bn_act_conv2d_cpu(const BnActConv2dParams& p);
int64_t bn_act_conv2d_backward_workspace(const BnActConv2dBackwardParams& p);
Status bn_act_conv2d_backward_cpu(const BnActConv2dBackwardParams& p);

}  // namespace lightops
