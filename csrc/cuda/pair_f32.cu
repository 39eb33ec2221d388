#include "pair_launch.cuh"

namespace lightops::cuda {

Result launch_pair_f32(const PairPlan& plan, StreamHandle stream) { return launch_pair_math<F32>(plan, stream); }

}  // namespace lightops::cuda
