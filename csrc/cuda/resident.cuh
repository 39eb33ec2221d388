// Fused pairs: a producer fills a tile of activations in shared memory ([chunk][row][128 bytes], swizzled), and a matrix product
// reads it for every output channel and tap. What lies between the two convolutions never reaches memory.
//
// Shared memory: tables | the resident tile | a ring of kStages weight stages, then the staged output, both in the place of the
// producer's stages.
#pragma once

#include "implicit_gemm.cuh"

namespace lightops::cuda {

// Weights of the second product in the order of use: column tile, chunk, group of taps.
template <class Block>
struct WeightStream {
  const ResidentArgs& a;
  unsigned char* ring;
  int unit, last_unit, stage_bytes, taps = 0, chunk = 0, tap = 0, stage = 0;
  Weights<Block> weights;

  LIGHTOPS_DEVICE WeightStream(const ResidentArgs& args, unsigned char* r, int first, int last)
      : a(args),
        ring(r),
        unit(first),
        last_unit(last),
        stage_bytes(args.tap_group * Block::kN * kRowBytes),
        weights(of_unit()) {}

  LIGHTOPS_DEVICE Weights<Block> of_unit() {
    const bool second = unit >= a.group[0].column_tiles;
    const ResidentGroup& g = a.group[second];
    taps = g.taps;
    return {g.weight, g.row_elements, (unit - (second ? a.group[0].column_tiles : 0)) * Block::kN, g.out.channels};
  }

  LIGHTOPS_DEVICE void start_next() {
    if (unit < last_unit) {
      weights.issue(ring + stage * stage_bytes, tap, taps - tap < a.tap_group ? taps - tap : a.tap_group, chunk);
      stage = stage + 1 == Block::kStages ? 0 : stage + 1;
      if ((tap += a.tap_group) >= taps) {
        tap = 0;
        if (++chunk == a.chunks) {
          chunk = 0;
          if (++unit < last_unit) weights = of_unit();
        }
      }
    }
    cp_async_commit();  // also when empty: waits count groups
  }
};

// Grid: x = spatial tile, y = a share of the column tiles (more than one only where the grid would leave the chip idle: each
// share fills the tile again).
template <class Block, class Producer>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(Block::kThreads, Producer::kBlocks)
    resident_kernel(LIGHTOPS_PARAMS(ResidentArgs) a) {
  using Math = typename Block::Math;
  using Warp = typename Block::Warp;
  constexpr int kChunkSteps = kRowBytes / kStepBytes;
  const Tables tables(shared_memory(), Block::kM, Block::kN);
  unsigned char* const resident = shared_memory() + tables_bytes(Block::kM, Block::kN);
  const int rows_bytes = (Producer::kRowsArePixels ? Block::kM : a.first.tile.slots) * kRowBytes;
  unsigned char* const ring = resident + a.chunks * rows_bytes;
  const int stage_bytes = a.tap_group * Block::kN * kRowBytes;
  unsigned char* const staged = ring + Block::kStages * stage_bytes;
  const TilePlace place = place_tile(a.tile, block_x());
  const int first_unit = block_y() * a.units_per_block;
  const int last_unit = first_unit + a.units_per_block < a.units ? first_unit + a.units_per_block : a.units;

  Producer::fill(a, place, tables, resident, ring);
  sync_threads();  // the producer's stages and tables are done with
  tables.fill_pixels(a.tile, place, a.group[0].out.height, a.group[0].out.width, Block::kM, Block::kThreads);
  tables.fill_taps(a.tile, a.geometry, Block::kThreads);
  WeightStream<Block> weights(a, ring, first_unit, last_unit);
#pragma unroll
  for (int s = 0; s < Block::kStages - 1; ++s) weights.start_next();
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
    for (int chunk = 0; chunk < a.chunks; ++chunk)
      for (int first_tap = 0; first_tap < g.taps; first_tap += a.tap_group) {
        cp_async_wait<Block::kStages - 2>();
        sync_threads();
        weights.start_next();
        // Every thread is past the last unit's epilogue here.
        if (chunk == 0 && first_tap == 0) tables.fill_bias(g.bias, column, g.out.channels, Block::kN, Block::kThreads);
        const int last_tap = first_tap + a.tap_group < g.taps ? first_tap + a.tap_group : g.taps;
#pragma unroll 1
        for (int tap = first_tap; tap < last_tap; ++tap) {
          const int shift = Producer::kRowsArePixels ? 0 : load_shared<int>(tables.tap + g.first_tap + tap);
          int shifted[Warp::kLaneRows];
#pragma unroll
          for (int i = 0; i < Warp::kLaneRows; ++i) shifted[i] = rows[i] + shift;
          sums.multiply(resident + chunk * rows_bytes, shifted,
                        ring + stage * stage_bytes + (tap - first_tap) * Block::kN * kRowBytes, Block::warp_column(),
                        a.steps - chunk * kChunkSteps);
        }
        stage = stage + 1 == Block::kStages ? 0 : stage + 1;
      }
    sync_threads();  // the bias; and nobody stores the last unit any more
    stage_tile<Math, Block::kN>(staged, sums, Block::warp_row(), Block::warp_column(), tables.bias,
                                Activation<Math>(a.act));
    sync_threads();
    store_tile<Math, Block::kM, Block::kN, Block::kThreads>(staged, g.out, g.residual, tables.pixel, place.image,
                                                            column);
  }
  cp_async_wait<0>();
}

}  // namespace lightops::cuda
