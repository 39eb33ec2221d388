// A-loaders of the implicit GEMM: each fills one stage of the shared A tile with 128 bytes of channels per row.
//   start(chunk)          runs once, before the first chunk
//   issue(chunk, stage)   starts the copies of a chunk of the reduction
//   settle(first, end)    runs once, behind the first copies: what finish() looks up of chunks first to end
//   finish(chunk, stage)  runs after the copies have landed, on the thread's own 16-byte chunks only, so that it needs no
//                         barrier beyond the one the pipeline has anyway
// Thread t owns chunk t % 8 of the rows t / 8, t / 8 + threads / 8, ...: eight neighbours read one 128-byte row, and one
// thread meets one set of channels only, so the scale-shift pairs are fetched once per stage.
#pragma once

#include "addressing.cuh"

namespace lightops::cuda {

// The halo of the tile, each input pixel once, whatever the number of taps; batch norm and activation applied in place,
// once per element. Padding is zero after the activation.
template <class Math, int kThreads, int kMaxRows, bool kTapsMany>
struct HaloLoader {
  static constexpr bool kManyTaps = kTapsMany;
  static constexpr int kElements = kChunkElements<Math>;
  static constexpr bool kGathered = false;
  // The swizzle of a row depends on row % 8: the same for all rows of a thread.
  static_assert(kThreads / kRowChunks % 8 == 0, "a thread's rows are whole swizzle periods apart");

  const ConvArgs& args;
  const float* pairs;
  int padded;
  int pixel[kMaxRows];  // y * width + x; -1: padding, -2: no such slot
  const typename Math::Store* image;

  LIGHTOPS_DEVICE HaloLoader(const ConvArgs& a, TilePlace place, unsigned char* extra)
      : args(a), pairs(reinterpret_cast<float*>(extra)), image(element<Math>(a.x, place.image * a.x.image)) {
    const Tile& t = a.tile;
    const Geometry& g = a.geometry;
    if (kTapsMany) image = keep(image);
    padded = a.chunks * kRowElements<Math>;
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) {
      const int slot = thread_index() / kRowChunks + i * (kThreads / kRowChunks);
      const int hy = divided(slot, t.by_pitch), in_row = slot - hy * t.pitch;
      int hx = in_row, phase = 0;
      if (g.stride_w > 1) {
        phase = divided(in_row, t.by_sub_pitch);
        hx = (in_row - phase * t.sub_pitch) * g.stride_w + phase;
      }
      const int y = place.y * g.stride_h - g.pad_h + hy, x = place.x * g.stride_w - g.pad_w + hx;
      const bool exists = slot < t.slots && phase < g.stride_w && hx < t.halo_w;
      const bool inside = y >= 0 && y < a.x.height && x >= 0 && x < a.x.width;
      pixel[i] = !exists ? -2 : inside ? y * a.x.width + x : -1;
    }
  }

  LIGHTOPS_DEVICE int channel(int chunk) const {
    return chunk * kRowElements<Math> + thread_index() % kRowChunks * kElements;
  }
  LIGHTOPS_DEVICE unsigned char* mine(unsigned char* stage, int i) const {
    return stage + tile_offset(thread_index() / kRowChunks, thread_index() % kRowChunks) +
           i * (kThreads / kRowChunks) * kRowBytes;
  }

  LIGHTOPS_DEVICE void start(int) {}
  LIGHTOPS_DEVICE void settle(int first, int end) {
    if (!args.scale) return;
    stage_scale_shift<Math, kThreads>(const_cast<float*>(pairs), args, first, end);
    sync_threads();  // the pairs are read before the pipeline's first barrier
  }

  LIGHTOPS_DEVICE void issue(int chunk, unsigned char* stage) {
    const int c = channel(chunk);
    const bool some = c < args.x.channels;
    const auto* from = image + (some ? c : 0);
    if (args.x.vector) {
#pragma unroll
      for (int i = 0; i < kMaxRows; ++i) {
        if (pixel[i] == -2) continue;
        const bool on = pixel[i] >= 0 && some;
        // The widest pointwise tile has no registers left for the shorter way: it would spill.
        const auto* const at =
            kTapsMany ? pixel_at(from, args.x, on ? pixel[i] : 0) : from + (on ? pixel[i] * args.x.pixel : 0);
        cp_async16(mine(stage, i), at, on);
      }
      return;
    }
    // Channels that are not whole chunks, one by one.
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) {
      if (pixel[i] == -2) continue;
#pragma unroll 1
      for (int e = 0; e < kElements; ++e) {
        const bool on = pixel[i] >= 0 && c + e < args.x.channels;
        store_shared(mine(stage, i) + e * sizeof(typename Math::Store),
                     load_global(from + (on ? pixel[i] * args.x.pixel + e : 0), on));
      }
    }
  }

  LIGHTOPS_DEVICE void finish(int chunk, unsigned char* stage) {
    if (!args.scale && args.pre_act == 0) return;
    const Activation<Math> act(args.pre_act);
    if (!args.scale) {
#pragma unroll
      for (int i = 0; i < kMaxRows; ++i) {
        if (pixel[i] < 0) continue;
        float v[kElements];
        unpack<Math>(load_shared<Vec16>(mine(stage, i)), v);
        Vec16 raw;
        act.pack(v, raw);
        store_shared(mine(stage, i), raw);
      }
      return;
    }
    const Affine<Math> affine(pairs, padded, channel(chunk));
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) {
      if (pixel[i] < 0) continue;
      float v[kElements];
      unpack<Math>(load_shared<Vec16>(mine(stage, i)), v);
      affine.apply(v);
      Vec16 raw;
      act.pack(v, raw);
      store_shared(mine(stage, i), raw);
    }
  }
};

template <class Math, int kThreads, int kMaxRows>
using SpatialLoader = HaloLoader<Math, kThreads, kMaxRows, true>;
// One tap: the tap counters of the pipeline fold away.
template <class Math, int kThreads, int kMaxRows>
using PointwiseLoader = HaloLoader<Math, kThreads, kMaxRows, false>;

// DenseNet's transition: batch norm, activation and the 2x2 average before the 1x1 convolution. The four pixels of a row are
// fetched into registers while the chunk before is multiplied, and averaged into the stage when its turn comes.
template <class Math, int kThreads, int kMaxRows>
struct PooledLoader {
  static constexpr bool kManyTaps = false, kGathered = false;
  static constexpr int kElements = kChunkElements<Math>;

  const ConvArgs& args;
  const float* pairs;
  int padded;
  int last;  // chunk of the block's part of the reduction, and one
  int corner[kMaxRows];  // y * width + x of the row's first pixel, -1: no such row
  const typename Math::Store* image;
  Vec16 fetched[kMaxRows][4];

  LIGHTOPS_DEVICE PooledLoader(const ConvArgs& a, TilePlace place, unsigned char* extra)
      : args(a),
        pairs(reinterpret_cast<float*>(extra)),
        padded(a.chunks * kRowElements<Math>),
        last(a.chunks),
        image(element<Math>(a.x, place.image * a.x.image)) {
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) {
      const int r = thread_index() / kRowChunks + i * (kThreads / kRowChunks);
      const int row = divided(r, a.tile.by_tile_w), y = place.y + row, x = place.x + r - row * a.tile.tile_w;
      const bool on = r < a.tile.tile_h * a.tile.tile_w && y < a.out.height && x < a.out.width;
      corner[i] = on ? 2 * y * a.x.width + 2 * x : -1;
    }
  }

  LIGHTOPS_DEVICE int channel(int chunk) const {
    return chunk * kRowElements<Math> + thread_index() % kRowChunks * kElements;
  }

  LIGHTOPS_DEVICE void start(int chunk) { fetch(chunk); }
  LIGHTOPS_DEVICE void settle(int first, int end) {
    stage_scale_shift<Math, kThreads>(const_cast<float*>(pairs), args, first, end);
    sync_threads();
    last = end;
  }
  LIGHTOPS_DEVICE void fetch(int chunk) {
    const int c = channel(chunk);
    const int64_t first = image - element<Math>(args.x, 0);
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const bool on = corner[i] >= 0 && chunk < last;
        fetched[i][k] =
            load_chunk<Math>(args.x, first + (on ? corner[i] + k / 2 * args.x.width + k % 2 : 0) * args.x.pixel, c, on);
      }
  }

  LIGHTOPS_DEVICE void issue(int, unsigned char*) {}

  LIGHTOPS_DEVICE void finish(int chunk, unsigned char* stage) {
    const Activation<Math> act(args.pre_act);
    const int c = channel(chunk);
    const Affine<Math> affine(pairs, padded, c);
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) {
      float mean[kElements] = {};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        float v[kElements];
        unpack<Math>(fetched[i][k], v);
        affine.apply(v);
        act.apply(v);
#pragma unroll
        for (int e = 0; e < kElements; ++e) mean[e] += v[e];
      }
      const bool real = corner[i] >= 0 && c < args.x.channels;
#pragma unroll
      for (int e = 0; e < kElements; ++e) mean[e] = real ? mean[e] * 0.25f : 0.f;
      store_shared(stage + tile_offset(thread_index() / kRowChunks, thread_index() % kRowChunks) +
                       i * (kThreads / kRowChunks) * kRowBytes,
                   pack<Math>(mean));
    }
    fetch(chunk + 1);
  }
};

// A few input channels (the stem): the reduction runs over (tap, channel) flattened, so that no lanes are wasted on padding. The
// input under the tile's windows is copied to shared memory once, zeros for padding, and the rows of A are put together there.
// The copy is made of lines: rows of pixels, or rows of each plane; in 16-byte chunks where lines of the input start and end at such.
// A warp puts together one chunk of 32 neighbouring rows at a time: their windows are a stride apart, so that the lanes meet different
// banks (eight chunks of four rows, as the other loaders go, met twice as many), and which taps it reads is the same for all lanes.
template <class Math, int kThreads, int kMaxRows>
struct GatherLoader {
  static constexpr int kElements = kChunkElements<Math>;
  static constexpr bool kGathered = true, kManyTaps = false;
  using Store = typename Math::Store;

  const ConvArgs& args;
  const int* offsets;  // of every k: elements from a row's first, -1 past the reduction
  const Store* patch;  // [line][gather_pitch]
  static constexpr int kWarps = kThreads / 32;
  static_assert(kWarps % kRowChunks == 0 || kRowChunks % kWarps == 0, "warps share out the chunks of the rows evenly");
  static constexpr int kChunksEach = kWarps < kRowChunks ? kRowChunks / kWarps : 1, kRowsEach = kMaxRows / kChunksEach;
  int base[kRowsEach];  // element of the row's first tap

  static LIGHTOPS_DEVICE int row_of(int i) {
    return thread_index() % 32 +
           (thread_index() / 32 / kRowChunks + i * (kWarps < kRowChunks ? 1 : kWarps / kRowChunks)) * 32;
  }

  LIGHTOPS_DEVICE GatherLoader(const ConvArgs& a, TilePlace place, unsigned char* extra)
      : args(a), offsets(reinterpret_cast<int*>(extra)) {
    const Geometry& g = a.geometry;
    const Tile& t = a.tile;
    const bool planar = a.gather_channel != 1;
    const int padded = a.chunks * kRowElements<Math>, channels = a.x.channels, inner = planar ? 1 : channels;
    const int pitch = a.gather_pitch, plane = planar ? t.halo_h * pitch : 1;
    auto* const copy = reinterpret_cast<Store*>(extra + padded * 4);
    patch = copy;
    const int first_y = place.y * g.stride_h - g.pad_h, first = (place.x * g.stride_w - g.pad_w) * inner;
    const int phase = a.x.vector ? first & (kElements - 1) : 0, line_elements = a.x.width * inner;
    const Store* const image = element<Math>(a.x, place.image * a.x.image);
    const auto line_of = [&](int line, bool* on) {
      const int c = planar ? line / t.halo_h : 0, y = first_y + line - c * t.halo_h;
      *on = y >= 0 && y < a.x.height;
      return *on ? image + y * a.gather_row + c * a.gather_channel : image;
    };
    const int lines = planar ? t.halo_h * channels : t.halo_h;
    if (a.x.vector) {
      const int chunks =
          (t.halo_w * inner + 2 * (kElements - 1)) / kElements;  // a line may start anywhere in its first
      for (int i = thread_index(); i < lines * chunks; i += kThreads) {
        const int line = i / chunks, at = (i - line * chunks) * kElements, e = first - phase + at;
        bool on;
        const Store* const from = line_of(line, &on);
        on = on && e >= 0 && e < line_elements;
        cp_async16(copy + line * pitch + at, from + (on ? e : 0), on);
      }
      cp_async_commit();
    } else {
      const int width = t.halo_w * inner;
      for (int i = thread_index(); i < lines * width; i += kThreads) {
        const int line = i / width, at = i - line * width, px = at / inner, x = place.x * g.stride_w - g.pad_w + px;
        bool on;
        const Store* const from = line_of(line, &on);
        on = on && x >= 0 && x < a.x.width;
        store_shared(copy + line * pitch + at,
                     load_global(from + (on ? x * a.gather_column + at - px * inner : 0), on));
      }
    }
    for (int k = thread_index(); k < padded; k += kThreads) {
      const int tap = k / channels, ky = tap / g.kernel_w, kx = tap - ky * g.kernel_w, c = k - tap * channels;
      const bool real = tap < g.kernel_h * g.kernel_w;
      store_shared(reinterpret_cast<int*>(extra) + table_place<Math>(k),
                   real ? ky * g.dilation_h * pitch + kx * g.dilation_w * inner + c * plane : -1);
    }
    const int columns = (t.halo_w - (g.kernel_w - 1) * g.dilation_w - 1) / g.stride_w + 1;
#pragma unroll
    for (int i = 0; i < kRowsEach; ++i) {
      const int r = row_of(i), row = divided(r, t.by_tile_w), x = r - row * t.tile_w;
      // Columns that no pool needs repeat the last.
      base[i] = phase + (r < t.tile_h * t.tile_w
                             ? row * g.stride_h * pitch + (x < columns ? x : columns - 1) * g.stride_w * inner
                             : 0);
    }
    cp_async_wait<0>();
    sync_threads();
  }

  LIGHTOPS_DEVICE void start(int) {}
  LIGHTOPS_DEVICE void settle(int, int) {}

  LIGHTOPS_DEVICE void issue(int chunk, unsigned char* stage) {
    // Past the last step nothing is read.
    constexpr int kStepChunks = kStepBytes / kChunkBytes;
    const int left = args.steps * kStepChunks - chunk * kRowChunks;
#pragma unroll
    for (int part = thread_index() / 32 % kRowChunks; part < kRowChunks; part += kWarps) {
      if (part >= left) return;
      int offset[kElements];
      bool whole = true;
#pragma unroll
      for (int e = 0; e < kElements; e += 4) {
        const int k = chunk * kRowElements<Math> + part * kElements + e;
        const Vec16 raw = load_shared<Vec16>(offsets + table_place<Math>(k));
#pragma unroll
        for (int i = 0; i < 4; ++i) offset[e + i] = static_cast<int>(raw.w[i]), whole = whole && offset[e + i] >= 0;
      }
      if (whole) gather<false>(offset, stage, part);
      else gather<true>(offset, stage, part);
    }
  }

  // kTail: some of the chunk lie past the reduction and are zero.
  template <bool kTail>
  LIGHTOPS_DEVICE void gather(const int (&offset)[kElements], unsigned char* stage, int part) {
#pragma unroll
    for (int i = 0; i < kRowsEach; ++i) {
      Vec16 row{};
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        const bool off = kTail && offset[e] < 0;
        const Store value = load_shared<Store>(patch + (off ? 0 : base[i] + offset[e]));
        if constexpr (sizeof(Store) == 4) row.w[e] = off ? 0u : float_to_bits(value);
        else row.w[e / 2] |= off ? 0u : static_cast<uint32_t>(value) << (e % 2 * 16);
      }
      store_shared(stage + tile_offset(row_of(i), part), row);
    }
  }

  LIGHTOPS_DEVICE void finish(int, unsigned char*) {}
};

}  // namespace lightops::cuda
