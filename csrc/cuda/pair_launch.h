// Pair plan to kernel; the kernels of one arithmetic are compiled in one file each (pair_<math>.cu).
#pragma once

#include "conv_launch.h"
#include "plan_pair.h"

namespace lightops::cuda {

Result launch_pair_f16(const PairPlan& plan, StreamHandle stream);
Result launch_pair_bf16(const PairPlan& plan, StreamHandle stream);
Result launch_pair_tf32(const PairPlan& plan, StreamHandle stream);
Result launch_pair_f32(const PairPlan& plan, StreamHandle stream);

// Plans and launches; `workspace` holds pair_workspace bytes.
Result run_pair(const PairProblem& problem, DType type, const Device& device, void* workspace, StreamHandle stream);
int64_t pair_workspace(const PairProblem& problem, const Device& device);

}  // namespace lightops::cuda
