// Included by pair_<math>.cu only.
#pragma once

#include "pair_launch.h"
#include "producers.cuh"

namespace lightops::cuda {

constexpr int kNotBuilt = -1;

template <class Math, PairShape kShape>
struct PairKernel {
  static constexpr int kM = pair_size(kShape).m, kFirstN = pair_size(kShape).first_n;
  using Block = TileShape<Math, kM, pair_size(kShape).n, pair_size(kShape).warps_m, pair_size(kShape).warps_n,
                          pair_size(kShape).stages>;

  static int launch_squeeze(const PairPlan& plan, Stream stream) {
    using Squeeze = TileShape<Math, kM, kFirstN, pair_size(kShape).first_warps_m, pair_size(kShape).first_warps_n,
                              pair_size(kShape).first_stages>;
    return start<resident_kernel<Block, SqueezeProducer<Block, Squeeze>>>(plan, stream);
  }
  static int launch_depthwise(const PairPlan& plan, Stream stream) {
    return start<resident_kernel<Block, DepthwiseProducer<Block, depthwise_halo_rows(Block::kThreads)>>>(plan, stream);
  }

 private:
  template <auto kKernel>
  static int start(const PairPlan& plan, Stream stream) {
    return launch<kKernel>(static_cast<unsigned>(plan.blocks), static_cast<unsigned>(plan.shares),
                           static_cast<unsigned>(plan.splits), Block::kThreads, static_cast<unsigned>(plan.shared),
                           stream, plan.args);
  }
};

template <class Math>
int launch_pair_shape(const PairPlan& plan, Stream stream) {
  switch (plan.shape) {
    case PairShape::deep128:
      if constexpr (sizeof(typename Math::Store) == 2)
        return PairKernel<Math, PairShape::deep128>::launch_depthwise(plan, stream);
      break;
    case PairShape::pixels128: return PairKernel<Math, PairShape::pixels128>::launch_depthwise(plan, stream);
    case PairShape::pixels64: return PairKernel<Math, PairShape::pixels64>::launch_depthwise(plan, stream);
    case PairShape::pixels32: return PairKernel<Math, PairShape::pixels32>::launch_depthwise(plan, stream);
    case PairShape::fire32:
      if constexpr (sizeof(typename Math::Store) == 2)
        return PairKernel<Math, PairShape::fire32>::launch_squeeze(plan, stream);
      break;
    case PairShape::fire64:
      if constexpr (sizeof(typename Math::Store) == 2)
        return PairKernel<Math, PairShape::fire64>::launch_squeeze(plan, stream);
      break;
    case PairShape::fire32_ahead:
      if constexpr (sizeof(typename Math::Store) == 2)
        return PairKernel<Math, PairShape::fire32_ahead>::launch_squeeze(plan, stream);
      break;
    case PairShape::fire64_ahead:
      if constexpr (sizeof(typename Math::Store) == 2)
        return PairKernel<Math, PairShape::fire64_ahead>::launch_squeeze(plan, stream);
      break;
    case PairShape::fire32_wide:
      if constexpr (sizeof(typename Math::Store) == 4)
        return PairKernel<Math, PairShape::fire32_wide>::launch_squeeze(plan, stream);
      break;
    case PairShape::fire64_wide:
      if constexpr (sizeof(typename Math::Store) == 4)
        return PairKernel<Math, PairShape::fire64_wide>::launch_squeeze(plan, stream);
  }
  return kNotBuilt;
}

template <class Math>
Result launch_pair_math(const PairPlan& plan, StreamHandle stream) {
  const int error = launch_pair_shape<Math>(plan, static_cast<Stream>(stream));
  if (error == kNotBuilt) return {"the planner chose a tile shape that is not built", 0};
  return {nullptr, error};
}

}  // namespace lightops::cuda
