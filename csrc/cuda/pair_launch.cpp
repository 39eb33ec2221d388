#include "pair_launch.h"

namespace lightops::cuda {

Result launch_pair(const PairPlan& plan, Arithmetic arithmetic, StreamHandle stream) {
  if (plan.refusal) return {plan.refusal, 0};
  if (plan.blocks == 0 || plan.args.units == 0) return {};
  switch (arithmetic) {
    case Arithmetic::f16: return launch_pair_f16(plan, stream);
    case Arithmetic::bf16: return launch_pair_bf16(plan, stream);
    case Arithmetic::tf32: return launch_pair_tf32(plan, stream);
    case Arithmetic::f32: return launch_pair_f32(plan, stream);
  }
  return {"unknown arithmetic", 0};
}

}  // namespace lightops::cuda
