// The weight gradient as a matrix product over pixels: A = dy transposed, B = the activated input shifted by a tap. Both lie in
// shared memory as they do in memory, a pixel a row, and ldmatrix transposes them on the way to the tensor cores.
//
// A block walks over the pixel tiles of its split. dy and the halo of x under a tile are copied once, kStages - 1 tiles ahead, and
// serve all taps, whose sums stay in registers from the first tile to the last. One barrier a tile:
//   wait for the stage -> finish the thread's own chunks (batch norm, activation, the 2x2 average) -> barrier ->
//   start the copies of tile + kStages - 1 (into the stage every warp has left) -> multiply.
#pragma once

#include "training/wgrad_loader.cuh"

namespace lightops::cuda {

// The sums of a warp: [tap][16 output channels][8 input channels] tiles, as D fragments of mma.m16n8 whatever the arithmetic.
template <class Block>
struct WgradWarp {
  using Math = typename Block::Math;
  using Out = Rows<Block, Block::kOut>;
  using In = Rows<Block, Block::kIn>;
  using Tables = WgradTables<Block>;
  static constexpr int kM = Block::kM, kN = Block::kN, kTaps = Block::kTaps;

  float sum[kTaps][kM][kN][4];

  LIGHTOPS_DEVICE void clear() {
#pragma unroll
    for (int t = 0; t < kTaps; ++t)
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int n = 0; n < kN; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) sum[t][m][n][i] = 0.f;
  }

  // Adds pixels [pixel, pixel + 32) of the stage for the warp's first `taps` taps.
  LIGHTOPS_DEVICE void multiply(const unsigned char* dy, const unsigned char* x, int slots, int first_tap, int taps,
                                int pixel) {
    if constexpr (!Math::kTensorCore) multiply_scalars(dy, x, slots, first_tap, taps, pixel);
    else if constexpr (Block::kBytes == 2) multiply_halves(dy, x, slots, first_tap, taps, pixel);
    else multiply_words(dy, x, slots, first_tap, taps, pixel);
  }

  // Sixteen pixels of sixteen output channels.
  static LIGHTOPS_DEVICE void load_dy(uint32_t (&a)[4], const unsigned char* dy, int pixel, int m) {
    const int lane = thread_index() % 32;
    ldmatrix_x4_transposed(a, dy + Out::offset(pixel + lane / 16 * 8 + lane % 8,
                                               (Block::warp_m() * kM + m) * 2 + lane / 8 % 2, Block::kPixels));
  }

  // Two k16 steps. With several taps the fragments of dy stay in registers and those of x pass by: the four matrices of one ldmatrix are
  // 32 pixels of eight input channels. With one tap it is the other way round, 16 pixels of sixteen channels at a time.
  LIGHTOPS_DEVICE void multiply_halves(const unsigned char* dy, const unsigned char* x, int slots, int first_tap,
                                       int taps, int pixel) {
    const int lane = thread_index() % 32;
    if constexpr (kTaps > 1) {
      const int slot = Tables::pixel_slot(pixel + lane);
      uint32_t a[2][kM][4];
#pragma unroll
      for (int k = 0; k < 2; ++k)
#pragma unroll
        for (int m = 0; m < kM; ++m) load_dy(a[k][m], dy, pixel + k * 16, m);
#pragma unroll
      for (int t = 0; t < kTaps; ++t) {
        if (t >= taps) break;
        const int row = slot + Tables::tap_shift(first_tap + t);
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          uint32_t b[4];
          ldmatrix_x4_transposed(b, x + In::offset(row, Block::warp_n() * kN + n, slots));
#pragma unroll
          for (int k = 0; k < 2; ++k)
#pragma unroll
            for (int m = 0; m < kM; ++m) Math::mma(sum[t][m][n], a[k][m], &b[k * 2]);
        }
      }
    } else {
      static_assert(kN % 2 == 0, "input channels are loaded two tiles at a time");
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int slot = Tables::pixel_slot(pixel + k * 16 + lane % 16);
        uint32_t b[kN / 2][4];
#pragma unroll
        for (int n = 0; n < kN / 2; ++n)
          ldmatrix_x4_transposed(b[n], x + In::offset(slot, Block::warp_n() * kN + n * 2 + lane / 16, slots));
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          uint32_t a[4];
          load_dy(a, dy, pixel + k * 16, m);
#pragma unroll
          for (int n = 0; n < kN; ++n) Math::mma(sum[0][m][n], a, &b[n / 2][n % 2 * 2]);
        }
      }
    }
  }

  static LIGHTOPS_DEVICE const unsigned char* word(const unsigned char* rows, int offset, int channel) {
    return rows + offset + channel % 4 * 4;
  }

  // ldmatrix transposes 16-bit elements only: words come one by one.
  LIGHTOPS_DEVICE void multiply_words(const unsigned char* dy, const unsigned char* x, int slots, int first_tap,
                                      int taps, int pixel) {
    const int lane = thread_index() % 32, k = lane % 4;
#pragma unroll 1
    for (int step = 0; step < 4; ++step, pixel += 8) {
      uint32_t a[kM][4];
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int o = (Block::warp_m() * kM + m) * 16 + i % 2 * 8 + lane / 4;
          a[m][i] = load_shared<uint32_t>(word(dy, Out::offset(pixel + k + i / 2 * 4, o / 4, Block::kPixels), o));
        }
      const int slot[2] = {Tables::pixel_slot(pixel + k), Tables::pixel_slot(pixel + k + 4)};
#pragma unroll
      for (int t = 0; t < kTaps; ++t) {
        if (kTaps > 1 && t >= taps) break;
        const int shift = kTaps == 1 ? 0 : Tables::tap_shift(first_tap + t);
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          const int c = (Block::warp_n() * kN + n) * 8 + lane / 4;
          uint32_t b[2];
#pragma unroll
          for (int i = 0; i < 2; ++i)
            b[i] = load_shared<uint32_t>(word(x, In::offset(slot[i] + shift, c / 4, slots), c));
#pragma unroll
          for (int m = 0; m < kM; ++m) Math::mma(sum[t][m][n], a[m], b);
        }
      }
    }
  }

  LIGHTOPS_DEVICE void multiply_scalars(const unsigned char* dy, const unsigned char* x, int slots, int first_tap,
                                        int taps, int pixel) {
    const int lane = thread_index() % 32;
#pragma unroll 1
    for (int k = 0; k < 32; ++k, ++pixel) {
      float a[kM][2];
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int o = (Block::warp_m() * kM + m) * 16 + i * 8 + lane / 4;
          a[m][i] = load_shared<float>(word(dy, Out::offset(pixel, o / 4, Block::kPixels), o));
        }
      const int slot = Tables::pixel_slot(pixel);
#pragma unroll
      for (int t = 0; t < kTaps; ++t) {
        if (kTaps > 1 && t >= taps) break;
        const int shift = kTaps == 1 ? 0 : Tables::tap_shift(first_tap + t);
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          const int c = (Block::warp_n() * kN + n) * 8 + lane % 4 * 2;
          const Vec8 b = load_shared<Vec8>(word(x, In::offset(slot + shift, c / 4, slots), c));
#pragma unroll
          for (int m = 0; m < kM; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[t][m][n][i] += a[m][i / 2] * bits_to_float(b.w[i % 2]);
        }
      }
    }
  }

  // [tap][out][in] of the block's split.
  LIGHTOPS_DEVICE void store(const WgradArgs& a, float* partial, int first_tap, int taps, int first_out,
                             int first_in) const {
    const int lane = thread_index() % 32, outs = a.dy.channels, ins = a.x.channels;
    const bool even = ins % 2 == 0;
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      if (t >= taps) break;
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int o = first_out + (Block::warp_m() * kM + m) * 16 + half * 8 + lane / 4;
          float* const row = partial + (static_cast<int64_t>(first_tap + t) * outs + (o < outs ? o : 0)) * ins;
#pragma unroll
          for (int n = 0; n < kN; ++n) {
            const int i = first_in + (Block::warp_n() * kN + n) * 8 + lane % 4 * 2;
            const float first = sum[t][m][n][half * 2], second = sum[t][m][n][half * 2 + 1];
            const bool on = o < outs && i < ins;
            if (even) {
              store_global(reinterpret_cast<FloatPair*>(row + (on ? i : 0)), FloatPair{first, second}, on);
            } else {
              store_global(row + (on ? i : 0), first, on);
              store_global(row + (on ? i + 1 : 0), second, on && i + 1 < ins);
            }
          }
        }
    }
  }
};

template <class Block>
LIGHTOPS_KERNEL LIGHTOPS_LAUNCH_BOUNDS(Block::kThreads, Block::kBlocks) wgrad_kernel(LIGHTOPS_PARAMS(WgradArgs) a) {
  unsigned char* const shared = shared_memory() + wgrad_tables_bytes(Block::size(), a.tile.slots, Block::kBytes);
  const int in_tile = block_x() % a.in_tiles, rest = block_x() / a.in_tiles, out_tile = rest % a.out_tiles,
            group = rest / a.out_tiles;
  const int first_out = out_tile * Block::kOut, first_in = in_tile * Block::kIn;
  const int first_tap = group * a.taps_a_block + Block::warp_t() * a.taps_a_warp;
  const int group_end = (group + 1) * a.taps_a_block < a.taps ? (group + 1) * a.taps_a_block : a.taps;
  const int taps =
      group_end - first_tap < a.taps_a_warp ? group_end - first_tap : a.taps_a_warp;  // none or less: nothing to do

  const int first = block_y() * a.tiles_a_split,
            last = first + a.tiles_a_split < a.tiles ? first + a.tiles_a_split : a.tiles;
  constexpr int kPlaces = Block::kStages + 1;
  WgradTables<Block>::fill(a, first_in, first);
  sync_threads();
  const WgradLoader<Block> loader(a, first_out, first_in);
  const int slots = a.tile.slots,
            stage_bytes = WgradLoader<Block>::kOutBytes + (Block::kPooled ? 4 : 1) * slots * Block::kIn * Block::kBytes;

#pragma unroll 1
  for (int s = 0; s < Block::kStages - 1; ++s) {
    if (first + s < last) loader.issue(s, shared + s * stage_bytes);
    cp_async_commit();  // also when empty: the wait below counts groups
  }

  WgradWarp<Block> warp;
  warp.clear();
  int stage = 0, place = 0;  // of the tile
#pragma unroll 1
  for (int tile = first; tile < last; ++tile) {
    unsigned char* const dy = shared + stage * stage_bytes;
    cp_async_wait<Block::kStages - 2>();
    loader.finish(place, dy);
    sync_threads();
    const int last_place = place == 0 ? kPlaces - 1 : place - 1;  // tile + kStages, modulo kPlaces
    const int ahead = last_place == 0 ? kPlaces - 1 : last_place - 1;
    WgradTables<Block>::next_tile(a.tile, ahead, last_place);
    if (tile + Block::kStages - 1 < last)
      loader.issue(ahead, shared + (stage == 0 ? Block::kStages - 1 : stage - 1) * stage_bytes);
    cp_async_commit();
#pragma unroll 1
    for (int pixel = 0; pixel < a.tile.tile_h * a.tile.tile_w; pixel += 32)
      warp.multiply(dy, dy + WgradLoader<Block>::kOutBytes, slots, first_tap, taps, pixel);
    stage = stage + 1 == Block::kStages ? 0 : stage + 1;
    place = place + 1 == kPlaces ? 0 : place + 1;
  }
  const int64_t weights = static_cast<int64_t>(a.taps) * a.dy.channels * a.x.channels;
  warp.store(a, a.partial + block_y() * weights, first_tap, taps, first_out, first_in);
}

}  // namespace lightops::cuda
