#include "training/gradient_conv.cuh"

namespace lightops::cuda {

Result launch_gradient_f16(const GradientPlan& plan, StreamHandle stream) {
  return launch_gradient_math<F16>(plan, stream);
}

}  // namespace lightops::cuda
