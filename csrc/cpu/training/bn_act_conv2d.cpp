#include "lightops/training/bn_act_conv2d.h"

namespace lightops {
namespace LIGHTOPS_ISA {

int64_t bn_act_conv2d_workspace(const BnActConv2dParams&) { return 0; }
Status bn_act_conv2d_cpu(const BnActConv2dParams&) { return Status::unsupported_groups; }
int64_t bn_act_conv2d_backward_workspace(const BnActConv2dBackwardParams&) { return 0; }
Status bn_act_conv2d_backward_cpu(const BnActConv2dBackwardParams&) { return Status::unsupported_groups; }

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
