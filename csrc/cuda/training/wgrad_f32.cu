#include "training/wgrad_launch.cuh"

namespace lightops::cuda {

int launch_wgrad_f32(const WgradPlan& plan, StreamHandle stream) { return launch_wgrad_math<F32>(plan, stream); }

}  // namespace lightops::cuda
