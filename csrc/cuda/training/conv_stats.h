// A convolution and the batch statistics of its output. Where the kernel can, it takes them tile by tile as it stores the output;
// otherwise the output is read once more.
#pragma once

#include "conv_launch.h"

namespace lightops::cuda {

int64_t conv_stats_workspace(const ConvProblem& problem, DType type, const Device& device);
// mean and var: float32 [out channels], biased.
Result run_conv_stats(ConvProblem problem, DType type, float* mean, float* var, void* workspace, const Device& device,
                      StreamHandle stream);

}  // namespace lightops::cuda
