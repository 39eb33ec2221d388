#include "conv_launch.cuh"

namespace lightops::cuda {

Result launch_conv_bf16(const ConvPlan& plan, StreamHandle stream) { return launch_conv_math<BF16>(plan, stream); }

}  // namespace lightops::cuda
