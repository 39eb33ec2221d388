// Fused pairs: a producer fills a tile of activations in shared memory ([chunk][row][128 bytes], swizzled), and a matrix product
// reads it for every output channel and tap. What lies between the two convolutions never reaches memory.
//
// Shared memory: tables | the resident tile | a ring of kStages weight stages, then the staged output, both in the place of the
// producer's stages; or behind them, where a grid leaves multiprocessors idle anyway: the weights then come while the tile is filled.
#pragma once

#include "implicit_gemm.cuh"

namespace lightops::cuda {

// Weights of the second product in the order of use: column tile, chunk, group of taps.
template <class Block>
struct WeightStream {
  const ResidentArgs& a;
  unsigned char* ring;
  int unit, last_unit, first_chunk, last_chunk, stage_bytes, taps = 0, chunk, tap = 0, stage = 0;
  Weights<Block> weights;

  // Of the units first to before last, the chunks of a part of the reduction.
  LIGHTOPS_DEVICE WeightStream(const ResidentArgs& args, unsigned char* r, int first, int last, int from_chunk,
                               int to_chunk)
      : a(args),
        ring(r),
        unit(first),
        last_unit(last),
        first_chunk(from_chunk),
        last_chunk(to_chunk),
        stage_bytes(args.tap_group * Block::kN * kRowBytes),
        chunk(from_chunk),
        weights(of_unit()) {}

  LIGHTOPS_DEVICE Weights<Block> of_unit() {
    const bool second = unit >= a.group[0].column_tiles;
    const ResidentGroup& g = a.group[second];
    taps = g.taps;
    return {g.weight, g.row_elements, (unit - (second ? a.group[0].column_tiles : 0)) * Block::kN, g.out.channels};
  }

  // `copied`: by a stream before this one.
  LIGHTOPS_DEVICE void start_next(bool copied = false) {
    if (unit < last_unit) {
      if (!copied)
        weights.issue(ring + stage * stage_bytes, tap, taps - tap < a.tap_group ? taps - tap : a.tap_group, chunk);
      stage = stage + 1 == Block::kStages ? 0 : stage + 1;
      if ((tap += a.tap_group) >= taps) {
        tap = 0;
        if (++chunk == last_chunk) {
          chunk = first_chunk;
          if (++unit < last_unit) weights = of_unit();
        }
      }
    }
    cp_async_commit();  // also when empty: waits count groups
  }
};

// Grid: x = spatial tile; more of y and z only where the grid would leave the chip idle: y = a share of the column tiles, which fills
// the tile again; z = a part of the chunks of both products, joined by the last block of a tile.
template <class Block, class Producer>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(Block::kThreads, Producer::kBlocks)
    resident_kernel(LIGHTOPS_PARAMS(ResidentArgs) a) {
  using Math = typename Block::Math;
  using Warp = typename Block::Warp;
  constexpr int kChunkSteps = kRowBytes / kStepBytes;
  const Tables tables(shared_memory(), Block::kM, Block::kN);
  unsigned char* const resident = shared_memory() + tables_bytes(Block::kM, Block::kN);
  const int rows_bytes = (Producer::kRowsArePixels ? Block::kM : a.first.tile.slots) * kRowBytes;
  unsigned char* const scratch = resident + a.chunks_per_split * rows_bytes;
  unsigned char* const ring = scratch + a.ring_offset;
  const int stage_bytes = a.tap_group * Block::kN * kRowBytes;
  unsigned char* const staged = ring + Block::kStages * stage_bytes;
  const TilePlace place = place_tile(a.tile, block_x());
  const int first_unit = block_y() * a.units_per_block;
  const int last_unit = first_unit + a.units_per_block < a.units ? first_unit + a.units_per_block : a.units;

  const int first_chunk = block_z() * a.chunks_per_split;
  const int last_chunk = first_chunk + a.chunks_per_split < a.chunks ? first_chunk + a.chunks_per_split : a.chunks;

  const bool ahead = a.ring_offset > 0;
  if (ahead) {
    WeightStream<Block> first(a, ring, first_unit, last_unit, first_chunk, last_chunk);
    for (int s = 0; s < Block::kStages - 1; ++s) first.start_next();
  }
  Producer::fill(a, place, tables, resident, scratch, first_chunk, last_chunk);
  sync_threads();  // the producer's stages and tables are done with
  tables.fill_pixels(a.tile, place, a.group[0].out.height, a.group[0].out.width, Block::kM, Block::kThreads);
  tables.fill_taps(a.tile, a.geometry, Block::kThreads);
  WeightStream<Block> weights(a, ring, first_unit, last_unit, first_chunk, last_chunk);
#pragma unroll
  for (int s = 0; s < Block::kStages - 1; ++s) weights.start_next(ahead);
  // No barrier here: the first iteration's publishes the tile and the tables.

  int rows[Warp::kLaneRows];
#pragma unroll
  for (int i = 0; i < Warp::kLaneRows; ++i) {
    const int r = Block::warp_row() + Warp::lane_row(thread_index() % 32, i);
    rows[i] = Producer::kRowsArePixels ? row_place(r) : halo_place(a.tile, a.geometry, r);
  }
  int stage = 0;
  for (int unit = first_unit; unit < last_unit; ++unit) {
    const bool second = unit >= a.group[0].column_tiles;
    const ResidentGroup& g = a.group[second];
    const int column = (unit - (second ? a.group[0].column_tiles : 0)) * Block::kN;
    Warp sums;
    sums.clear();
    for (int chunk = first_chunk; chunk < last_chunk; ++chunk)
      for (int first_tap = 0; first_tap < g.taps; first_tap += a.tap_group) {
        cp_async_wait<Block::kStages - 2>();
        sync_threads();
        weights.start_next();
        // Every thread is past the last unit's epilogue here.
        if (chunk == first_chunk && first_tap == 0)
          tables.fill_bias(g.bias, column, g.out.channels, Block::kN, Block::kThreads);
        const int last_tap = first_tap + a.tap_group < g.taps ? first_tap + a.tap_group : g.taps;
#pragma unroll 1
        for (int tap = first_tap; tap < last_tap; ++tap) {
          const int shift = Producer::kRowsArePixels ? 0 : load_shared<int>(tables.tap + g.first_tap + tap);
          int shifted[Warp::kLaneRows];
#pragma unroll
          for (int i = 0; i < Warp::kLaneRows; ++i) shifted[i] = rows[i] + shift;
          sums.multiply(resident + (chunk - first_chunk) * rows_bytes, shifted,
                        ring + stage * stage_bytes + (tap - first_tap) * Block::kN * kRowBytes, Block::warp_column(),
                        a.steps - chunk * kChunkSteps);
        }
        stage = stage + 1 == Block::kStages ? 0 : stage + 1;
      }
    sync_threads();  // the bias; and nobody stores the last unit any more
    if constexpr (Producer::kRowsArePixels) {
      // Nobody reads the table of taps behind the producer.
      if (a.first.partial &&
          !join_splits<Block>(sums, a.first, block_x() * a.units + unit,
                              a.first.images * a.tile.tiles_y * a.tile.tiles_x * a.units, block_z(), tables.tap))
        continue;
    }
    stage_tile<Math, Block::kN>(staged, sums, Block::warp_row(), Block::warp_column(), tables.bias,
                                Activation<Math>(a.act));
    sync_threads();
    store_tile<Math, Block::kM, Block::kN, Block::kThreads>(staged, g.out, g.residual, tables.pixel, place.image,
                                                            column);
  }
  cp_async_wait<0>();
}

}  // namespace lightops::cuda
