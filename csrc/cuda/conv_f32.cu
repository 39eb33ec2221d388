#include "conv_launch.cuh"

namespace lightops::cuda {

Result launch_conv_f32(const ConvPlan& plan, StreamHandle stream) { return launch_conv_math<F32>(plan, stream); }

}  // namespace lightops::cuda
