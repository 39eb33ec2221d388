// Batch norm and activation of a raw tensor: out = act(norm(x)) + residual. Backward, with z = norm(x) recomputed:
//   dz = dy * act'(z); dbeta = sum dz; dgamma = sum dz * xhat;
//   dx = gamma / sqrt(var + eps) * (dz - mean(dz) - xhat * mean(dz * xhat)), without the two means when frozen.
// The gradient of the residual is dy.
#pragma once

#include "lightops/training/norm.h"

namespace lightops {

struct BnActParams {
  Nhwc x, residual, out;  // [N, H, W, C]; residual.data null: none
  DType type = DType::f32;
  Norm norm;
  Act act = Act::none;
  void* workspace = nullptr;
  Parallel parallel;
};

struct BnActBackwardParams {
  Nhwc dy, x, dx;  // [N, H, W, C]
  DType type = DType::f32;
  Norm norm;
  Act act = Act::none;
  void* dgamma = nullptr;  // [C] in the compute type
  void* dbeta = nullptr;
  void* workspace = nullptr;
  Parallel parallel;
};

int64_t bn_act_workspace(const BnActParams& p);
Status bn_act_cpu(const BnActParams& p);
int64_t bn_act_backward_workspace(const BnActBackwardParams& p);
Status bn_act_backward_cpu(const BnActBackwardParams& p);

}  // namespace lightops
