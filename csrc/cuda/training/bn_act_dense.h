// bn_act_conv2d with groups == 1.
#pragma once

#include "lightops/cuda.h"
#include "lightops/training/bn_act_conv2d.h"

namespace lightops::cuda {

int64_t bn_act_dense_cuda_workspace(const BnActConv2dParams& p, const Device& device);
Result bn_act_dense_cuda(const BnActConv2dParams& p, const Device& device, StreamHandle stream);
int64_t bn_act_dense_backward_cuda_workspace(const BnActConv2dBackwardParams& p, const Device& device);
Result bn_act_dense_backward_cuda(const BnActConv2dBackwardParams& p, const Device& device, StreamHandle stream);

}  // namespace lightops::cuda
