// bn_act_conv2d with groups == C, any window.
#pragma once

#include "lightops/cuda.h"
#include "lightops/training/bn_act_conv2d.h"

namespace lightops::cuda {

inline bool is_depthwise(const BnActConv2dParams& p) { return p.groups > 1; }
inline bool is_depthwise(const BnActConv2dBackwardParams& p) { return p.groups > 1; }

int64_t bn_act_depthwise_cuda_workspace(const BnActConv2dParams& p, const Device& device);
Result bn_act_depthwise_cuda(const BnActConv2dParams& p, const Device& device, StreamHandle stream);
int64_t bn_act_depthwise_backward_cuda_workspace(const BnActConv2dBackwardParams& p, const Device& device);
Result bn_act_depthwise_backward_cuda(const BnActConv2dBackwardParams& p, const Device& device, StreamHandle stream);

}  // namespace lightops::cuda
