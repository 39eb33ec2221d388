// Index arithmetic shared by the kernels. Products that can pass 2^31 are 64-bit; the rest stays 32-bit, which the
// planner guarantees (images, pixels of an image and channels are each below 2^31).
#pragma once

#include "conv_args.h"
#include "number.cuh"

namespace lightops::cuda {

// Element offset of a pixel of image n.
constexpr LIGHTOPS_DEVICE int64_t pixel_offset(const View& v, int n, int64_t pixel) {
  return n * v.image + pixel * v.pixel;
}

// Address of a pixel, in a view made of whole chunks: of 64-bit sizes it took 28 instructions a copied chunk, most of them products.
template <class T>
LIGHTOPS_DEVICE T* pixel_at(T* first, const View& v, int pixel) {
  return further(first, pixel, v.pitch);
}

template <class Math>
LIGHTOPS_DEVICE const typename Math::Store* element(const View& v, int64_t offset) {
  return reinterpret_cast<const typename Math::Store*>(v.data) + offset;
}
template <class Math>
LIGHTOPS_DEVICE typename Math::Store* element_out(const View& v, int64_t offset) {
  return reinterpret_cast<typename Math::Store*>(v.data) + offset;
}

// Where a block's tile of output pixels lies.
struct TilePlace {
  int image, y, x;  // first output pixel
};

LIGHTOPS_DEVICE TilePlace place_tile(const Tile& t, int index) {
  const int column = index % t.tiles_x, rest = index / t.tiles_x;
  return {rest / t.tiles_y, rest % t.tiles_y * t.tile_h, column * t.tile_w};
}

// Where output pixel r of the tile reads the halo for tap (0, 0), as a place (number.cuh); pixels past the tile repeat the first.
LIGHTOPS_DEVICE int halo_place(const Tile& t, const Geometry& g, int r) {
  if (r >= t.tile_h * t.tile_w) return 0;
  const int line = divided(r, t.by_tile_w), x = r - line * t.tile_w;
  return row_place(line * g.stride_h * t.pitch + x, line * g.stride_h * t.key_pitch + x);
}

// How much further tap (ky, kx) reads.
LIGHTOPS_DEVICE int tap_place(const Tile& t, const Geometry& g, int tap) {
  const int down = tap / g.kernel_w * g.dilation_h, right = tap % g.kernel_w * g.dilation_w;
  const int x = right % g.stride_w * t.sub_pitch + right / g.stride_w;
  return row_place(down * t.pitch + x, down * t.key_pitch + x);
}

// A 16-byte chunk of channels [channel, channel + kChunkElements) of one pixel, element by element where the view is not
// made of whole aligned chunks.
template <class Math>
LIGHTOPS_DEVICE Vec16 load_chunk(const View& v, int64_t offset, int channel, bool on) {
  if (v.vector) return load_global16(element<Math>(v, offset + channel), on && channel < v.channels);
  constexpr int kElements = kChunkElements<Math>;
  Vec16 raw{};
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    const auto s = load_global(element<Math>(v, offset + channel + i), on && channel + i < v.channels);
    if constexpr (sizeof(s) == 4) raw.w[i] = float_to_bits(s);
    else raw.w[i / 2] |= static_cast<uint32_t>(s) << (i % 2 * 16);
  }
  return raw;
}

template <class Math>
LIGHTOPS_DEVICE void store_chunk(const View& v, int64_t offset, int channel, const Vec16& raw, bool on) {
  if (v.vector) {
    store_global16(element_out<Math>(v, offset + channel), raw, on && channel < v.channels);
    return;
  }
  using Store = typename Math::Store;
#pragma unroll
  for (int i = 0; i < kChunkElements<Math>; ++i) {
    Store value;
    if constexpr (sizeof(Store) == 4) value = bits_to_float(raw.w[i]);
    else value = static_cast<Store>(raw.w[i / 2] >> (i % 2 * 16));
    store_global(element_out<Math>(v, offset + channel + i), value, on && channel + i < v.channels);
  }
}

// Where a 4-byte entry of channel c lies in a table that eight neighbouring threads read 16 bytes at a time, each for its own chunk
// of a 128-byte row: [row][part of the chunk][chunk][4], so that the eight meet 32 different banks.
template <class Math>
LIGHTOPS_DEVICE int table_place(int c) {
  constexpr int kElements = kChunkElements<Math>, kRow = kRowElements<Math>;
  const int in_row = c % kRow, in_chunk = in_row % kElements;
  return c - in_row + in_chunk / 4 * (kRowChunks * 4) + in_row / kElements * 4 + in_chunk % 4;
}

// The scale and shift of one thread's chunk of channels, in registers: they serve every row of a stage.
template <class Math>
struct Affine {
  static constexpr int kElements = kChunkElements<Math>;
  float scale[kElements], shift[kElements];

  // `pairs` lie in shared memory: scale, then shift, `channels` floats each, in the order of table_place.
  LIGHTOPS_DEVICE Affine(const float* pairs, int channels, int channel) {
#pragma unroll
    for (int i = 0; i < kElements; i += 4) {
      const int at = table_place<Math>(channel + i);
      const Vec16 a = load_shared<Vec16>(pairs + at), b = load_shared<Vec16>(pairs + channels + at);
#pragma unroll
      for (int j = 0; j < 4; ++j) scale[i + j] = bits_to_float(a.w[j]), shift[i + j] = bits_to_float(b.w[j]);
    }
  }
  LIGHTOPS_DEVICE void apply(float (&v)[kElements]) const {
#pragma unroll
    for (int i = 0; i < kElements; ++i) v[i] = v[i] * scale[i] + shift[i];
  }
};

// What every thread looks up instead of dividing: the tables at the start of a block's shared memory.
struct Tables {
  int* pixel;   // of every output row: y * width + x, -1 past the tile or the map
  float* bias;  // of every column of the block
  int* tap;     // of every tap: how much further it reads, as a place

  LIGHTOPS_DEVICE Tables(unsigned char* shared, int m, int n)
      : pixel(reinterpret_cast<int*>(shared)),
        bias(reinterpret_cast<float*>(pixel + m)),
        tap(reinterpret_cast<int*>(bias + n)) {}

  LIGHTOPS_DEVICE void fill_pixels(const Tile& t, TilePlace place, int height, int width, int m, int threads) const {
    for (int r = thread_index(); r < m; r += threads) {
      const int row = divided(r, t.by_tile_w), y = place.y + row, x = place.x + r - row * t.tile_w;
      const bool on = r < t.tile_h * t.tile_w && y >= 0 && y < height && x >= 0 && x < width;
      store_shared(pixel + r, on ? y * width + x : -1);
    }
  }
  LIGHTOPS_DEVICE void fill_taps(const Tile& t, const Geometry& g, int threads) const {
    for (int i = thread_index(); i < g.kernel_h * g.kernel_w; i += threads) store_shared(tap + i, tap_place(t, g, i));
  }
  LIGHTOPS_DEVICE void fill_bias(const float* from, int column, int columns, int n, int threads) const {
    for (int i = thread_index(); i < n; i += threads)
      store_shared(bias + i, from ? load_global(from + column + i, column + i < columns) : 0.f);
  }
};

// Copies scale and shift (null: 1 and 0) of the channels from `first` to before `end` into shared memory, zeros past the last channel of
// the rows. The caller's next barrier publishes them.
template <class Math>
LIGHTOPS_DEVICE void stage_scale_shift(float* pairs, const float* scale, const float* shift, int channels, int padded,
                                       int threads, int first, int end) {
  for (int c = first + thread_index(); c < end; c += threads) {
    store_shared(pairs + table_place<Math>(c), scale ? load_global(scale + c, c < channels) : 1.f);
    store_shared(pairs + padded + table_place<Math>(c), scale ? load_global(shift + c, c < channels) : 0.f);
  }
}
template <class Math>
LIGHTOPS_DEVICE void stage_scale_shift(float* pairs, const float* scale, const float* shift, int channels, int padded,
                                       int threads) {
  stage_scale_shift<Math>(pairs, scale, shift, channels, padded, threads, 0, padded);
}
// Of the chunks that a part of a reduction multiplies: of DenseNet-121's 992 channels one round of a block's threads instead of eight,
// each of which would wait for memory before anything is multiplied.
template <class Math, int kThreads>
LIGHTOPS_DEVICE void stage_scale_shift(float* pairs, const ConvArgs& a, int first_chunk, int end_chunk) {
  constexpr int kRow = kRowElements<Math>;
  stage_scale_shift<Math>(pairs, a.scale, a.shift, a.x.channels, a.chunks * kRow, kThreads, first_chunk * kRow,
                          end_chunk * kRow);
}

}  // namespace lightops::cuda
