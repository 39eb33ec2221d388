// Fused pairs: a producer fills a tile of activations in shared memory ([chunk][row][64 bytes], swizzled), and a matrix product
// reads it for every output channel and tap. What lies between the two convolutions never reaches memory.
//
// Shared memory: the resident tile | a ring of kStages weight stages | scratch (the producer's stages, later the staged output).
#pragma once

#include "implicit_gemm.cuh"

namespace lightops::cuda {

// Weights of the second product in the order of use: column tile, chunk, tap.
template <class Block>
struct WeightStream {
  const ResidentArgs& a;
  unsigned char* ring;
  int unit, last_unit, chunk = 0, tap = 0, stage = 0;

  LIGHTOPS_DEVICE WeightStream(const ResidentArgs& args, unsigned char* r, int first, int last)
      : a(args), ring(r), unit(first), last_unit(last) {}

  LIGHTOPS_DEVICE void start_next() {
    if (unit < last_unit) {
      const bool second = unit >= a.group[0].column_tiles;
      const ResidentGroup& g = a.group[second];
      const int column = (unit - (second ? a.group[0].column_tiles : 0)) * Block::kN;
      issue_weights<Block>(ring + stage * Block::kN * kRowBytes, g.weight, g.row_elements, tap, chunk, column, g.out.channels);
      stage = stage + 1 == Block::kStages ? 0 : stage + 1;
      if (++tap == g.taps) {
        tap = 0;
        if (++chunk == a.chunks) chunk = 0, ++unit;
      }
    }
    cp_async_commit();  // also when empty: waits count groups
  }
};

// Grid: x = spatial tile, y = a share of the column tiles (more than one only where the grid would leave the chip idle: each
// share fills the tile again).
template <class Block, class Producer>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(Block::kThreads, 1) resident_kernel(LIGHTOPS_PARAMS(ResidentArgs) a) {
  using Math = typename Block::Math;
  using Warp = typename Block::Warp;
  unsigned char* const resident = shared_memory();
  const int chunk_bytes = a.first.tile.slots * kRowBytes;
  const int rows_bytes = Producer::kRowsArePixels ? Block::kM * kRowBytes : chunk_bytes;
  unsigned char* const ring = resident + a.chunks * rows_bytes;
  unsigned char* const scratch = ring + Block::kStages * Block::kN * kRowBytes;
  const TilePlace place = place_tile(a.tile, block_x());
  const int first_unit = block_y() * a.units_per_block;
  const int last_unit = first_unit + a.units_per_block < a.units ? first_unit + a.units_per_block : a.units;

  Producer::fill(a, place, resident, scratch);
  // Started behind the producer: the stream's state beside the producer's accumulators would spill registers.
  WeightStream<Block> weights(a, ring, first_unit, last_unit);
#pragma unroll
  for (int s = 0; s < Block::kStages - 1; ++s) weights.start_next();
  // No barrier here: the first iteration's publishes the tile.

  int rows[Warp::kLaneRows];
#pragma unroll
  for (int i = 0; i < Warp::kLaneRows; ++i) {
    const int r = Block::warp_row() + Warp::lane_row(thread_index() % 32, i);
    rows[i] = Producer::kRowsArePixels ? r : halo_slot(a.tile, a.geometry, r);
  }
  int stage = 0;
  for (int unit = first_unit; unit < last_unit; ++unit) {
    const bool second = unit >= a.group[0].column_tiles;
    const ResidentGroup& g = a.group[second];
    const int column = (unit - (second ? a.group[0].column_tiles : 0)) * Block::kN;
    Warp sums;
    sums.clear();
    for (int chunk = 0; chunk < a.chunks; ++chunk)
      for (int tap = 0; tap < g.taps; ++tap) {
        cp_async_wait<Block::kStages - 2>();
        sync_threads();
        weights.start_next();
        const int shift = Producer::kRowsArePixels ? 0 : tap_slot(a.tile, a.geometry, g.first_tap + tap);
        int shifted[Warp::kLaneRows];
#pragma unroll
        for (int i = 0; i < Warp::kLaneRows; ++i) shifted[i] = rows[i] + shift;
        sums.step(resident + chunk * rows_bytes, shifted, ring + stage * Block::kN * kRowBytes, Block::warp_column());
        stage = stage + 1 == Block::kStages ? 0 : stage + 1;
      }
    // The barrier of the next unit's first iteration keeps its staging behind this unit's reads.
    stage_tile<Math, Block::kN>(scratch, sums, Block::warp_row(), Block::warp_column(), g.bias, column, g.out.channels,
                                Activation(a.act));
    sync_threads();
    store_tile<Math, Block::kM, Block::kN, Block::kThreads>(scratch, g.out, g.residual, a.tile, place, column);
  }
  cp_async_wait<0>();
}

}  // namespace lightops::cuda
