#include "lightops/training/bn_act_conv2d.h"

#include "training/bn_act_dense.h"

namespace lightops {
namespace LIGHTOPS_ISA {

int64_t bn_act_conv2d_workspace(const BnActConv2dParams& p) {
  return p.groups == 1 ? bn_act_dense_workspace(p) : 0;
}
Status bn_act_conv2d_cpu(const BnActConv2dParams& p) {
  return p.groups == 1 ? bn_act_dense_cpu(p) : Status::unsupported_groups;
}
int64_t bn_act_conv2d_backward_workspace(const BnActConv2dBackwardParams& p) {
  return p.groups == 1 ? bn_act_dense_backward_workspace(p) : 0;
}
Status bn_act_conv2d_backward_cpu(const BnActConv2dBackwardParams& p) {
  return p.groups == 1 ? bn_act_dense_backward_cpu(p) : Status::unsupported_groups;
}

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
