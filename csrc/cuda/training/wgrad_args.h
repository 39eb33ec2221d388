// What the weight-gradient kernel is told, and the tile shapes it is instantiated for.
#pragma once

#include "conv_args.h"

namespace lightops::cuda {

// A block computes `out` x `in` channels of some taps over a range of pixel tiles. Its warps tile out x in x taps; a warp holds
// m_tiles x 16 output channels, n_tiles x 8 input channels and `taps` taps in registers.
enum class WgradShape : int {
  wide,     // one tap, 16-bit types
  small,    // one tap
  spatial,  // 32 output channels (DenseNet's growth), all taps of a 3x3
  tall,     // up to 32 input channels, 16-bit types (Fire)
  stem,     // up to 8 input channels, up to 54 taps
  pooled,   // one tap of the 2x2 average (DenseNet's transition)
};
struct WgradSize {
  int m_tiles, n_tiles, taps, warps_m, warps_n, warps_t;
  int pixels;  // of a tile: the reduction of one iteration
  int stages;
  constexpr int threads() const { return warps_m * warps_n * warps_t * 32; }
  constexpr int out() const { return m_tiles * 16 * warps_m; }
  constexpr int in() const { return n_tiles * 8 * warps_n; }
};
constexpr WgradSize wgrad_size(WgradShape shape, int element_bytes) {
  const bool half = element_bytes == 2;
  switch (shape) {
    case WgradShape::wide: return {4, 4, 1, 2, 4, 1, 64, 3};
    case WgradShape::small: return half ? WgradSize{2, 4, 1, 2, 2, 1, 64, 4} : WgradSize{2, 4, 1, 2, 2, 1, 32, 3};
    case WgradShape::spatial: return half ? WgradSize{2, 1, 9, 1, 8, 1, 64, 3} : WgradSize{2, 1, 9, 1, 4, 1, 64, 2};
    case WgradShape::tall: return {2, 1, 9, 2, 4, 1, 64, 3};
    case WgradShape::stem: return half ? WgradSize{2, 1, 9, 2, 1, 6, 64, 3} : WgradSize{2, 1, 9, 2, 1, 6, 32, 2};
    default: return half ? WgradSize{4, 2, 1, 2, 4, 1, 32, 3} : WgradSize{2, 2, 1, 2, 2, 1, 32, 2};
  }
}

struct WgradArgs {
  View x, dy;
  int64_t x_row;  // elements between rows of x
  Geometry geometry;
  Tile tile;      // output pixels of an iteration; tiles in all: images x tiles_y x tiles_x
  const float *scale, *shift;
  int pre_act;
  int out_tiles, in_tiles, tap_groups;  // grid x, input tiles running fastest; grid y: splits of the pixels
  int taps, taps_a_block, taps_a_warp;
  int tiles, tiles_a_split;
  float* partial;  // [splits][taps][out][in]
};

struct WgradSums {
  const float* partial;
  unsigned char* dweight;
  int64_t stride_o, stride_i, stride_y, stride_x;
  int64_t elements;  // of the weight
  int out, in, kernel_w, splits;
};

// Shared memory in bytes. Tables: scale and shift of the block's channels (in whole rows of 128 bytes), place of every row of dy, row of
// x under every pixel, shift of every tap, places of tiles, place of every row of x. Then the stages.
constexpr int kWgradPlaces = 8;  // more than the stages
constexpr int wgrad_padded(int in, int element_bytes) {
  const int row = kRowBytes / element_bytes;
  return (in + row - 1) / row * row;
}
constexpr int wgrad_tables_bytes(const WgradSize& s, int slots, int element_bytes) {
  const int ints =
      (slots + 3) / 4 * 4 + 2 * s.pixels + kMaxTaps + kWgradPlaces * 4 + 2 * wgrad_padded(s.in(), element_bytes);
  return (ints * 4 + kRowBytes - 1) / kRowBytes * kRowBytes;
}
constexpr int wgrad_stage_bytes(const WgradSize& s, int slots, int copies, int element_bytes) {
  return (s.pixels * s.out() + copies * slots * s.in()) * element_bytes;
}

}  // namespace lightops::cuda
