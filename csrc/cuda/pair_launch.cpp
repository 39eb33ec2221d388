#include "pair_launch.h"

namespace lightops::cuda {

int64_t pair_workspace(const PairProblem& problem, const Device& device) {
  return plan_pair(problem, device).workspace;
}

Result run_pair(const PairProblem& problem, DType type, const Device& device, void* workspace, StreamHandle stream) {
  if (element_bytes(type) == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  PairPlan plan = plan_pair(problem, device);
  if (plan.refusal) return {plan.refusal, 0};
  if (plan.blocks == 0 || plan.args.units == 0) return {};
  if (plan.splits > 1) {
    const Result result = join_in(workspace, device, &plan.args.first, stream);
    if (!result.ok()) return result;
  }
  switch (arithmetic_of(type, device)) {
    case Arithmetic::f16: return launch_pair_f16(plan, stream);
    case Arithmetic::bf16: return launch_pair_bf16(plan, stream);
    case Arithmetic::tf32: return launch_pair_tf32(plan, stream);
    case Arithmetic::f32: return launch_pair_f32(plan, stream);
  }
  return {"unknown arithmetic", 0};
}

}  // namespace lightops::cuda
