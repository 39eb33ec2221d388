// Epilogues: accumulators + bias, activation, then out through a staged tile so that global stores are whole 16-byte chunks,
// neighbouring threads writing neighbouring chunks of a pixel's channel slice.
#pragma once

#include "addressing.cuh"

namespace lightops::cuda {

template <class Math, int kColumns>
constexpr int kStagedPitch = staged_pitch(kColumns, static_cast<int>(sizeof(typename Math::Store)));

struct alignas(8) FloatPair {
  float first, second;
};

template <class Math>
LIGHTOPS_DEVICE void stage_pair(unsigned char* at, float first, float second) {
  if constexpr (sizeof(typename Math::Store) == 4) {
    store_shared(at, FloatPair{first, second});
  } else {
    store_shared(at, static_cast<uint32_t>(Math::store(first)) | static_cast<uint32_t>(Math::store(second)) << 16);
  }
}

// Accumulators of a warp into the staged tile; `warp_row`, `warp_column` place the warp in the block's tile, `column` is the
// first output channel of the block.
template <class Math, int kColumns, class Warp>
LIGHTOPS_DEVICE void stage_tile(unsigned char* staged, const Warp& warp, int warp_row, int warp_column, const float* bias,
                                int column, int columns, Activation act) {
  warp.each_pair([&](int row, int n, float first, float second) {
    const int at = column + warp_column + n;
    if (bias) {
      first += load_global(bias + at, at < columns);
      second += load_global(bias + at + 1, at + 1 < columns);
    }
    stage_pair<Math>(staged + (warp_row + row) * kStagedPitch<Math, kColumns> +
                         (warp_column + n) * static_cast<int>(sizeof(typename Math::Store)),
                     act(first), act(second));
  });
}

// Staged tile to the output slice, residual added.
template <class Math, int kRows, int kColumns, int kThreads>
LIGHTOPS_DEVICE void store_tile(const unsigned char* staged, const View& out, const View& residual, const Tile& t, TilePlace place,
                                int column) {
  constexpr int kElements = kChunkElements<Math>, kChunks = kColumns / kElements;
  static_assert(kRows * kChunks % kThreads == 0, "every thread stores the same number of chunks");
#pragma unroll 4
  for (int i = 0; i < kRows * kChunks / kThreads; ++i) {
    const int index = thread_index() + i * kThreads, r = index / kChunks, n = index % kChunks * kElements;
    const int y = place.y + r / t.tile_w, x = place.x + r % t.tile_w;
    const bool on = r < t.tile_h * t.tile_w && y < out.height && x < out.width;
    const int64_t pixel = on ? static_cast<int64_t>(y) * out.width + x : 0;
    float v[kElements];
    unpack<Math>(load_shared<Vec16>(staged + r * kStagedPitch<Math, kColumns> + n * static_cast<int>(sizeof(typename Math::Store))), v);
    if (residual.data) {
      float other[kElements];
      unpack<Math>(load_chunk<Math>(residual, pixel_offset(residual, place.image, pixel), column + n, on), other);
#pragma unroll
      for (int e = 0; e < kElements; ++e) v[e] += other[e];
    }
    store_chunk<Math>(out, pixel_offset(out, place.image, pixel), column + n, v, on);
  }
}

// Stem: max over pool windows of the staged convolution tile. Windows may hang over the convolution's edge: what lies outside does
// not count. Max keeps a NaN, as stock max-pooling does.
template <class Math, int kColumns, int kThreads>
LIGHTOPS_DEVICE void store_pooled_tile(const unsigned char* staged, const ConvArgs& a, TilePlace conv, int pool_y, int pool_x, int column) {
  constexpr int kElements = kChunkElements<Math>, kChunks = kColumns / kElements;
  for (int index = thread_index(); index < a.pooled_h * a.pooled_w * kChunks; index += kThreads) {
    const int r = index / kChunks, n = index % kChunks * kElements;
    const int py = pool_y + r / a.pooled_w, px = pool_x + r % a.pooled_w;
    const bool on = py < a.out.height && px < a.out.width;
    float best[kElements];
#pragma unroll
    for (int e = 0; e < kElements; ++e) best[e] = bits_to_float(0xff800000u);
    for (int tap = 0; tap < a.pool.kernel_h * a.pool.kernel_w; ++tap) {
      const int y = py * a.pool.stride_h - a.pool.pad_h + tap / a.pool.kernel_w;
      const int x = px * a.pool.stride_w - a.pool.pad_w + tap % a.pool.kernel_w;
      if (y < 0 || y >= a.conv_height || x < 0 || x >= a.conv_width || !on) continue;
      const int row = (y - conv.y) * a.tile.tile_w + x - conv.x;
      float v[kElements];
      unpack<Math>(load_shared<Vec16>(staged + row * kStagedPitch<Math, kColumns> + n * static_cast<int>(sizeof(typename Math::Store))), v);
#pragma unroll
      for (int e = 0; e < kElements; ++e) best[e] = v[e] > best[e] || v[e] != v[e] ? v[e] : best[e];
    }
    const int64_t pixel = on ? static_cast<int64_t>(py) * a.out.width + px : 0;
    store_chunk<Math>(a.out, pixel_offset(a.out, conv.image, pixel), column + n, best, on);
  }
}

// Split reduction: raw sums in fp32, [split][output pixel][channel]; a second kernel adds the splits in order.
template <class Warp>
LIGHTOPS_DEVICE void store_partial(const Warp& warp, const ConvArgs& a, TilePlace place, int split, int warp_row, int warp_column,
                                   int column) {
  const Tile& t = a.tile;
  warp.each_pair([&](int row, int n, float first, float second) {
    const int r = warp_row + row, c = column + warp_column + n;
    const int y = place.y + r / t.tile_w, x = place.x + r % t.tile_w;
    const bool on = r < t.tile_h * t.tile_w && y < a.out.height && x < a.out.width;
    const int64_t image = static_cast<int64_t>(split) * a.images + place.image;
    const int64_t pixel = (image * a.out.height + (on ? y : 0)) * a.out.width + (on ? x : 0);
    float* at = a.partial + pixel * a.out.channels + c;
    if (a.out.channels % 2 == 0) {
      store_global(reinterpret_cast<FloatPair*>(at), FloatPair{first, second}, on && c < a.out.channels);
    } else {
      store_global(at, first, on && c < a.out.channels);
      store_global(at + 1, second, on && c + 1 < a.out.channels);
    }
  });
}

}  // namespace lightops::cuda
