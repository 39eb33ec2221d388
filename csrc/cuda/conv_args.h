// What the kernels are told: plain numbers, filled by the planner (plan.h). No CUDA header, so the planner is tested alone.
#pragma once

#include <cstdint>

namespace lightops::cuda {

constexpr int kChunkBytes = 16;  // one cp.async, one ldmatrix row, one 128-bit access
constexpr int kRowBytes = 64;    // of a shared tile
constexpr int kRowChunks = kRowBytes / kChunkBytes;

// A pixel-major tensor view. Offsets are 64-bit: image * n + (y * width + x) * pixel + channel.
struct View {
  unsigned char* data;
  int64_t pixel, image;  // elements
  int height, width, channels;
  bool vector;           // 16-byte chunks of channels are aligned and whole
};

struct Geometry {
  int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};

// Output pixels of a block: tile_h x tile_w of one image. The input they need is kept in shared memory in `slots` rows:
// pixel (y, x) of the halo lies at y * pitch + x % stride_w * sub_pitch + x / stride_w, so that the pixels a tap reads for
// neighbouring outputs are neighbouring rows for every stride.
struct Tile {
  int tile_h, tile_w, tiles_y, tiles_x;
  int halo_h, halo_w, sub_pitch, pitch, slots;
};

struct ConvArgs {
  View x, out, residual;
  Geometry geometry;
  Tile tile;
  const float *scale, *shift;  // [C] or null: x is used as it is
  int pre_act;
  const unsigned char* weight;  // [taps][out channels][row_elements]; gathered: [out channels][row_elements]
  int row_elements;             // input channels (gathered: taps * channels) rounded up to whole 16-byte chunks
  const float* bias;            // [out channels] or null
  int act;
  int images, column_tiles;
  int chunks, chunks_per_split;  // of the reduction, in 64-byte rows
  float* partial;                // [splits][pixels][out channels] when the reduction is split, else null
  // Gathered input only: element strides of a planar or pixel-major x.
  int64_t gather_row, gather_column, gather_channel;
  // Stem only: max-pool behind the convolution. tile_h x tile_w then counts convolution pixels, pooled_* the pool's.
  Geometry pool;
  int conv_height, conv_width, pooled_h, pooled_w;
};

// The second half of a fused pair: a matrix product whose A tile an earlier phase of the same kernel left in shared memory.
// Up to two groups of output channels share the tile (Fire: the 1x1 expand reads the centre tap of the 3x3's halo).
struct ResidentGroup {
  const unsigned char* weight;  // [taps][channels of out][row_elements]
  const float* bias;            // or null
  View out, residual;           // the group's channel slice
  int row_elements, taps, first_tap;
  int column_tiles;
};

struct ResidentArgs {
  ConvArgs first;      // what fills the tile: its `tile` lists the rows to fill, its `out` the channels
  Geometry geometry;   // of the second product, over the rows
  Tile tile;           // output pixels of the block, and how they read the rows
  ResidentGroup group[2];
  int chunks;          // 64-byte chunks of the tile's channels
  int units, units_per_block;  // column tiles of all groups; grid y shares them out
  int act;             // of the second product
};

// Rows of a tile that one thread copies a 16-byte chunk of.
constexpr int rows_a_thread(int rows, int threads) { return (rows * kRowChunks + threads - 1) / threads; }

// Tile shapes the implicit GEMM is instantiated for: pixels x output channels of a block.
enum class Shape : int { wide, mid, narrow, small };
struct ShapeSize {
  int m, n, warps_m, warps_n, stages;
  int spatial_rows;  // halo rows a thread keeps coordinates of: bounds the tile's slots
  constexpr int threads() const { return warps_m * warps_n * 32; }
  constexpr int pointwise_rows() const { return rows_a_thread(m, threads()); }
  constexpr int max_slots() const { return spatial_rows * threads() / kRowChunks; }
};
constexpr ShapeSize shape_size(Shape shape) {
  switch (shape) {
    case Shape::wide: return {128, 128, 2, 4, 4, 0};
    case Shape::mid: return {128, 64, 4, 2, 4, 10};
    case Shape::narrow: return {128, 32, 4, 1, 4, 12};
    default: return {64, 64, 2, 2, 4, 0};
  }
}

// Tile shapes of the fused pairs. `first_n` is the column tile of the squeeze product, 0 where the tile is filled without a product;
// `first_warps` lists its warps.
enum class PairShape : int { pixels128, pixels64, pixels32, fire32, fire64, dense128, dense256 };
struct PairSize {
  int m, n, warps_m, warps_n, stages;
  int first_n, first_warps_m, first_warps_n, first_stages;
  constexpr int threads() const { return warps_m * warps_n * 32; }
};
constexpr int kDepthwiseHaloRows = 10;  // halo rows a thread keeps coordinates of
constexpr PairSize pair_size(PairShape shape) {
  switch (shape) {
    case PairShape::pixels128: return {128, 64, 4, 2, 4, 0, 0, 0, 0};
    case PairShape::pixels64: return {64, 128, 2, 4, 4, 0, 0, 0, 0};
    case PairShape::pixels32: return {32, 128, 1, 8, 4, 0, 0, 0, 0};
    case PairShape::fire32: return {128, 64, 4, 2, 4, 32, 4, 2, 3};
    case PairShape::fire64: return {128, 64, 4, 2, 4, 64, 4, 2, 3};
    case PairShape::dense128: return {128, 32, 8, 1, 4, 128, 4, 2, 3};
    // 8 warps of 64x64: 16 warps of 32x64 would have to live with 128 registers and spill.
    default: return {256, 32, 8, 1, 4, 128, 4, 2, 3};
  }
}

// Shared memory in bytes: stages of A and B, or the staged output that reuses them, and behind both what the loader keeps.
constexpr int a_stages(int taps, int stages) { return taps > 1 && taps >= stages - 1 ? 2 : stages; }
constexpr int pipeline_bytes(const ShapeSize& s, int slots, int taps) {
  return a_stages(taps, s.stages) * slots * kRowBytes + s.stages * s.n * kRowBytes;
}
// Rows of the staged output are padded by 8 elements so that a fragment's stores (8 rows x 4 lanes) meet 32 different banks.
constexpr int staged_pitch(int columns, int element_bytes) { return (columns + 8) * element_bytes; }
constexpr int stages_bytes(const ShapeSize& s, int slots, int taps, int element_bytes) {
  const int pipeline = pipeline_bytes(s, slots, taps), staged = s.m * staged_pitch(s.n, element_bytes);
  return pipeline > staged ? pipeline : staged;
}

}  // namespace lightops::cuda
