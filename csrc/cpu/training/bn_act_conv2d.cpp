#include "lightops/training/bn_act_conv2d.h"

#include "training/bn_act_dense.h"
#include "training/bn_act_depthwise.h"

namespace lightops {
namespace LIGHTOPS_ISA {

int64_t bn_act_conv2d_workspace(const BnActConv2dParams& p) {
  return p.groups == 1 ? bn_act_dense_workspace(p) : bn_act_depthwise_workspace(p);
}
Status bn_act_conv2d_cpu(const BnActConv2dParams& p) {
  return p.groups == 1 ? bn_act_dense_cpu(p) : bn_act_depthwise_cpu(p);
}
int64_t bn_act_conv2d_backward_workspace(const BnActConv2dBackwardParams& p) {
  return p.groups == 1 ? bn_act_dense_backward_workspace(p) : bn_act_depthwise_backward_workspace(p);
}
Status bn_act_conv2d_backward_cpu(const BnActConv2dBackwardParams& p) {
  return p.groups == 1 ? bn_act_dense_backward_cpu(p) : bn_act_depthwise_backward_cpu(p);
}

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
