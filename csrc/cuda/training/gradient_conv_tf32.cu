#include "training/gradient_conv.cuh"

namespace lightops::cuda {

Result launch_gradient_tf32(const GradientPlan& plan, StreamHandle stream) {
  return launch_gradient_math<TF32>(plan, stream);
}

}  // namespace lightops::cuda
