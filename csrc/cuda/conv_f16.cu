#include "conv_launch.cuh"

namespace lightops::cuda {

Result launch_conv_f16(const ConvPlan& plan, StreamHandle stream) { return launch_conv_math<F16>(plan, stream); }
Result launch_stationary_f16(const StationaryPlan& plan, StreamHandle stream) {
  return launch_stationary_math<F16>(plan, stream);
}

}  // namespace lightops::cuda
