// What the weight gradient's kernel is made of besides its products: the block's shape, rows of channels in shared memory, tables, and the
// copies of dy and x.
#pragma once

#include <type_traits>

#include "epilogues.cuh"
#include "training/wgrad_args.h"

namespace lightops::cuda {

template <class Math_, WgradShape kShape>
struct WgradBlock {
  using Math = Math_;
  using Store = typename Math::Store;
  static constexpr int kBytes = static_cast<int>(sizeof(Store));
  static constexpr int kM = wgrad_size(kShape, kBytes).m_tiles, kN = wgrad_size(kShape, kBytes).n_tiles;
  static constexpr int kTaps = wgrad_size(kShape, kBytes).taps;
  static constexpr int kWarpsM = wgrad_size(kShape, kBytes).warps_m, kWarpsN = wgrad_size(kShape, kBytes).warps_n;
  static constexpr int kOut = wgrad_size(kShape, kBytes).out(), kIn = wgrad_size(kShape, kBytes).in();
  static constexpr int kThreads = wgrad_size(kShape, kBytes).threads();
  static constexpr int kPixels = wgrad_size(kShape, kBytes).pixels, kStages = wgrad_size(kShape, kBytes).stages;
  static constexpr int kPadded = wgrad_padded(kIn, kBytes);
  static constexpr bool kPooled = kShape == WgradShape::pooled;
  // Blocks that should share a multiprocessor bound the registers; a halo is taken to be twice the tile.
  static constexpr int kAlike = kShape == WgradShape::spatial || kShape == WgradShape::tall ? 2 : kPooled ? 4 : 1;
  static constexpr bool kShares = 2 * kStages * kPixels * (kOut + kAlike * kIn) * kBytes <= kSharedBytes;
  static constexpr int kBlocks =
      Math::kTensorCore && kThreads <= 256 && (kThreads < 256 || kShares) ? 512 / kThreads : 1;

  static constexpr WgradSize size() { return wgrad_size(kShape, kBytes); }
  static LIGHTOPS_DEVICE int warp() { return thread_index() / 32; }
  static LIGHTOPS_DEVICE int warp_n() { return warp() % kWarpsN; }
  static LIGHTOPS_DEVICE int warp_m() { return warp() / kWarpsN % kWarpsM; }
  static LIGHTOPS_DEVICE int warp_t() { return warp() / (kWarpsN * kWarpsM); }
};

// Rows of channels in shared memory: panels of 128 bytes a row, or one of all bytes where a row has fewer. Chunks are swizzled so that
// the rows of one fragment meet all banks: eight rows at a time for 16-bit types, four rows of eight words for 32-bit ones.
template <class Block, int kChannels>
struct Rows {
  static constexpr int kBytes = kChannels * Block::kBytes;
  static constexpr int kRow = kBytes < kRowBytes ? kBytes : kRowBytes;
  static constexpr int kAll = kBytes / kChunkBytes, kChunks = kRow / kChunkBytes;  // of all panels, of a row of one
  static_assert(kBytes % kRow == 0 && Block::kThreads % kAll == 0, "a thread copies one chunk of every row it copies");
  static constexpr int kStep = Block::kThreads / kAll;  // rows copied at a time

  static LIGHTOPS_DEVICE int turn(int row) {
    if constexpr (Block::kBytes == 4) return kRow == kRowBytes ? (row & 3) << 1 | (row >> 2 & 1) : 0;
    else return row / (kRowBytes / kRow) % kChunks;
  }
  static LIGHTOPS_DEVICE int offset(int row, int chunk, int rows) {
    const int panel = kAll == kChunks ? 0 : chunk / kChunks * rows * kRow;
    return panel + row * kRow + ((chunk % kChunks ^ turn(row)) << 4);
  }
  static LIGHTOPS_DEVICE int my_chunk() { return thread_index() % kAll; }
  static LIGHTOPS_DEVICE int my_row() { return thread_index() / kAll; }
};

// The tables lie at fixed places at the start of shared memory, the one whose length only the launch knows last: their addresses cost
// no registers.
template <class Block>
struct WgradTables {
  using Math = typename Block::Math;
  static constexpr int kPixelPlace = 2 * Block::kPadded, kPixelSlot = kPixelPlace + Block::kPixels,
                       kTapShift = kPixelSlot + Block::kPixels, kTilePlace = kTapShift + kMaxTaps,
                       kSlotPlace = kTilePlace + kWgradPlaces * 4;

  static LIGHTOPS_DEVICE float* pairs() { return reinterpret_cast<float*>(shared_memory()); }
  static LIGHTOPS_DEVICE int* entry(int table, int index) {
    return reinterpret_cast<int*>(shared_memory()) + table + index;
  }
  // Places are y << 16 | x from the tile's first, -1: none.
  static LIGHTOPS_DEVICE int slot_place(int slot) { return load_shared<int>(entry(kSlotPlace, slot)); }
  static LIGHTOPS_DEVICE int pixel_place(int pixel) { return load_shared<int>(entry(kPixelPlace, pixel)); }
  static LIGHTOPS_DEVICE int pixel_slot(int pixel) { return load_shared<int>(entry(kPixelSlot, pixel)); }
  static LIGHTOPS_DEVICE int tap_shift(int tap) { return load_shared<int>(entry(kTapShift, tap)); }

  // Image, tile row and tile column of the tiles whose stages are in use and of the next: thread 0 goes on one tile an iteration.
  // Kept here, not in registers, which the sums need.
  static LIGHTOPS_DEVICE Vec16 tile_place(int index) { return load_shared<Vec16>(entry(kTilePlace, index * 4)); }
  static LIGHTOPS_DEVICE void next_tile(const Tile& t, int from, int to) {
    if (thread_index() != 0) return;
    Vec16 at = tile_place(from);
    if (static_cast<int>(++at.w[2]) == t.tiles_x) {
      at.w[2] = 0;
      if (static_cast<int>(++at.w[1]) == t.tiles_y) at.w[1] = 0, ++at.w[0];
    }
    store_shared(entry(kTilePlace, to * 4), at);
  }

  static LIGHTOPS_DEVICE void fill(const WgradArgs& a, int in, int first_tile) {
    const Tile& t = a.tile;
    if (thread_index() < Block::kStages) {
      const int tile = first_tile + thread_index(), row = tile / t.tiles_x, image = row / t.tiles_y;
      store_shared(entry(kTilePlace, thread_index() * 4),
                   Vec16{{static_cast<uint32_t>(image), static_cast<uint32_t>(row - image * t.tiles_y),
                          static_cast<uint32_t>(tile - row * t.tiles_x), 0u}});
    }
    const int stride = a.geometry.stride_w;
    for (int i = thread_index(); i < t.slots; i += Block::kThreads) {
      const int y = i / t.pitch, in_row = i - y * t.pitch, phase = in_row / t.sub_pitch,
                x = (in_row - phase * t.sub_pitch) * stride + phase;
      store_shared(entry(kSlotPlace, i), phase < stride && x < t.halo_w ? y << 16 | x : -1);
    }
    for (int i = thread_index(); i < Block::kPixels; i += Block::kThreads) {
      const int y = i / t.tile_w;
      store_shared(entry(kPixelPlace, i), i < t.tile_h * t.tile_w ? y << 16 | (i - y * t.tile_w) : -1);
      store_shared(entry(kPixelSlot, i), halo_place(t, a.geometry, i) / kRowBytes);
    }
    for (int i = thread_index(); i < a.taps; i += Block::kThreads)
      store_shared(entry(kTapShift, i), tap_place(t, a.geometry, i) / kRowBytes);
    if (a.scale)
      stage_scale_shift<Math>(pairs(), a.scale + in, a.shift + in, a.x.channels - in, Block::kPadded, Block::kThreads);
  }
};

// The copies of dy and of x under one tile, and what is done to them before they are multiplied.
template <class Block>
struct WgradLoader {
  using Math = typename Block::Math;
  static constexpr int kElements = kChunkElements<Math>;
  using Out = Rows<Block, Block::kOut>;
  using In = Rows<Block, Block::kIn>;
  static constexpr int kOutBytes = Block::kPixels * Out::kBytes;  // dy's part of a stage

  using Tables = WgradTables<Block>;

  const WgradArgs& args;
  int out, in;  // the thread's channels

  LIGHTOPS_DEVICE WgradLoader(const WgradArgs& a, int first_out, int first_in)
      : args(a), out(first_out + Out::my_chunk() * kElements), in(first_in + In::my_chunk() * kElements) {}

  LIGHTOPS_DEVICE void copy(unsigned char* to, const View& v, int64_t offset, int channel, bool on) const {
    if (v.vector) {
      on = on && channel < v.channels;
      cp_async16(to, element<Math>(v, on ? offset + channel : 0), on);
      return;
    }
    // Channels that are not whole chunks come one by one. Stored one by one they meet banks four at a time, which counts where all of x
    // is such (an image); elsewhere eight values at once would not fit the registers.
    const auto load = [&](int e) {
      const bool some = on && channel + e < v.channels;
      return load_global(element<Math>(v, some ? offset + channel + e : 0), some);
    };
    if constexpr (Block::kIn <= 8) {
      Vec16 raw{};
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        if constexpr (Block::kBytes == 4) raw.w[e] = float_to_bits(load(e));
        else raw.w[e / 2] |= static_cast<uint32_t>(load(e)) << (e % 2 * 16);
      }
      store_shared(to, raw);
    } else {
#pragma unroll 1
      for (int e = 0; e < kElements; ++e) store_shared(to + e * Block::kBytes, load(e));
    }
  }

  // Row of the map of x and whether it is inside; place is a table's entry.
  LIGHTOPS_DEVICE bool input(const Vec16& at, int place, int* y, int* x) const {
    const Geometry& g = args.geometry;
    *y = static_cast<int>(at.w[1]) * args.tile.tile_h * g.stride_h - g.pad_h + (place >> 16);
    *x = static_cast<int>(at.w[2]) * args.tile.tile_w * g.stride_w - g.pad_w + (place & 0xffff);
    if (Block::kPooled) return *y < args.dy.height && *x < args.dy.width;
    return *y >= 0 && *y < args.x.height && *x >= 0 && *x < args.x.width;
  }

  LIGHTOPS_DEVICE void issue(int tile, unsigned char* stage) const {
    const Vec16 at = Tables::tile_place(tile);
    const int64_t image = at.w[0];
#pragma unroll 1
    for (int r = Out::my_row(); r < Block::kPixels; r += Out::kStep) {
      const int place = Tables::pixel_place(r);
      const int y = static_cast<int>(at.w[1]) * args.tile.tile_h + (place >> 16),
                x = static_cast<int>(at.w[2]) * args.tile.tile_w + (place & 0xffff);
      const bool on = place >= 0 && y < args.dy.height && x < args.dy.width;
      copy(stage + Out::offset(r, Out::my_chunk(), Block::kPixels), args.dy,
           image * args.dy.image + (static_cast<int64_t>(y) * args.dy.width + x) * args.dy.pixel, out, on);
    }
    const int slots = args.tile.slots;
    unsigned char* const rows = stage + kOutBytes;
#pragma unroll 1
    for (int r = In::my_row(); r < slots; r += In::kStep) {
      const int place = Tables::slot_place(r);
      if (place < 0) continue;
      int y, x;
      const bool on = input(at, place, &y, &x);
      unsigned char* const to = rows + In::offset(r, In::my_chunk(), slots);
      if constexpr (Block::kPooled) {
#pragma unroll
        for (int k = 0; k < 4; ++k)
          copy(to + k * slots * In::kBytes, args.x,
               image * args.x.image + (2 * y + k / 2) * args.x_row + (2 * x + k % 2) * args.x.pixel, in, on);
      } else {
        copy(to, args.x, image * args.x.image + y * args.x_row + x * args.x.pixel, in, on);
      }
    }
  }

  LIGHTOPS_DEVICE void finish(int tile, unsigned char* stage) const {
    if (!Block::kPooled && !args.scale && args.pre_act == 0) return;
    const Activation<Math> act(args.pre_act);
    const Vec16 at = Tables::tile_place(tile);
    const int slots = args.tile.slots;
    unsigned char* const rows = stage + kOutBytes;
#pragma unroll 1
    for (int r = In::my_row(); r < slots; r += In::kStep) {
      const int place = Tables::slot_place(r);
      int y, x;
      if (place < 0 || !input(at, place, &y, &x)) continue;
      finish_chunk(rows + In::offset(r, In::my_chunk(), slots), act, slots * In::kBytes);
    }
  }

  // Four channels at a time: the registers hold the sums of a whole gradient besides. The 2x2 pixels of an average are `next` apart.
  LIGHTOPS_DEVICE void finish_chunk(unsigned char* mine, const Activation<Math>& act, int next) const {
    using Part = std::conditional_t<Block::kBytes == 4, Vec16, Vec8>;
    constexpr int kWords = static_cast<int>(sizeof(Part)) / 4;
    constexpr int kInputs = Block::kPooled ? 4 : 1;
    Vec16 raw[kInputs];
#pragma unroll
    for (int k = 0; k < kInputs; ++k) raw[k] = load_shared<Vec16>(mine + k * next);
#pragma unroll
    for (int first = 0; first < kElements; first += 4) {
      const int word = first * Block::kBytes / 4;
      Vec16 scale{}, shift{};
      if (args.scale) {
        const float* const pairs = Tables::pairs() + table_place<Math>(In::my_chunk() * kElements + first);
        scale = load_shared<Vec16>(pairs);
        shift = load_shared<Vec16>(pairs + Block::kPadded);
      }
      Part part;
      float v[4], mean[4] = {};
#pragma unroll
      for (int k = 0; k < kInputs; ++k) {
#pragma unroll
        for (int w = 0; w < kWords; ++w) part.w[w] = raw[k].w[word + w];
        unpack<Math>(part, v);
        if (args.scale) {
#pragma unroll
          for (int e = 0; e < 4; ++e) v[e] = v[e] * bits_to_float(scale.w[e]) + bits_to_float(shift.w[e]);
        }
        if (!Block::kPooled) continue;
        act.apply(v);
#pragma unroll
        for (int e = 0; e < 4; ++e) mean[e] += v[e] * 0.25f;
      }
      if constexpr (Block::kPooled) pack<Math>(mean, part);
      else act.pack(v, part);
#pragma unroll
      for (int w = 0; w < kWords; ++w) raw[0].w[word + w] = part.w[w];
    }
    store_shared(mine, raw[0]);
  }
};

}  // namespace lightops::cuda
