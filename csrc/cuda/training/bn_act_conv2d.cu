#include "lightops/training/bn_act_conv2d.h"

#include "lightops/training/cuda.h"
#include "training/bn_act_dense.h"
#include "training/bn_act_depthwise.h"

namespace lightops::cuda {

int64_t bn_act_conv2d_cuda_workspace(const BnActConv2dParams& p, const Device& device) {
  return is_depthwise(p) ? bn_act_depthwise_cuda_workspace(p, device) : bn_act_dense_cuda_workspace(p, device);
}
Result bn_act_conv2d_cuda(const BnActConv2dParams& p, const Device& device, StreamHandle stream) {
  return is_depthwise(p) ? bn_act_depthwise_cuda(p, device, stream) : bn_act_dense_cuda(p, device, stream);
}
int64_t bn_act_conv2d_backward_cuda_workspace(const BnActConv2dBackwardParams& p, const Device& device) {
  return is_depthwise(p) ? bn_act_depthwise_backward_cuda_workspace(p, device)
                         : bn_act_dense_backward_cuda_workspace(p, device);
}
Result bn_act_conv2d_backward_cuda(const BnActConv2dBackwardParams& p, const Device& device, StreamHandle stream) {
  return is_depthwise(p) ? bn_act_depthwise_backward_cuda(p, device, stream)
                         : bn_act_dense_backward_cuda(p, device, stream);
}

}  // namespace lightops::cuda
