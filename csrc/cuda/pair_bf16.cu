#include "pair_launch.cuh"

namespace lightops::cuda {

Result launch_pair_bf16(const PairPlan& plan, StreamHandle stream) { return launch_pair_math<BF16>(plan, stream); }

}  // namespace lightops::cuda
