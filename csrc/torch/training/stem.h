// What the bindings of the stem in training share, on any device.
#pragma once

#include "lightops/training/stem.h"

#include "common.h"

namespace lightops {
namespace binding {

struct StemGeometry {
  Window window, pool;
  int64_t h, w;  // of the convolution's map
};

inline StemGeometry check_stem(const char* op, const Nhwc& x, const Tensor& weight, const Ints& stride,
                               const Ints& padding, const Ints& pool_kernel, const Ints& pool_stride,
                               const Ints& pool_padding) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.numel() > 0 && weight.size(1) == x.c, "lightops::", op,
                  ": 'weight' has shape ", shape_of(weight), "; want [O, ", x.c, ", kh, kw]");
  StemGeometry g;
  g.window = window_of(op, {weight.size(2), weight.size(3)}, stride, padding, {1, 1});
  check_fits(op, g.window, x);
  g.h = g.window.out(0, x.h);
  g.w = g.window.out(1, x.w);
  g.pool = window_of(op, pool_kernel, pool_stride, pool_padding, {1, 1});
  STD_TORCH_CHECK(g.pool.kernel[0] * g.pool.kernel[1] <= 256, "lightops::", op, ": 'pool_kernel' covers ",
                  g.pool.kernel[0] * g.pool.kernel[1], " pixels; want at most 256");
  return g;
}

inline Act stem_act(const char* op, int64_t code) {
  const Act act = act_of(op, "act", code);
  STD_TORCH_CHECK(act == Act::none || act == Act::relu, "lightops::", op, ": 'act' is ", code,
                  "; want 0 (none) or 1 (relu)");
  return act;
}

// The size of the pool's outputs, of a convolution's map of O channels.
inline PooledSize check_stem_pool(const char* op, const Nhwc& x, const StemGeometry& g, bool ceil_mode) {
  Nhwc map = x;
  map.h = g.h;
  map.w = g.w;
  return check_pool(op, g.pool, map, ceil_mode);
}

inline void check_places(const char* op, const Tensor& places, const Nhwc& out) {
  check_size(op, "places", places, {out.n, out.c, out.h, out.w});
  const int64_t strides[4] = {out.h * out.w * out.c, 1, out.w * out.c, out.c};
  bool dense = places.scalar_type() == ScalarType::Byte;
  for (int i = 0; i < 4; ++i) dense = dense && (places.size(i) <= 1 || places.stride(i) == strides[i]);
  STD_TORCH_CHECK(dense, "lightops::", op, ": 'places' must be what the forward pass returned");
}

}  // namespace binding
}  // namespace lightops
