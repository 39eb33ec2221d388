// The depthwise case (groups == C) of bn_act_conv2d.
#pragma once

#include "lightops/training/bn_act_conv2d.h"

namespace lightops {
namespace LIGHTOPS_ISA {

int64_t bn_act_depthwise_workspace(const BnActConv2dParams& p);
Status bn_act_depthwise_cpu(const BnActConv2dParams& p);
int64_t bn_act_depthwise_backward_workspace(const BnActConv2dBackwardParams& p);
Status bn_act_depthwise_backward_cpu(const BnActConv2dBackwardParams& p);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
