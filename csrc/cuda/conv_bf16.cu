#include "conv_launch.cuh"

namespace lightops::cuda {

Result launch_conv_bf16(const ConvPlan& plan, StreamHandle stream) { return launch_conv_math<BF16>(plan, stream); }
Result launch_stationary_bf16(const StationaryPlan& plan, StreamHandle stream) {
  return launch_stationary_math<BF16>(plan, stream);
}

}  // namespace lightops::cuda
