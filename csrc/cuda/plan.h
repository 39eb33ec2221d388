// The launch planner: which tile shape, which spatial tile, how many splits, from sizes alone. Plain C++, tested on its own.
#pragma once

#include <cstdint>

#include "conv_args.h"
#include "lightops/cuda.h"

namespace lightops::cuda {

enum class Load : int { pointwise, spatial, gathered, pooled };

struct ConvPlan {
  const char* refusal = nullptr;  // why no kernel of ours serves the problem
  Load load = Load::pointwise;
  Shape shape = Shape::mid;
  ConvArgs args{};
  bool pooled_output = false;
  int splits = 1;
  int64_t blocks = 0;  // grid x
  int shared = 0;  // bytes
  int64_t workspace = 0;  // bytes
};

View view_of(const Nhwc& tensor, int element_bytes);
Geometry geometry_of(const Window& window);
PlaceMap place_map(unsigned char* data, int64_t channels, int element_bytes);  // of a dense tensor
int element_bytes(DType type);  // 0: not a type the kernels have

// What keeps eight neighbouring outputs in different banks where they wrap to the tile's next line: unused rows between the halo's
// lines, where copies know no key but the row's number; or keys of their own (Tile::key_pitch, stride 1), where a product fills the halo.
enum class Lines : int { as_they_are, padded, keyed };
// Limits of a block: output pixels it multiplies, halo rows it can hold.
struct TileLimits {
  int pixels, slots;
  Lines lines;
};
// A th x tw tile and its halo in shared-memory rows.
Tile halo_tile(int th, int tw, const Geometry& geometry, Lines lines);
// The tile with the least work for the map; false when not even one pixel fits.
bool choose_tile(const TileLimits& limits, const Geometry& geometry, int out_h, int out_w, Tile* chosen);

// Outputs that lie apart in a larger map: pixel (y, x) is pixel (y * step[0] + first[0], x * step[1] + first[1]) of a map `width` wide,
// whose strides and data `out` has. For the gradient of a strided convolution's input (training/gradient_conv.h) alone.
struct Lattice {
  int64_t width = 0;  // 0: outputs side by side
  int64_t step[2] = {1, 1}, first[2] = {0, 0};
};

struct ConvProblem {
  Nhwc x, out, residual;
  Lattice lattice;
  int element_bytes = 4;
  Window window;
  const void *scale = nullptr, *shift = nullptr;
  Act pre_act = Act::none;
  const void *weight = nullptr, *bias = nullptr;
  Act act = Act::none;
  bool average_pool = false;  // transition: 2x2 average of the activated input first
  bool gathered = false;  // weight is packed [O][kh * kw * C]
  bool planar = false;  // x is NCHW (gathered only)
  bool pooled = false;  // stem: max-pool behind the convolution
  Window pool;
  unsigned char* places = nullptr;  // pooled: [N, H', W', O], dense; null: not wanted
  bool tiny = true;  // the smallest tile may serve
  // Training: where the kernel leaves statistics of the output (ConvArgs::moments), of as many tiles as conv_parts says.
  float *moments = nullptr, *counts = nullptr;
};

ConvPlan plan_conv(const ConvProblem& problem, const Device& device);
// Of a split problem's workspace, at its start: as many counters as there are blocks at most where a reduction is split.
constexpr int64_t arrivals_bytes(const Device& device) {
  return lightops::round_up(INT64_C(4) * device.multiprocessors, 256);
}

// The weight-stationary kernel (stationary.cuh): 16-bit types, stride 1, at most 32 output channels, no prologue.
struct StationaryPlan {
  bool fits = false;
  StationaryArgs args{};
  int shared = 0;  // bytes
};
StationaryPlan plan_stationary(const ConvProblem& problem, const Device& device);

// Row length of a packed weight: input channels, or taps x channels when gathered, in whole 16-byte chunks.
int packed_row(int64_t depth, int element_bytes);

}  // namespace lightops::cuda
