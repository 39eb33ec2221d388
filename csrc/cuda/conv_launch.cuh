// Plan to kernel for one arithmetic; included by conv_<math>.cu only.
#pragma once

#include "conv_launch.h"
#include "stationary.cuh"

namespace lightops::cuda {

template <class Math, Shape kShape, template <class, int, int> class LoaderOf, int kRows>
int launch_shape(const ConvPlan& plan, Stream stream) {
  using Block = ShapeOf<Math, kShape>;
  using Loader = LoaderOf<Math, Block::kThreads, kRows>;
  return launch<implicit_gemm_kernel<Block, Loader, Output::tile>>(
      static_cast<unsigned>(plan.blocks), static_cast<unsigned>(plan.splits), 1, Block::kThreads,
      static_cast<unsigned>(plan.shared), stream, plan.args);
}

template <class Math, Shape kShape, Output kOutput>
int launch_gathered_as(const ConvPlan& plan, Stream stream) {
  using Block = ShapeOf<Math, kShape>;
  using Loader = GatherLoader<Math, Block::kThreads, shape_size(kShape).pointwise_rows()>;
  return launch<implicit_gemm_kernel<Block, Loader, kOutput>>(static_cast<unsigned>(plan.blocks),
                                                              static_cast<unsigned>(plan.splits), 1, Block::kThreads,
                                                              static_cast<unsigned>(plan.shared), stream, plan.args);
}

template <class Math, Shape kShape>
int launch_gathered(const ConvPlan& plan, Stream stream) {
  if (plan.args.places.data) return launch_gathered_as<Math, kShape, Output::placed>(plan, stream);
  if (plan.pooled_output) return launch_gathered_as<Math, kShape, Output::pooled>(plan, stream);
  if constexpr (kShape != Shape::tall) return launch_gathered_as<Math, kShape, Output::tile>(plan, stream);
  else return -1;
}

constexpr int rows_of(Shape shape) { return shape_size(shape).pointwise_rows(); }
constexpr int halo_rows_of(Shape shape) { return shape_size(shape).spatial_rows; }

template <class Math>
int launch_plan(const ConvPlan& plan, Stream stream) {
  constexpr int kUnknown = -1;
  switch (plan.load) {
    case Load::pointwise:
      switch (plan.shape) {
        case Shape::wide:
          if constexpr (sizeof(typename Math::Store) == 2)
            return launch_shape<Math, Shape::wide, PointwiseLoader, rows_of(Shape::wide)>(plan, stream);
          return kUnknown;
        case Shape::mid: return launch_shape<Math, Shape::mid, PointwiseLoader, rows_of(Shape::mid)>(plan, stream);
        case Shape::small:
          return launch_shape<Math, Shape::small, PointwiseLoader, rows_of(Shape::small)>(plan, stream);
        case Shape::tiny: return launch_shape<Math, Shape::tiny, PointwiseLoader, rows_of(Shape::tiny)>(plan, stream);
        case Shape::compact:
          return launch_shape<Math, Shape::compact, PointwiseLoader, rows_of(Shape::compact)>(plan, stream);
        default: return kUnknown;
      }
    case Load::spatial:
      switch (plan.shape) {
        case Shape::mid: return launch_shape<Math, Shape::mid, SpatialLoader, halo_rows_of(Shape::mid)>(plan, stream);
        case Shape::narrow:
          return launch_shape<Math, Shape::narrow, SpatialLoader, halo_rows_of(Shape::narrow)>(plan, stream);
        case Shape::tiny:
          return launch_shape<Math, Shape::tiny, SpatialLoader, halo_rows_of(Shape::tiny)>(plan, stream);
        case Shape::compact:
          return launch_shape<Math, Shape::compact, SpatialLoader, halo_rows_of(Shape::compact)>(plan, stream);
        default: return kUnknown;
      }
    case Load::pooled: return launch_shape<Math, Shape::low, PooledLoader, rows_of(Shape::low)>(plan, stream);
    case Load::gathered:
      if constexpr (sizeof(typename Math::Store) == 2)
        if (plan.shape == Shape::tall) return launch_gathered<Math, Shape::tall>(plan, stream);
      if (plan.shape == Shape::compact) return launch_gathered<Math, Shape::compact>(plan, stream);
      return launch_gathered<Math, Shape::mid>(plan, stream);
  }
  return kUnknown;
}

template <class Math>
Result launch_stationary_math(const StationaryPlan& plan, StreamHandle stream) {
  return {nullptr,
          launch<stationary_kernel<Math>>(static_cast<unsigned>(plan.args.grid), 1, 1, kStationaryThreads,
                                          static_cast<unsigned>(plan.shared), static_cast<Stream>(stream), plan.args)};
}

template <class Math>
Result launch_conv_math(const ConvPlan& plan, StreamHandle handle) {
  const int error = launch_plan<Math>(plan, static_cast<Stream>(handle));
  if (error == -1) return {"the planner chose a tile shape that is not built", 0};
  return {nullptr, error};
}

}  // namespace lightops::cuda
