// The entry of the weight gradient, and its second kernel: partial sums added in order, rounded once, laid out as the weight is.
#include "training/wgrad.h"

#include "conv_launch.h"
#include "number.cuh"
#include "training/channel_sum.h"
#include "training/wgrad_plan.h"

namespace lightops::cuda {
namespace {

constexpr int kThreads = 256;

// One thread per weight, input channels running fastest as in the partial sums.
template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kThreads, 1) add_wgrad_kernel(LIGHTOPS_PARAMS(WgradSums) a) {
  const int64_t index = static_cast<int64_t>(block_x()) * kThreads + thread_index();
  const bool on = index < a.elements;
  float sum = 0.f;
#pragma unroll 4
  for (int s = 0; s < a.splits; ++s) sum += load_global(a.partial + (on ? s * a.elements + index : 0), on);
  const int row = static_cast<int>(on ? index / a.in : 0),
            i = static_cast<int>(index - static_cast<int64_t>(row) * a.in);
  const int tap = row / a.out, o = row - tap * a.out, ky = tap / a.kernel_w, kx = tap - ky * a.kernel_w;
  const int64_t to = o * a.stride_o + i * a.stride_i + ky * a.stride_y + kx * a.stride_x;
  store_global(reinterpret_cast<typename Math::Store*>(a.dweight) + (on ? to : 0), Math::store(sum), on);
}

int launch_wgrad(const WgradPlan& plan, Arithmetic arithmetic, StreamHandle stream) {
  switch (arithmetic) {
    case Arithmetic::f16: return launch_wgrad_f16(plan, stream);
    case Arithmetic::bf16: return launch_wgrad_bf16(plan, stream);
    case Arithmetic::tf32: return launch_wgrad_tf32(plan, stream);
    default: return launch_wgrad_f32(plan, stream);
  }
}

int launch_sums(const WgradSums& sums, DType type, StreamHandle handle) {
  const auto blocks = static_cast<unsigned>(ceil_div(sums.elements, kThreads));
  const auto stream = static_cast<Stream>(handle);
  switch (type) {
    case DType::f16: return launch<add_wgrad_kernel<F16>>(blocks, 1, 1, kThreads, 0, stream, sums);
    case DType::bf16: return launch<add_wgrad_kernel<BF16>>(blocks, 1, 1, kThreads, 0, stream, sums);
    default: return launch<add_wgrad_kernel<F32>>(blocks, 1, 1, kThreads, 0, stream, sums);
  }
}

int64_t partial_bytes(const WgradPlan& plan) { return round_up(plan.workspace, 256); }

}  // namespace

int64_t wgrad_workspace(const WgradProblem& p, const Device& device) {
  return partial_bytes(plan_wgrad(p, device)) + (p.dbias ? channel_sum_workspace(p.dy, p.type) : 0);
}

Result run_wgrad(const WgradProblem& p, void* workspace, const Device& device, StreamHandle stream) {
  WgradPlan plan = plan_wgrad(p, device);
  if (plan.refusal) return {plan.refusal, 0};
  WgradSums sums{};
  sums.elements = INT64_C(1) * plan.args.taps * p.dy.c * p.x.c;
  if (sums.elements == 0) return {};
  sums.partial = plan.args.partial = static_cast<float*>(workspace);
  sums.dweight = static_cast<unsigned char*>(p.dweight.data);
  sums.stride_o = p.dweight.stride[0], sums.stride_i = p.dweight.stride[1];
  sums.stride_y = p.dweight.stride[2], sums.stride_x = p.dweight.stride[3];
  sums.out = static_cast<int>(p.dy.c), sums.in = static_cast<int>(p.x.c);
  sums.kernel_w = static_cast<int>(p.window.kernel[1]);
  sums.splits = plan.splits;
  int error = plan.splits ? launch_wgrad(plan, arithmetic_of(p.type, device), stream) : 0;
  if (error == -1) return {"the planner chose a tile shape that is not built", 0};
  if (error == 0) error = launch_sums(sums, p.type, stream);
  if (error || !p.dbias) return {nullptr, error};
  return run_channel_sum(p.dy, p.type, p.dbias, static_cast<unsigned char*>(workspace) + partial_bytes(plan), stream);
}

}  // namespace lightops::cuda
