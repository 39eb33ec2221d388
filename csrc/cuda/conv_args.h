// What the kernels are told: plain numbers, filled by the planner (plan.h). No CUDA header, so the planner is tested alone.
#pragma once

#include <cstdint>

namespace lightops::cuda {

constexpr int kChunkBytes = 16;  // one cp.async, one ldmatrix row, one 128-bit access
constexpr int kRowBytes = 128;  // of a shared tile
constexpr int kStepBytes = 32;  // of the reduction in one matrix instruction: 16 halves or 8 tf32
constexpr int kMaxTaps = 128;  // of a window (the tables in shared memory have room for so many)
constexpr int kRowChunks = kRowBytes / kChunkBytes;

// A pixel-major tensor view. Offsets are 64-bit: image * n + (y * width + x) * pixel + channel.
struct View {
  unsigned char* data;
  int64_t pixel, image;  // elements
  int height, width, channels;
  bool vector;  // 16-byte chunks of channels are aligned and whole, and `pitch` holds a pixel's distance
  int pitch;  // bytes from pixel to pixel: 32 bits, so that a pixel's address is one multiply-add
};

struct Geometry { int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w; };

// Output pixels of a block: tile_h x tile_w of one image. The input they need is kept in shared memory in `slots` rows:
// pixel (y, x) of the halo lies at y * pitch + x % stride_w * sub_pitch + x / stride_w, so that the pixels a tap reads for
// neighbouring outputs are neighbouring rows for every stride.
struct Tile {
  int tile_h, tile_w, tiles_y, tiles_x;
  int halo_h, halo_w, sub_pitch, pitch, slots;
  // Pixel (y, x) has y * key_pitch + its place in the line as the key of its swizzle. pitch: the row's number. tile_w: what one tap
  // reads for eight neighbouring outputs has eight keys also where they wrap to the tile's next line.
  int key_pitch;
  int by_tile_w, by_pitch, by_sub_pitch;  // reciprocal() of each
};

// Numbers below 2^10 divided by one of them: an integer division by a size that only the launch knows is some twenty instructions.
constexpr int kReciprocalBits = 20;
constexpr int reciprocal(int divisor) { return ((1 << kReciprocalBits) + divisor - 1) / divisor; }
constexpr int divided(int number, int by) { return number * by >> kReciprocalBits; }
inline void set_reciprocals(Tile& t) {
  t.by_tile_w = reciprocal(t.tile_w);
  t.by_pitch = reciprocal(t.pitch);
  t.by_sub_pitch = reciprocal(t.sub_pitch);
}

// Where max-pools of training leave the place of every maximum in its window (places.cuh): a byte a value, rows of `pitch` bytes a
// pixel. whole: 16-byte chunks of values have aligned places that no other chunk shares.
struct PlaceMap {
  unsigned char* data;
  int pitch;
  bool whole;
};

struct ConvArgs {
  View x, out, residual;
  Geometry geometry;
  Tile tile;
  const float *scale, *shift;  // [C] or null: x is used as it is
  int pre_act;
  const unsigned char* weight;  // [taps][out channels][row_elements]; gathered: [out channels][row_elements]
  int row_elements;  // input channels (gathered: taps * channels) rounded up to whole 16-byte chunks
  const float* bias;  // [out channels] or null
  int act;
  int images, column_tiles;
  int chunks;  // of the reduction, in rows of kRowBytes
  int iterations_per_split;  // an iteration is a group of taps of a chunk
  int steps;  // of the reduction, in kStepBytes: the last chunk multiplies no more than it has
  int tap_group;  // taps whose weights share a stage
  // When the reduction is split, else null: the splits' sums, [split][block][piece][thread] of 16 bytes, and how many splits of each
  // block have left theirs, zero before and after the launch.
  float* partial;
  int* arrivals;
  int splits;
  // Statistics of the output, of every tile of pixels: [tile][2][out channels], mean and squared deviations; how many pixels. Or null.
  float *moments, *counts;
  // Gathered input only: element strides of a planar or pixel-major x, and of the lines of its copy in shared memory. x.vector then
  // says that every line of the input is whole aligned 16-byte chunks.
  int64_t gather_row, gather_column, gather_channel;
  int gather_pitch;
  // Stem only: max-pool behind the convolution. tile_h x tile_w then counts convolution pixels, pooled_* the pool's.
  Geometry pool;
  int conv_height, conv_width, pooled_h, pooled_w, by_pooled_w;
  PlaceMap places;  // of the pool's outputs, in training
};

// The second half of a fused pair: a matrix product whose A tile an earlier phase of the same kernel left in shared memory.
// Up to two groups of output channels share the tile (Fire: the 1x1 expand reads the centre tap of the 3x3's halo).
struct ResidentGroup {
  const unsigned char* weight;  // [taps][channels of out][row_elements]
  const float* bias;  // or null
  View out, residual;  // the group's channel slice
  int row_elements, taps, first_tap;
  int column_tiles;
};

struct ResidentArgs {
  ConvArgs first;  // what fills the tile: its `tile` lists the rows to fill, its `out` the channels
  Geometry geometry;  // of the second product, over the rows
  Tile tile;  // output pixels of the block, and how they read the rows
  ResidentGroup group[2];
  int chunks;  // 64-byte chunks of the tile's channels
  int steps;  // of its channels, in kStepBytes
  int tap_group;  // taps whose weights share a stage
  int first_stages;  // of a depthwise producer's halo: 2 to 4
  int chunks_per_split;  // grid z shares the chunks out (depthwise alone); `first` says where the parts' sums are joined
  int ring_offset;  // bytes from the producer's stages to the second product's; 0: in the same place, one after the other
  int units, units_per_block;  // column tiles of all groups; grid y shares them out
  int act;  // of the second product
};

// Rows of a tile that one thread copies a 16-byte chunk of.
constexpr int rows_a_thread(int rows, int threads) { return (rows * kRowChunks + threads - 1) / threads; }

// Tile shapes the implicit GEMM is instantiated for: pixels x output channels of a block. wide and tall: 16-bit types only.
// compact: where shared memory is small. tiny: for a grid that leaves multiprocessors idle; twice as many blocks as small has, with half
// as many sums each to join where the reduction is split.
enum class Shape : int { wide, mid, narrow, small, compact, low, tall, tiny };
struct ShapeSize {
  int m, n, warps_m, warps_n, stages;
  int spatial_rows;  // halo rows a thread keeps coordinates of: bounds the tile's slots
  constexpr int threads() const { return warps_m * warps_n * 32; }
  constexpr int pointwise_rows() const { return rows_a_thread(m, threads()); }
  constexpr int max_slots() const { return spatial_rows * threads() / kRowChunks; }
};
constexpr ShapeSize shape_size(Shape shape) {
  switch (shape) {
    case Shape::wide: return {128, 128, 2, 4, 3, 0};
    case Shape::mid: return {128, 64, 4, 2, 4, 10};
    case Shape::narrow: return {128, 32, 4, 1, 3, 12};
    case Shape::low: return {64, 128, 2, 4, 3, 0};
    case Shape::tall: return {256, 64, 8, 2, 2, 0};
    case Shape::small: return {64, 64, 2, 2, 6, 0};
    case Shape::tiny: return {64, 32, 4, 1, 4, 12};
    default: return {64, 64, 2, 2, 3, 12};
  }
}

// Tile shapes of the fused pairs. `first_n` is the column tile of the squeeze product, 0 where the tile is filled without a product;
// `first_warps` lists its warps.
enum class PairShape : int {
  pixels128,
  deep128,
  pixels64,
  pixels32,
  fire32,
  fire64,
  fire32_wide,
  fire64_wide,
  fire32_ahead,
  fire64_ahead
};
struct PairSize {
  int m, n, warps_m, warps_n, stages;
  int first_n, first_warps_m, first_warps_n, first_stages;
  constexpr int threads() const { return warps_m * warps_n * 32; }
};
constexpr int depthwise_halo_rows(int threads) { return 2560 / threads; }  // halo rows a thread keeps coordinates of
constexpr PairSize pair_size(PairShape shape) {
  switch (shape) {
    case PairShape::deep128:  // 16-bit types only, fp32 would spill
      return {128, 128, 4, 4, 3, 0, 0, 0, 0};
    case PairShape::pixels128: return {128, 64, 4, 2, 3, 0, 0, 0, 0};
    case PairShape::pixels64: return {64, 128, 2, 4, 3, 0, 0, 0, 0};
    case PairShape::pixels32: return {32, 128, 1, 8, 3, 0, 0, 0, 0};
    // 256 rows hold 14x14 pixels with their border; 16-bit types only, fp32 would spill.
    case PairShape::fire32: return {256, 64, 8, 2, 2, 32, 8, 2, 2};
    case PairShape::fire64: return {256, 64, 8, 2, 2, 64, 8, 2, 2};
    // For a grid that leaves multiprocessors idle: its blocks wait for memory at every stage, so more of them are under way.
    case PairShape::fire32_ahead: return {128, 64, 4, 2, 3, 32, 4, 2, 4};
    case PairShape::fire64_ahead: return {128, 64, 4, 2, 3, 64, 4, 2, 4};
    case PairShape::fire32_wide: return {128, 64, 4, 2, 2, 32, 4, 2, 2};
    default: return {128, 64, 4, 2, 2, 64, 4, 2, 2};
  }
}

// Shared memory in bytes: tables | stages of A and B, or the staged output that reuses them | what the loader keeps.
// The tables: the pixel of every row of the tile, the bias of every column, the rows every tap is shifted by.
constexpr int tables_bytes(int m, int n) { return (m + n + kMaxTaps) * 4; }
constexpr int a_stages(int groups, int stages) { return groups > 1 && groups >= stages - 1 ? 2 : stages; }
// `groups` of `tap_group` taps each are the iterations of a chunk.
constexpr int pipeline_bytes(const ShapeSize& s, int slots, int groups, int tap_group) {
  return a_stages(groups, s.stages) * slots * kRowBytes + s.stages * tap_group * s.n * kRowBytes;
}
// Rows of the staged output are padded by 8 elements so that a fragment's stores (8 rows x 4 lanes) meet 32 different banks.
constexpr int staged_pitch(int columns, int element_bytes) { return (columns + 8) * element_bytes; }
constexpr int stages_bytes(const ShapeSize& s, int slots, int groups, int tap_group, int element_bytes) {
  const int pipeline = pipeline_bytes(s, slots, groups, tap_group), staged = s.m * staged_pitch(s.n, element_bytes);
  return pipeline > staged ? pipeline : staged;
}

// The weight-stationary 3x3 (stationary.cuh): kM pixels x kN channels a block, all weights resident, chunks of the halo in a ring.
constexpr int kStationaryM = 256, kStationaryN = 32, kStationaryThreads = 512, kStationaryStages = 3,
              kStationaryRows = 5;
struct StationaryArgs {
  ConvArgs conv;
  int tile_images, tiles;  // images a tile holds (small maps); tiles in all
  int grid;  // blocks: block b computes the tiles b, b + grid, ...
  int image_slots;  // rows of the halo of one image
};

}  // namespace lightops::cuda
