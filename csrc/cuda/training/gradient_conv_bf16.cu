#include "training/gradient_conv.cuh"

namespace lightops::cuda {

Result launch_gradient_bf16(const GradientPlan& plan, StreamHandle stream) {
  return launch_gradient_math<BF16>(plan, stream);
}

}  // namespace lightops::cuda
