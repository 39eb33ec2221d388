#include "conv_launch.cuh"

namespace lightops::cuda {

Result launch_conv_tf32(const ConvPlan& plan, StreamHandle stream) { return launch_conv_math<TF32>(plan, stream); }

}  // namespace lightops::cuda
