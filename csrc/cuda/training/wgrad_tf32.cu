#include "training/wgrad_launch.cuh"

namespace lightops::cuda {

int launch_wgrad_tf32(const WgradPlan& plan, StreamHandle stream) { return launch_wgrad_math<TF32>(plan, stream); }

}  // namespace lightops::cuda
