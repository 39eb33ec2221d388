#include "conv_launch.h"

namespace lightops::cuda {
namespace {

// Where a fair part of the multiprocessors has a tile; smaller grids are split along the reduction.
bool prefer_stationary(const StationaryPlan& plan, const Device& device) {
  return plan.fits && plan.args.tiles * 4 >= device.multiprocessors;
}

Result dispatch(const ConvPlan& plan, Arithmetic arithmetic, StreamHandle stream) {
  switch (arithmetic) {
    case Arithmetic::f16: return launch_conv_f16(plan, stream);
    case Arithmetic::bf16: return launch_conv_bf16(plan, stream);
    case Arithmetic::tf32: return launch_conv_tf32(plan, stream);
    case Arithmetic::f32: return launch_conv_f32(plan, stream);
  }
  return {"unknown arithmetic", 0};
}

}  // namespace

Result join_in(void* workspace, const Device& device, ConvArgs* args, StreamHandle stream, bool cleared) {
  args->arrivals = static_cast<int*>(workspace);
  args->partial = reinterpret_cast<float*>(static_cast<unsigned char*>(workspace) + arrivals_bytes(device));
  return cleared ? Result{} : clear_arrivals(workspace, device, stream);
}

Result run_conv(const ConvProblem& problem, DType type, const Device& device, void* workspace, StreamHandle stream,
                bool cleared) {
  if (element_bytes(type) == 0) return {"the CUDA kernels take float16, bfloat16 and float32", 0};
  const StationaryPlan stationary = plan_stationary(problem, device);
  if (prefer_stationary(stationary, device))
    return type == DType::f16 ? launch_stationary_f16(stationary, stream) : launch_stationary_bf16(stationary, stream);
  ConvPlan plan = plan_conv(problem, device);
  if (plan.refusal) return {plan.refusal, 0};
  if (plan.blocks == 0 || plan.args.out.channels == 0) return {};
  if (plan.splits > 1) {
    const Result result = join_in(workspace, device, &plan.args, stream, cleared);
    if (!result.ok()) return result;
  }
  return dispatch(plan, arithmetic_of(type, device), stream);
}

int64_t conv_workspace(const ConvProblem& problem, const Device& device) {
  return prefer_stationary(plan_stationary(problem, device), device) ? 0 : plan_conv(problem, device).workspace;
}

int conv_parts(const ConvProblem& problem, const Device& device) {
  if (prefer_stationary(plan_stationary(problem, device), device)) return 0;
  const ConvPlan plan = plan_conv(problem, device);
  if (plan.refusal || plan.splits > 1 || plan.pooled_output || problem.residual.data) return 0;
  return static_cast<int>(plan.blocks / plan.args.column_tiles);
}

}  // namespace lightops::cuda
