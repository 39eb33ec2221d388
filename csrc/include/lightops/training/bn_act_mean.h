// The head: out[n][c] = average of act(norm(x)) over the map. Backward as bn_act.h with dy[n][c] / (H * W) at every pixel.
#pragma once

#include "lightops/training/norm.h"

namespace lightops {

struct BnActMeanParams {
  Nhwc x;  // [N, H, W, C]
  DType type = DType::f32;
  Norm norm;
  Act act = Act::none;
  void* out = nullptr;  // [N, C]
  void* workspace = nullptr;
  Parallel parallel;
};

struct BnActMeanBackwardParams {
  const void* dy = nullptr;  // [N, C]
  Nhwc x, dx;  // [N, H, W, C]
  DType type = DType::f32;
  Norm norm;
  Act act = Act::none;
  void* dgamma = nullptr;  // [C] in the compute type
  void* dbeta = nullptr;
  void* workspace = nullptr;
  Parallel parallel;
};

int64_t bn_act_mean_workspace(const BnActMeanParams& p);
Status bn_act_mean_cpu(const BnActMeanParams& p);
int64_t bn_act_mean_backward_workspace(const BnActMeanBackwardParams& p);
Status bn_act_mean_backward_cpu(const BnActMeanBackwardParams& p);

}  // namespace lightops
