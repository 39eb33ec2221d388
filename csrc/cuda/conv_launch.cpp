#include "conv_launch.h"

namespace lightops::cuda {

Result launch_conv(ConvPlan plan, Arithmetic arithmetic, void* workspace, StreamHandle stream) {
  if (plan.refusal) return {plan.refusal, 0};
  if (plan.blocks == 0 || plan.args.out.channels == 0) return {};
  if (plan.splits > 1) plan.args.partial = static_cast<float*>(workspace);
  switch (arithmetic) {
    case Arithmetic::f16: return launch_conv_f16(plan, stream);
    case Arithmetic::bf16: return launch_conv_bf16(plan, stream);
    case Arithmetic::tf32: return launch_conv_tf32(plan, stream);
    case Arithmetic::f32: return launch_conv_f32(plan, stream);
  }
  return {"unknown arithmetic", 0};
}

Result run_conv(const ConvProblem& problem, DType type, const Device& device, void* workspace, StreamHandle stream) {
  if (element_bytes(type) == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  return launch_conv(plan_conv(problem, device), arithmetic_of(type, device), workspace, stream);
}

int64_t conv_workspace(const ConvProblem& problem, const Device& device) { return plan_conv(problem, device).workspace; }

}  // namespace lightops::cuda
