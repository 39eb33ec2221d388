// DenseNet's 3x3: few output channels, all of whose weights stay in shared memory while a block goes from tile to tile.
//
// out[pixel, o] = sum over tap, c of x[pixel + tap, c] * W[tap, o, c]. One block computes 256 pixels x 32 channels at a time. The
// halo of a tile comes in chunks of 128 bytes of channels through a ring of three, the next tile's behind the current one's, so that
// copies and products overlap across tiles, and there is one barrier for the nine taps of a chunk. Sixteen warps: two for each 32
// rows, each with half of the reduction, because 16 x 32 pieces would read shared memory a third more often. At 128 input channels a block that
// fetched its weights for every tile would read more of them (74 KB) than of the activations (46 KB for 128 pixels).
#pragma once

#include "implicit_gemm.cuh"

namespace lightops::cuda {

template <class Math>
struct Stationary {
  using Block = TileShape<Math, kStationaryM, kStationaryN, 16, 1, kStationaryStages>;  // threads and sizes
  static constexpr int kRowWarps = 8, kWarpM = kStationaryM / kRowWarps;
  using Warp = WarpMath<Math, kWarpM, kStationaryN>;
  static_assert(Block::kThreads == kStationaryThreads && Block::kThreads / 32 == 2 * kRowWarps);
  static constexpr int kRows = kStationaryRows;

  // Where the thread's rows of the halo lie in a tile: image << 20 | y << 10 | x, -1 where there is no such row.
  struct Places {
    int at[kRows];
    LIGHTOPS_DEVICE explicit Places(const StationaryArgs& s) {
      const Tile& t = s.conv.tile;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const int slot = thread_index() / kRowChunks + i * (Block::kThreads / kRowChunks);
        const int image = slot / s.image_slots, rest = slot - image * s.image_slots, y = divided(rest, t.by_pitch),
                  x = rest - y * t.pitch;
        at[i] = slot < t.slots && x < t.halo_w ? image << 20 | y << 10 | x : -1;
      }
    }
  };

  // Tiles are numbered image by image, those of one image by rows: the first pixel, and image, of one.
  static LIGHTOPS_DEVICE TilePlace place(const StationaryArgs& s, int tile) {
    TilePlace p = place_tile(s.conv.tile, tile);
    p.image *= s.tile_images;
    return p;
  }

  static LIGHTOPS_DEVICE void issue(const StationaryArgs& s, const Places& places, TilePlace place, int chunk,
                                    unsigned char* stage) {
    const ConvArgs& a = s.conv;
    const int c = chunk * kRowElements<Math> + thread_index() % kRowChunks * kChunkElements<Math>;
    const bool some = c < a.x.channels;
    const auto* const from = element<Math>(a.x, some ? c : 0);
    unsigned char* const to = stage + tile_offset(thread_index() / kRowChunks, thread_index() % kRowChunks);
    const int y0 = place.y - a.geometry.pad_h, x0 = place.x - a.geometry.pad_w;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int at = places.at[i];
      if (at < 0) continue;
      const int image = place.image + (at >> 20), y = y0 + (at >> 10 & 1023), x = x0 + (at & 1023);
      const bool on = some && image < a.images && y >= 0 && y < a.x.height && x >= 0 && x < a.x.width;
      cp_async16(to + i * (Block::kThreads / kRowChunks) * kRowBytes,
                 from + (on ? pixel_offset(a.x, image, y * a.x.width + x) : -static_cast<int64_t>(some ? c : 0)), on);
    }
  }
};

template <class Math>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(kStationaryThreads, 1) stationary_kernel(LIGHTOPS_PARAMS(StationaryArgs) s) {
  using S = Stationary<Math>;
  using Block = typename S::Block;
  using Warp = typename S::Warp;
  constexpr int kChunkSteps = kRowBytes / kStepBytes;
  const ConvArgs& a = s.conv;
  const Tile& t = a.tile;
  const int taps = a.geometry.kernel_h * a.geometry.kernel_w;
  const Tables tables(shared_memory(), Block::kM, Block::kN);
  unsigned char* const weights = shared_memory() + tables_bytes(Block::kM, Block::kN);
  unsigned char* const ring = weights + a.chunks * taps * Block::kN * kRowBytes;
  const int stage_bytes = t.slots * kRowBytes;
  // Of each warp: what it hands to its partner (half of its sums), later its 16 rows of output; nobody else needs a barrier for them.
  constexpr int kHanded = 32 * kStationaryN * S::kWarpM / 64 * 4;
  const int warp = thread_index() / 32, lane = thread_index() % 32, half = warp / S::kRowWarps,
            warp_row = warp % S::kRowWarps * S::kWarpM;
  unsigned char* const handed = ring + Block::kStages * stage_bytes;
  unsigned char* const mine = handed + (warp ^ S::kRowWarps) * kHanded;

  const Weights<Block> source(a.weight, a.row_elements, 0, a.out.channels);
  for (int chunk = 0; chunk < a.chunks; ++chunk)
    source.issue(weights + chunk * taps * Block::kN * kRowBytes, 0, taps, chunk);
  tables.fill_taps(t, a.geometry, Block::kThreads);
  tables.fill_bias(a.bias, 0, a.out.channels, Block::kN, Block::kThreads);
  // Of every output row: where it lies in a tile, as the halo's places.
  const int image_pixels = t.tile_h * t.tile_w;
  for (int r = thread_index(); r < Block::kM; r += Block::kThreads) {
    const int image = r / image_pixels, rest = r - image * image_pixels, y = rest / t.tile_w, x = rest - y * t.tile_w;
    store_shared(tables.pixel + r, image < s.tile_images ? image << 20 | y << 10 | x : -1);
  }
  int rows[Warp::kLaneRows];
#pragma unroll
  for (int i = 0; i < Warp::kLaneRows; ++i) {
    const int r = warp_row + Warp::lane_row(lane, i);
    const int image = r / image_pixels, rest = r - image * image_pixels;
    rows[i] =
        image < s.tile_images ? row_place(image * s.image_slots + rest / t.tile_w * t.pitch + rest % t.tile_w) : 0;
  }
  const typename S::Places places(s);

  int copy_tile = block_x(), copy_chunk = 0, copy_stage = 0;
  TilePlace copy_place = S::place(s, copy_tile);
  const auto copy_next = [&] {
    if (copy_tile < s.tiles) {
      S::issue(s, places, copy_place, copy_chunk, ring + copy_stage * stage_bytes);
      copy_stage = copy_stage + 1 == Block::kStages ? 0 : copy_stage + 1;
      if (++copy_chunk == a.chunks) {
        copy_chunk = 0;
        copy_tile += s.grid;
        copy_place = S::place(s, copy_tile);
      }
    }
    cp_async_commit();
  };
#pragma unroll
  for (int i = 0; i < Block::kStages - 1; ++i) copy_next();

  const Activation<Math> act(a.act);
  int stage = 0;
#pragma unroll 1
  for (int tile = block_x(); tile < s.tiles; tile += s.grid) {
    Warp sums;
    sums.clear();
#pragma unroll 1
    for (int chunk = 0; chunk < a.chunks; ++chunk) {
      cp_async_wait<Block::kStages - 2>();
      sync_threads();
      copy_next();
      const unsigned char* const halo = ring + stage * stage_bytes;
      const unsigned char* b = weights + chunk * taps * Block::kN * kRowBytes;
      const int left = a.steps - chunk * kChunkSteps, steps = left < kChunkSteps ? left : kChunkSteps;
      const int first_step = half ? (steps + 1) / 2 : 0, my_steps = half ? steps / 2 : (steps + 1) / 2;
      int shift = load_shared<int>(tables.tap);
#pragma unroll 1
      for (int tap = 0; tap < taps; ++tap, b += Block::kN * kRowBytes) {
        int shifted[Warp::kLaneRows];
#pragma unroll
        for (int i = 0; i < Warp::kLaneRows; ++i) shifted[i] = rows[i] + shift;
        if (tap + 1 < taps) shift = load_shared<int>(tables.tap + tap + 1);  // under the products
        sums.template multiply<kChunkSteps / 2>(halo, shifted, b, 0, my_steps, first_step);
      }
      stage = stage + 1 == Block::kStages ? 0 : stage + 1;
    }
    // Each of two partners finishes 16 of their 32 rows: it hands over its sums of the other 16.
    constexpr int kTilesN = Warp::kTilesN;
    sync_warp();  // the last tile's rows have been stored
#pragma unroll
    for (int n = 0; n < kTilesN; ++n) {
      Vec16 raw;
#pragma unroll
      for (int i = 0; i < 4; ++i) raw.w[i] = float_to_bits(half ? sums.sum[0][n][i] : sums.sum[1][n][i]);
      store_shared(handed + warp * kHanded + (n * 32 + lane) * kChunkBytes, raw);
    }
    sync_threads();
    float sum[kTilesN][4];
#pragma unroll
    for (int n = 0; n < kTilesN; ++n) {
      const Vec16 raw = load_shared<Vec16>(mine + (n * 32 + lane) * kChunkBytes);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        // In one order whichever half this is: the even part of the reduction first.
        const float own = half ? sums.sum[1][n][i] : sums.sum[0][n][i], other = bits_to_float(raw.w[i]);
        sum[n][i] = half ? other + own : own + other;
      }
    }
    sync_warp();
    const int first_row = warp_row + half * 16;
#pragma unroll
    for (int n = 0; n < kTilesN; ++n) {
      const Vec8 bias = load_shared<Vec8>(tables.bias + n * 8 + lane % 4 * 2);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float v[2] = {sum[n][i * 2] + bits_to_float(bias.w[0]), sum[n][i * 2 + 1] + bits_to_float(bias.w[1])};
        Word raw;
        act.pack(v, raw);
        store_shared(mine + (lane / 4 + i * 8) * kStagedPitch<Math, Block::kN> + (n * 8 + lane % 4 * 2) * 2, raw);
      }
    }
    sync_warp();
    const TilePlace place = S::place(s, tile);
    constexpr int kElements = kChunkElements<Math>, kChunks = Block::kN / kElements, kLanes = 32;
#pragma unroll
    for (int i = 0; i < 16 * kChunks / kLanes; ++i) {
      const int index = lane + i * kLanes, r = index / kChunks, n = index % kChunks * kElements;
      const int at = load_shared<int>(tables.pixel + first_row + r);
      const int image = place.image + (at >> 20), y = place.y + (at >> 10 & 1023), x = place.x + (at & 1023);
      const bool on = at >= 0 && image < a.images && y < a.out.height && x < a.out.width;
      store_chunk<Math>(a.out, on ? pixel_offset(a.out, image, y * a.out.width + x) : 0, n,
                        load_shared<Vec16>(mine + r * kStagedPitch<Math, Block::kN> +
                                           n * static_cast<int>(sizeof(typename Math::Store))),
                        on);
    }
  }
  cp_async_wait<0>();
}

}  // namespace lightops::cuda
