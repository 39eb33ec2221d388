// Which kernel computes a weight gradient, with which tile of pixels and how many splits.
#pragma once

#include "plan.h"
#include "training/wgrad.h"
#include "training/wgrad_args.h"

namespace lightops::cuda {

struct WgradPlan {
  const char* refusal = nullptr;
  WgradShape shape = WgradShape::small;
  WgradArgs args{};
  int splits = 0;         // 0: nothing to add up, the gradient is zero
  int64_t blocks = 0;     // grid x
  int shared = 0;         // bytes
  int64_t workspace = 0;  // bytes
};
WgradPlan plan_wgrad(const WgradProblem& problem, const Device& device);

// The kernels of one arithmetic, compiled in one file each (wgrad_<math>.cu).
int launch_wgrad_f16(const WgradPlan& plan, StreamHandle stream);
int launch_wgrad_bf16(const WgradPlan& plan, StreamHandle stream);
int launch_wgrad_tf32(const WgradPlan& plan, StreamHandle stream);
int launch_wgrad_f32(const WgradPlan& plan, StreamHandle stream);

}  // namespace lightops::cuda
