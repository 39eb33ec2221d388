// The implicit GEMM: out[pixel, o] = epilogue(sum over chunk, tap of A[pixel + tap, chunk] * W[tap, o, chunk]).
//
// One block computes kM pixels (a spatial tile, so that a halo is shared) x kN output channels. A stage of A is one 64-byte
// chunk of channels of every halo pixel, a stage of B the same chunk of one tap's weights. Both come by cp.async, kStages - 1
// iterations ahead; an iteration is one tap of one chunk and has one barrier:
//   wait for the stage -> the loader finishes its own chunks (batch norm, activation) -> barrier -> start the copies of
//   iteration + kStages - 1 (into the stage every warp has left before the barrier) -> multiply.
// With several taps A needs two stages only: the next chunk's A is started kStages - 1 iterations before its first use, when
// the chunk before the current one is no longer read (needs taps >= kStages - 1).
#pragma once

#include "epilogues.cuh"
#include "loaders.cuh"
#include "warp_math.cuh"

namespace lightops::cuda {

template <class Math_, int kM_, int kN_, int kWarpsM_, int kWarpsN_, int kStages_>
struct TileShape {
  using Math = Math_;
  static constexpr int kM = kM_, kN = kN_, kWarpsM = kWarpsM_, kWarpsN = kWarpsN_, kStages = kStages_;
  static constexpr int kThreads = kWarpsM * kWarpsN * 32;
  static constexpr int kWarpM = kM / kWarpsM, kWarpN = kN / kWarpsN;
  using Warp = WarpMath<Math, kWarpM, kWarpN>;
  static_assert(kM % (kWarpsM * 16) == 0 && kN % (kWarpsN * 16) == 0, "warps tile the block in whole fragments");
  // By value: a static member of class type would have to exist on the device.
  static constexpr ShapeSize size() { return {kM, kN, kWarpsM, kWarpsN, kStages, 0}; }
  static LIGHTOPS_DEVICE int warp_row() { return thread_index() / 32 / kWarpsN * kWarpM; }
  static LIGHTOPS_DEVICE int warp_column() { return thread_index() / 32 % kWarpsN * kWarpN; }
};

template <class Math, Shape kShape>
using ShapeOf = TileShape<Math, shape_size(kShape).m, shape_size(kShape).n, shape_size(kShape).warps_m, shape_size(kShape).warps_n,
                          shape_size(kShape).stages>;

// One stage of B: 64 bytes of the reduction for kN output channels of one tap, zeros past the last channel.
template <class Block>
LIGHTOPS_DEVICE void issue_weights(unsigned char* stage, const unsigned char* weight, int row_elements, int tap, int chunk,
                                   int column, int columns) {
  using Math = typename Block::Math;
  const int quarter = thread_index() % kRowChunks;
  const int k = chunk * kRowElements<Math> + quarter * kChunkElements<Math>;
  const auto* rows = reinterpret_cast<const typename Math::Store*>(weight) + static_cast<int64_t>(tap) * columns * row_elements;
#pragma unroll
  for (int n = thread_index() / kRowChunks; n < Block::kN; n += Block::kThreads / kRowChunks) {
    const bool on = column + n < columns && k < row_elements;
    cp_async16(stage + tile_offset(n, quarter), rows + (on ? static_cast<int64_t>(column + n) * row_elements + k : 0), on);
  }
}

template <class Block, class Loader>
LIGHTOPS_DEVICE void accumulate(const ConvArgs& a, Loader& loader, unsigned char* shared, int column, int first_chunk, int last_chunk,
                                typename Block::Warp& warp) {
  using Warp = typename Block::Warp;
  const int taps = !Loader::kManyTaps ? 1 : a.geometry.kernel_h * a.geometry.kernel_w;
  const int stages_a = a_stages(taps, Block::kStages);
  const int stage_bytes = a.tile.slots * kRowBytes;
  unsigned char* const stages_b = shared + stages_a * stage_bytes;
  int rows[Warp::kLaneRows];
#pragma unroll
  for (int i = 0; i < Warp::kLaneRows; ++i) {
    const int r = Block::warp_row() + Warp::lane_row(thread_index() % 32, i);
    rows[i] = Loader::kGathered ? r : halo_slot(a.tile, a.geometry, r);
    if (Loader::kGathered && r >= a.tile.slots) rows[i] = 0;
  }

  // Two counters run through (chunk, tap): one for the copies, kStages - 1 iterations ahead, one for the products.
  int copy_chunk = first_chunk, copy_tap = 0, copy_a = 0, copy_b = 0;
  const auto copy_next = [&] {
    if (copy_chunk < last_chunk) {
      if (copy_tap == 0) {
        loader.issue(copy_chunk, shared + copy_a * stage_bytes);
        copy_a = copy_a + 1 == stages_a ? 0 : copy_a + 1;
      }
      issue_weights<Block>(stages_b + copy_b * Block::kN * kRowBytes, a.weight, a.row_elements, copy_tap, copy_chunk, column,
                           a.out.channels);
      copy_b = copy_b + 1 == Block::kStages ? 0 : copy_b + 1;
      if (++copy_tap == taps) copy_tap = 0, ++copy_chunk;
    }
    cp_async_commit();  // also when empty: the wait below counts groups
  };
#pragma unroll
  for (int s = 0; s < Block::kStages - 1; ++s) copy_next();

  warp.clear();
  int stage_a = 0, stage_b = 0;
#pragma unroll 1
  for (int chunk = first_chunk; chunk < last_chunk; ++chunk) {
    unsigned char* const tile = shared + stage_a * stage_bytes;
#pragma unroll 1
    for (int tap = 0; tap < taps; ++tap) {
      cp_async_wait<Block::kStages - 2>();
      if (tap == 0) loader.finish(chunk, tile);
      sync_threads();
      copy_next();
      const int shift = !Loader::kManyTaps ? 0 : tap_slot(a.tile, a.geometry, tap);
      int shifted[Warp::kLaneRows];
#pragma unroll
      for (int i = 0; i < Warp::kLaneRows; ++i) shifted[i] = rows[i] + shift;
      warp.step(tile, shifted, stages_b + stage_b * Block::kN * kRowBytes, Block::warp_column());
      stage_b = stage_b + 1 == Block::kStages ? 0 : stage_b + 1;
    }
    stage_a = stage_a + 1 == stages_a ? 0 : stage_a + 1;
  }
  cp_async_wait<0>();
  sync_threads();  // the stages are reused by the epilogue
}

// Grid: x = tile * column tiles + column tile (column tiles of one tile run together, so that A comes from L2), y = split.
template <class Block, class Loader, bool kPooledOutput>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(Block::kThreads, 1) implicit_gemm_kernel(LIGHTOPS_PARAMS(ConvArgs) a) {
  using Math = typename Block::Math;
  unsigned char* const shared = shared_memory();
  const int column = block_x() % a.column_tiles * Block::kN;
  TilePlace place = place_tile(a.tile, block_x() / a.column_tiles);
  int pool_y = 0, pool_x = 0;
  if (kPooledOutput) {
    // The tile counts pool outputs; the convolution pixels they need start here (perhaps outside, where nothing is read).
    pool_y = place.y / a.tile.tile_h * a.pooled_h;
    pool_x = place.x / a.tile.tile_w * a.pooled_w;
    place.y = pool_y * a.pool.stride_h - a.pool.pad_h;
    place.x = pool_x * a.pool.stride_w - a.pool.pad_w;
  }
  const int taps = !Loader::kManyTaps ? 1 : a.geometry.kernel_h * a.geometry.kernel_w;
  Loader loader(a, place, shared + stages_bytes(Block::size(), a.tile.slots, taps, sizeof(typename Math::Store)));

  const int first = block_y() * a.chunks_per_split;
  const int last = first + a.chunks_per_split < a.chunks ? first + a.chunks_per_split : a.chunks;
  typename Block::Warp sums;
  accumulate<Block>(a, loader, shared, column, first, last, sums);

  if (a.partial) {
    store_partial(sums, a, place, block_y(), Block::warp_row(), Block::warp_column(), column);
    return;
  }
  stage_tile<Math, Block::kN>(shared, sums, Block::warp_row(), Block::warp_column(), a.bias, column, a.out.channels,
                              Activation(a.act));
  sync_threads();
  if constexpr (kPooledOutput)
    store_pooled_tile<Math, Block::kN, Block::kThreads>(shared, a, place, pool_y, pool_x, column);
  else
    store_tile<Math, Block::kM, Block::kN, Block::kThreads>(shared, a.out, a.residual, a.tile, place, column);
}

// Adds the splits of a reduction in order (so the result does not depend on timing), then bias, activation, residual.
// One thread per 16-byte chunk of output channels.
struct SplitArgs {
  View out, residual;
  const float *partial, *bias;
  int act, images, splits;
};

template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(256, 1) add_splits_kernel(LIGHTOPS_PARAMS(SplitArgs) a) {
  constexpr int kElements = kChunkElements<Math>;
  const int chunks = (a.out.channels + kElements - 1) / kElements;
  const int64_t pixels = static_cast<int64_t>(a.out.height) * a.out.width, total = pixels * a.images;
  const int64_t index = static_cast<int64_t>(block_x()) * 256 + thread_index();
  const bool on = index < total * chunks;
  const int64_t at = on ? index / chunks : 0;
  const int c = static_cast<int>(on ? index % chunks : 0) * kElements;
  const int image = static_cast<int>(at / pixels);
  const int64_t pixel = at % pixels;
  float v[kElements] = {};
  for (int s = 0; s < a.splits; ++s) {
    const float* from = a.partial + (s * total + at) * a.out.channels + c;
#pragma unroll
    for (int e = 0; e < kElements; e += 4) {
      const bool whole = a.out.channels % 4 == 0;
      if (whole) {
        const Vec16 raw = load_global16(from + e, on && c + e < a.out.channels);
#pragma unroll
        for (int i = 0; i < 4; ++i) v[e + i] += bits_to_float(raw.w[i]);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) v[e + i] += load_global(from + e + i, on && c + e + i < a.out.channels);
      }
    }
  }
  const int64_t offset = pixel_offset(a.out, image, pixel);
  const Activation act(a.act);
  float other[kElements] = {};
  if (a.residual.data)
    unpack<Math>(load_chunk<Math>(a.residual, pixel_offset(a.residual, image, pixel), c, on), other);
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    const float bias = a.bias ? load_global(a.bias + c + e, on && c + e < a.out.channels) : 0.f;
    v[e] = act(v[e] + bias) + other[e];
  }
  store_chunk<Math>(a.out, offset, c, v, on);
}

}  // namespace lightops::cuda
