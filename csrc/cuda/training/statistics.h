// Mean and variance of a batch's channels. Runs as norm.h says.
#pragma once

#include "lightops/cuda.h"

namespace lightops::cuda {

// Mean and biased variance of each channel of x over its pixels, float32.
int64_t stats_workspace(const Nhwc& x, const Device& device);
Result run_stats(const Nhwc& x, DType type, float* mean, float* var, void* workspace, const Device& device,
                 StreamHandle stream);

// The second half of run_stats, for kernels that have seen every pixel themselves: `parts` groups of pixels, part i of counts[i]
// of them, each with its mean and the sum of squared deviations from it, [parts][2][channels]. `pixels` is the sum of the counts.
struct PartialStats {
  const float* moments = nullptr;
  const float* counts = nullptr;
  int parts = 0;
  int channels = 0;
  int64_t pixels = 0;
};
Result run_merge_stats(const PartialStats& p, float* mean, float* var, StreamHandle stream);

}  // namespace lightops::cuda
