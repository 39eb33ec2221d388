// Runtime type to kernel instantiation. The kernels of one arithmetic are compiled in one file each (conv_<math>.cu).
#pragma once

#include "plan.h"

namespace lightops::cuda {

enum class Arithmetic : int { f16, bf16, tf32, f32 };

inline Arithmetic arithmetic_of(DType type, const Device& device) {
  if (type == DType::f16) return Arithmetic::f16;
  if (type == DType::bf16) return Arithmetic::bf16;
  return device.tf32 ? Arithmetic::tf32 : Arithmetic::f32;
}

Result launch_conv_f16(const ConvPlan& plan, StreamHandle stream);
Result launch_conv_bf16(const ConvPlan& plan, StreamHandle stream);
Result launch_conv_tf32(const ConvPlan& plan, StreamHandle stream);
Result launch_conv_f32(const ConvPlan& plan, StreamHandle stream);

Result launch_stationary_f16(const StationaryPlan& plan, StreamHandle stream);
Result launch_stationary_bf16(const StationaryPlan& plan, StreamHandle stream);

// Shared by every op: refuses a type no kernel has, plans, launches. `workspace` holds conv_workspace bytes. `cleared`: its counters
// are zero, because clear_arrivals or another convolution had it before; a sequence of them so saves a launch each.
Result run_conv(const ConvProblem& problem, DType type, const Device& device, void* workspace, StreamHandle stream,
                bool cleared = false);
// Where the parts of a split reduction leave their sums, and the counters, cleared unless they are.
Result join_in(void* workspace, const Device& device, ConvArgs* args, StreamHandle stream, bool cleared = false);
Result clear_arrivals(void* workspace, const Device& device, StreamHandle stream);
int64_t conv_workspace(const ConvProblem& problem, const Device& device);
// How many tiles of pixels the kernel takes statistics of where moments are asked for; 0: the kernel that serves takes none.
int conv_parts(const ConvProblem& problem, const Device& device);

}  // namespace lightops::cuda
