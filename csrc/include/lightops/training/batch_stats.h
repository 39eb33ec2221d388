// Statistics of a batch: mean[c] and biased var[c] of x [N, H, W, C] over its N * H * W pixels.
#pragma once

#include "lightops/common.h"

namespace lightops {

struct BatchStatsParams {
  Nhwc x;
  DType type = DType::f32;
  void* mean = nullptr;  // [C] in the compute type
  void* var = nullptr;
  void* workspace = nullptr;
  Parallel parallel;
};

int64_t batch_stats_workspace(const BatchStatsParams& p);
Status batch_stats_cpu(const BatchStatsParams& p);

}  // namespace lightops
