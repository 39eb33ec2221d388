#include "pair_launch.cuh"

namespace lightops::cuda {

Result launch_pair_f16(const PairPlan& plan, StreamHandle stream) { return launch_pair_math<F16>(plan, stream); }

}  // namespace lightops::cuda
