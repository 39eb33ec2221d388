// What the ops that are sequences of the shared kernels are written with: views, convolutions of packed weights, one call after
// another until one fails.
#pragma once

#include <algorithm>

#include "conv_launch.h"
#include "training/channel_pass.h"
#include "training/pack.h"

namespace lightops::cuda {

// Where a workspace lies while its size is asked for: planners go by whether a vector is there and by alignment.
inline void* sizing_address() { return reinterpret_cast<void*>(static_cast<std::uintptr_t>(4096)); }

constexpr Window kWindow1x1{{1, 1}, {1, 1}, {0, 0}, {1, 1}};
constexpr Window kWindow3x3{{3, 3}, {1, 1}, {1, 1}, {1, 1}};

// `channels` channels of a tensor from `first` on.
inline Nhwc channel_slice(const Nhwc& t, int64_t first, int64_t channels, int bytes) {
  Nhwc s = t;
  s.c = channels;
  if (t.data) s.data = static_cast<unsigned char*>(t.data) + first * bytes;
  return s;
}

// A map of `like`'s size with pixels of whole 16-byte chunks.
inline Nhwc map_like(const Nhwc& like, void* data, int64_t channels, int64_t pixel) {
  return {data, like.n, like.h, like.w, channels, pixel, like.h * like.w * pixel};
}

inline ConvProblem convolution(const Nhwc& x, const Nhwc& out, int bytes, const Window& window, const void* packed) {
  ConvProblem c;
  c.x = x;
  c.out = out;
  c.element_bytes = bytes;
  c.window = window;
  c.weight = packed;
  return c;
}

inline PackProblem packing(const TrainWeight& weight, int64_t out, int64_t in, const Window& window, DType type,
                           Packing packing) {
  return {weight, out, in, {window.kernel[0], window.kernel[1]}, type, packing};
}

// The weights of an op, packed side by side in its workspace; in the order they were added.
struct PackedWeights {
  std::vector<PackJob> jobs;
  void add(const PackProblem& problem, Pieces& pieces) {
    jobs.push_back({problem, pieces.take<unsigned char>(packed_bytes(problem))});
  }
  const void* operator[](int64_t i) const { return jobs[static_cast<size_t>(i)].packed; }
};

// Calls in order; after the first that is not ok() nothing more is launched.
struct Sequence {
  Result result;
  template <class Call>
  Sequence& then(const Call& call) {
    if (result.ok()) result = call();
    return *this;
  }
};

}  // namespace lightops::cuda
