// Max-pool of a normalised, activated tensor that is never stored: out[n, y, x, c] = max of u = act(norm(x)), rounded to
// x's type, over the window's pixels that lie inside the map. Backward: the gradient of a window goes to its first
// maximum in row order, found again from x; then as in bn_act.h.
#pragma once

#include "lightops/training/norm.h"

namespace lightops {

struct BnActMaxPool2dParams {
  Nhwc x;  // [N, H, W, C]
  Nhwc out;  // [N, H', W', C]
  DType type = DType::f32;
  Norm norm;
  Act act = Act::none;
  Window window;  // dilation 1; windows may overhang (ceil mode): what lies outside does not count
  void* workspace = nullptr;
  Parallel parallel;
};

struct BnActMaxPool2dBackwardParams {
  Nhwc dy;  // [N, H', W', C]
  Nhwc x, dx;  // [N, H, W, C]
  DType type = DType::f32;
  Norm norm;
  Act act = Act::none;
  Window window;
  void* dgamma = nullptr;  // [C] in the compute type, null without a norm
  void* dbeta = nullptr;
  void* workspace = nullptr;
  Parallel parallel;
};

int64_t bn_act_max_pool2d_workspace(const BnActMaxPool2dParams& p);
Status bn_act_max_pool2d_cpu(const BnActMaxPool2dParams& p);
int64_t bn_act_max_pool2d_backward_workspace(const BnActMaxPool2dBackwardParams& p);
Status bn_act_max_pool2d_backward_cpu(const BnActMaxPool2dBackwardParams& p);

}  // namespace lightops
