// The implicit GEMM: out[pixel, o] = epilogue(sum over chunk, tap of A[pixel + tap, chunk] * W[tap, o, chunk]).
//
// One block computes kM pixels (a spatial tile, so that a halo is shared) x kN output channels. A stage of A is one 128-byte
// chunk of channels of every halo pixel, a stage of B the same chunk of the weights of a group of taps. Both come by cp.async,
// kStages - 1 iterations ahead; an iteration is one group of one chunk and has one barrier:
//   wait for the stage -> the loader finishes its own chunks (batch norm, activation) -> barrier -> start the copies of
//   iteration + kStages - 1 (into the stage every warp has left before the barrier) -> multiply.
// Everything else that comes from memory at the start, bias, scale and shift, is asked for behind the first copies: asked for before,
// each was a wait of its own, and a block of a small grid does little more than wait.
// With several groups A needs two stages only: the next chunk's A is started kStages - 1 iterations before its first use, when
// the chunk before the current one is no longer read (needs groups >= kStages - 1).
// Whatever is the same for a row, a column or a tap is in tables (addressing.cuh): divisions by sizes that only the launch knows
// took most of the time of these kernels on an H100.
#pragma once

#include "epilogues.cuh"
#include "loaders.cuh"
#include "moments.cuh"
#include "warp_math.cuh"

namespace lightops::cuda {

template <class Math_, int kM_, int kN_, int kWarpsM_, int kWarpsN_, int kStages_>
struct TileShape {
  using Math = Math_;
  static constexpr int kM = kM_, kN = kN_, kWarpsM = kWarpsM_, kWarpsN = kWarpsN_, kStages = kStages_;
  static constexpr int kThreads = kWarpsM * kWarpsN * 32;
  static constexpr int kWarpM = kM / kWarpsM, kWarpN = kN / kWarpsN;
  // Blocks that should share a multiprocessor, so that one multiplies while another waits: bounds the registers at 128 a thread.
  // Where shared memory holds fewer, that bound would make registers spill for nothing (wide, low and compact on sm_120).
  static constexpr int kWanted = Math::kTensorCore && kThreads < 512 ? 512 / kThreads : 1;
  static constexpr int kFitting = kSharedBytes / (kStages * (kM + kN) * kRowBytes);
  static constexpr int kBlocks = kFitting >= kWanted || kSharedBytes >= 227 * 1024 ? kWanted
                                 : kFitting > 1                                    ? kFitting
                                                                                   : 1;
  using Warp = WarpMath<Math, kWarpM, kWarpN>;
  static_assert(kM % (kWarpsM * 16) == 0 && kN % (kWarpsN * 16) == 0, "warps tile the block in whole fragments");
  // By value: a static member of class type would have to exist on the device.
  static constexpr ShapeSize size() { return {kM, kN, kWarpsM, kWarpsN, kStages, 0}; }
  static LIGHTOPS_DEVICE int warp_row() { return thread_index() / 32 / kWarpsN * kWarpM; }
  static LIGHTOPS_DEVICE int warp_column() { return thread_index() / 32 % kWarpsN * kWarpN; }
};

template <class Math, Shape kShape>
using ShapeOf = TileShape<Math, shape_size(kShape).m, shape_size(kShape).n, shape_size(kShape).warps_m,
                          shape_size(kShape).warps_n, shape_size(kShape).stages>;

// Copies of the weights: one stage is 128 bytes of the reduction for kN output channels of some taps, zeros past the last channel.
// Thread t copies chunk t % 8 of the rows t / 8, t / 8 + threads / 8, ...
template <class Block>
struct Weights {
  using Store = typename Block::Math::Store;
  static constexpr int kRows = Block::kThreads / kRowChunks;  // copied at a time
  static constexpr int kCopies = (Block::kN + kRows - 1) / kRows;
  const Store* row;  // the thread's first, chunk 0 of tap 0
  int64_t tap_elements;
  int step_elements;  // to the thread's next row
  int valid;  // how many of the thread's rows of a tap exist
  int row_elements, k;

  LIGHTOPS_DEVICE Weights(const unsigned char* weight, int row_length, int column, int columns)
      : row_elements(row_length) {
    const int first = column + thread_index() / kRowChunks;
    k = thread_index() % kRowChunks * kChunkElements<typename Block::Math>;
    valid = Block::kN >= kRows || thread_index() / kRowChunks < Block::kN ? (columns - first + kRows - 1) / kRows : 0;
    row = reinterpret_cast<const Store*>(weight) + (valid > 0 ? static_cast<int64_t>(first) * row_length : 0);
    tap_elements = static_cast<int64_t>(columns) * row_length;
    step_elements = kRows * row_length;
  }

  // `count` taps from `tap` on.
  LIGHTOPS_DEVICE void issue(unsigned char* stage, int tap, int count, int chunk) const {
    const int at = chunk * kRowElements<typename Block::Math> + k;
    const bool some = at < row_elements;
    const Store* from = row + (some ? tap * tap_elements + at : 0);
    unsigned char* to = stage + tile_offset(thread_index() / kRowChunks, thread_index() % kRowChunks);
    for (int t = 0; t < count; ++t, from += some ? tap_elements : 0, to += Block::kN * kRowBytes) {
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        const bool on = some && i < valid;
        if (Block::kN >= kRows || thread_index() / kRowChunks < Block::kN)
          cp_async16(to + i * kRows * kRowBytes, from + (on ? i * step_elements : 0), on);
      }
    }
  }
};

// `meanwhile` runs behind the first copies and before the first barrier.
template <class Block, class Loader, class Meanwhile>
LIGHTOPS_DEVICE void accumulate(const ConvArgs& a, Loader& loader, unsigned char* shared, const int* tap_table,
                                int column, int first, int last, typename Block::Warp& warp,
                                const Meanwhile& meanwhile) {
  using Warp = typename Block::Warp;
  constexpr int kChunkSteps = kRowBytes / kStepBytes;
  const int taps = !Loader::kManyTaps ? 1 : a.geometry.kernel_h * a.geometry.kernel_w;
  const int group = !Loader::kManyTaps ? 1 : a.tap_group, groups = !Loader::kManyTaps ? 1 : (taps + group - 1) / group;
  const int stages_a = !Loader::kManyTaps ? Block::kStages : a_stages(groups, Block::kStages);
  const int stage_bytes = a.tile.slots * kRowBytes, stage_bytes_b = group * Block::kN * kRowBytes;
  unsigned char* const stages_b = shared + stages_a * stage_bytes;
  int rows[Warp::kLaneRows];
#pragma unroll
  for (int i = 0; i < Warp::kLaneRows; ++i) {
    const int r = Block::warp_row() + Warp::lane_row(thread_index() % 32, i);
    rows[i] = Loader::kManyTaps ? halo_place(a.tile, a.geometry, r) : r < a.tile.slots ? row_place(r) : 0;
  }

  const Weights<Block> weights(a.weight, a.row_elements, column, a.out.channels);
  // Two counters run through (chunk, group) from iteration `first` to before `last`: one for the copies, kStages - 1 iterations ahead,
  // one for the products. A split may start and end within a chunk.
  const int first_chunk = first / groups, last_chunk = last / groups, last_tap_of_all = last % groups * group;
  const auto before_end = [&](int chunk, int tap) {
    return chunk < last_chunk || (Loader::kManyTaps && chunk == last_chunk && tap < last_tap_of_all);
  };
  int start = first % groups * group;  // the first tap of the chunk that is multiplied
  int copy_chunk = first_chunk, copy_tap = start, copy_a = 0, copy_b = 0;
  const auto copy_next = [&](bool at_start) {
    if (before_end(copy_chunk, copy_tap)) {
      if (at_start || copy_tap == 0) {
        loader.issue(copy_chunk, shared + (Loader::kManyTaps ? copy_a : copy_b) * stage_bytes);
        copy_a = copy_a + 1 == stages_a ? 0 : copy_a + 1;
      }
      weights.issue(stages_b + copy_b * stage_bytes_b, copy_tap,
                    !Loader::kManyTaps        ? 1
                    : taps - copy_tap < group ? taps - copy_tap
                                              : group,
                    copy_chunk);
      copy_b = copy_b + 1 == Block::kStages ? 0 : copy_b + 1;
      if ((copy_tap += group) >= taps) copy_tap = 0, ++copy_chunk;
    }
    cp_async_commit();  // also when empty: the wait below counts groups
  };
  loader.start(first_chunk);
#pragma unroll
  for (int s = 0; s < Block::kStages - 1; ++s) copy_next(s == 0);
  meanwhile();
  loader.settle(first_chunk, last_chunk + (last_tap_of_all > 0));

  warp.clear();
  int stage_a = 0, stage_b = 0;
#pragma unroll 1
  for (int chunk = first_chunk; before_end(chunk, start); ++chunk, start = 0) {
    unsigned char* const tile =
        shared + (Loader::kManyTaps ? stage_a : stage_b) * stage_bytes;  // one tap: A and B in step
    const int steps = a.steps - chunk * kChunkSteps;
#pragma unroll 1
    for (int first_tap = start; first_tap < taps && before_end(chunk, first_tap); first_tap += group) {
      cp_async_wait<Block::kStages - 2>();
      if (first_tap == start) loader.finish(chunk, tile);
      sync_threads();
      copy_next(false);
      unsigned char* const b = stages_b + stage_b * stage_bytes_b;
      if constexpr (!Loader::kManyTaps) {
        warp.multiply(tile, rows, b, Block::warp_column(), steps);
      } else {
        const int last_tap = first_tap + group < taps ? first_tap + group : taps;
#pragma unroll 1
        for (int tap = first_tap; tap < last_tap; ++tap) {
          const int shift = load_shared<int>(tap_table + tap);
          int shifted[Warp::kLaneRows];
#pragma unroll
          for (int i = 0; i < Warp::kLaneRows; ++i) shifted[i] = rows[i] + shift;
          warp.multiply(tile, shifted, b + (tap - first_tap) * Block::kN * kRowBytes, Block::warp_column(), steps);
        }
      }
      stage_b = stage_b + 1 == Block::kStages ? 0 : stage_b + 1;
    }
    stage_a = stage_a + 1 == stages_a ? 0 : stage_a + 1;
  }
  cp_async_wait<0>();
  sync_threads();  // the stages are reused by the epilogue
}

// What a block stores: its tile; the maxima of pool windows over it; these with their places.
enum class Output : int { tile, pooled, placed };

// At least so many bytes of stages does an epilogue find: the weights', or the staged tile that is larger.
template <class Block>
constexpr int kReused =
    pipeline_bytes(Block::size(), 0, 1, 1) > Block::kM* kStagedPitch<typename Block::Math, Block::kN>
        ? pipeline_bytes(Block::size(), 0, 1, 1)
        : Block::kM * kStagedPitch<typename Block::Math, Block::kN>;

// Grid: x = tile * column tiles + column tile (column tiles of one tile run together, so that A comes from L2), y = split.
template <class Block, class Loader, Output kOutput>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(Block::kThreads, Block::kBlocks)
    implicit_gemm_kernel(LIGHTOPS_PARAMS(ConvArgs) a) {
  using Math = typename Block::Math;
  const Tables tables(shared_memory(), Block::kM, Block::kN);
  unsigned char* const shared = shared_memory() + tables_bytes(Block::kM, Block::kN);
  const int tile = block_x() / a.column_tiles, column = (block_x() - tile * a.column_tiles) * Block::kN;
  TilePlace place = place_tile(a.tile, tile);
  int pool_y = 0, pool_x = 0;
  if (kOutput != Output::tile) {
    // The tile counts pool outputs; the convolution pixels they need start here (perhaps outside, where nothing is read).
    pool_y = place.y / a.tile.tile_h * a.pooled_h;
    pool_x = place.x / a.tile.tile_w * a.pooled_w;
    place.y = pool_y * a.pool.stride_h - a.pool.pad_h;
    place.x = pool_x * a.pool.stride_w - a.pool.pad_w;
  }
  const int taps = !Loader::kManyTaps ? 1 : a.geometry.kernel_h * a.geometry.kernel_w;
  const int group = !Loader::kManyTaps ? 1 : a.tap_group;
  Loader loader(a, place,
                shared + stages_bytes(Block::size(), a.tile.slots, (taps + group - 1) / group, group,
                                      sizeof(typename Math::Store)));

  const int iterations = a.chunks * ((taps + group - 1) / group), first = block_y() * a.iterations_per_split;
  const int last = first + a.iterations_per_split < iterations ? first + a.iterations_per_split : iterations;
  typename Block::Warp sums;
  accumulate<Block>(a, loader, shared, tables.tap, column, first, last, sums, [&] {
    if (kOutput == Output::tile)
      tables.fill_pixels(a.tile, place, a.out.height, a.out.width, Block::kM, Block::kThreads);
    if (Loader::kManyTaps) tables.fill_taps(a.tile, a.geometry, Block::kThreads);
    tables.fill_bias(a.bias, column, a.out.channels, Block::kN, Block::kThreads);
  });

  if (a.partial && !join_splits<Block>(sums, a, block_x(), a.images * a.tile.tiles_y * a.tile.tiles_x * a.column_tiles,
                                       block_y(), tables.tap))
    return;
  stage_tile<Math, Block::kN>(shared, sums, Block::warp_row(), Block::warp_column(), tables.bias,
                              Activation<Math>(a.act));
  sync_threads();
  if constexpr (kOutput != Output::tile) {
    store_pooled_tile<Math, Block::kN, Block::kThreads, kOutput == Output::placed>(shared, a, place, pool_y, pool_x,
                                                                                   column);
  } else if (a.moments) {
    using Moments = TileMoments<Math, Block::kN, Block::kThreads>;
    static_assert(Moments::kBytes <= kReused<Block>, "the sums take the place of the stages");
    Moments moments(shared);
    store_tile<Math, Block::kM, Block::kN, Block::kThreads>(shared, a.out, a.residual, tables.pixel, place.image,
                                                            column, [&](const Vec16& raw) { moments.add(raw); });
    // The tile's number anew: nothing more than before should live through the pipeline.
    moments.finish(shared, a, (block_x() - column / Block::kN) / a.column_tiles, column);
  } else {
    store_tile<Math, Block::kM, Block::kN, Block::kThreads>(shared, a.out, a.residual, tables.pixel, place.image,
                                                            column);
  }
}

}  // namespace lightops::cuda
