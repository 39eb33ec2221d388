// out[c] = sum over pixels of x[p, c], in x's type: the gradient of a bias.
#pragma once

#include "lightops/cuda.h"

namespace lightops::cuda {

int64_t channel_sum_workspace(const Nhwc& x, DType type);
Result run_channel_sum(const Nhwc& x, DType type, void* out, void* workspace, StreamHandle stream);

// The second half, for kernels that took the sums of every part themselves: [parts][channels].
Result run_merge_channel_sums(const float* sums, int parts, int channels, DType type, void* out, StreamHandle stream);

}  // namespace lightops::cuda
