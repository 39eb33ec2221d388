// Plan to kernel for one arithmetic; included by wgrad_<math>.cu only.
#pragma once

#include "training/wgrad.cuh"
#include "training/wgrad_plan.h"

namespace lightops::cuda {

template <class Math, WgradShape kShape>
int launch_wgrad_shape(const WgradPlan& plan, StreamHandle stream) {
  using Block = WgradBlock<Math, kShape>;
  return launch<wgrad_kernel<Block>>(static_cast<unsigned>(plan.blocks), static_cast<unsigned>(plan.splits), 1,
                                     Block::kThreads, static_cast<unsigned>(plan.shared), static_cast<Stream>(stream),
                                     plan.args);
}

template <class Math>
int launch_wgrad_math(const WgradPlan& plan, StreamHandle stream) {
  switch (plan.shape) {
    case WgradShape::small: return launch_wgrad_shape<Math, WgradShape::small>(plan, stream);
    case WgradShape::spatial: return launch_wgrad_shape<Math, WgradShape::spatial>(plan, stream);
    case WgradShape::stem: return launch_wgrad_shape<Math, WgradShape::stem>(plan, stream);
    case WgradShape::pooled: return launch_wgrad_shape<Math, WgradShape::pooled>(plan, stream);
    default:
      if constexpr (sizeof(typename Math::Store) == 2) {
        if (plan.shape == WgradShape::wide) return launch_wgrad_shape<Math, WgradShape::wide>(plan, stream);
        return launch_wgrad_shape<Math, WgradShape::tall>(plan, stream);
      }
      return -1;
  }
}

}  // namespace lightops::cuda
