// Epilogues: accumulators + bias, activation, then out through a staged tile so that global stores are whole 16-byte chunks,
// neighbouring threads writing neighbouring chunks of a pixel's channel slice.
#pragma once

#include <type_traits>

#include "places.cuh"

namespace lightops::cuda {

template <class Math, int kColumns>
constexpr int kStagedPitch = staged_pitch(kColumns, static_cast<int>(sizeof(typename Math::Store)));

struct alignas(8) FloatPair { float first, second; };

// Accumulators of a warp into the staged tile; `warp_row`, `warp_column` place the warp in the block's tile, `bias` is the table of
// the block's columns.
template <class Math, int kColumns, bool kSmooth, class Warp>
LIGHTOPS_DEVICE void stage_tile_as(unsigned char* staged, const Warp& warp, int warp_row, int warp_column,
                                   const float* bias, const Activation<Math>& act) {
  warp.each_column([&](int n, const auto& each_row) {
    const Vec8 pair = load_shared<Vec8>(bias + warp_column + n);
    unsigned char* const column = staged + (warp_column + n) * static_cast<int>(sizeof(typename Math::Store));
    each_row([&](int row, float first, float second) {
      float v[2] = {first + bits_to_float(pair.w[0]), second + bits_to_float(pair.w[1])};
      typename PairOf<Math>::Type raw;
      act.template pack_as<kSmooth>(v, raw);
      store_shared(column + (warp_row + row) * kStagedPitch<Math, kColumns>, raw);
    });
  });
}
template <class Math, int kColumns, class Warp>
LIGHTOPS_DEVICE void stage_tile(unsigned char* staged, const Warp& warp, int warp_row, int warp_column,
                                const float* bias, const Activation<Math>& act) {
  if (act.smooth) stage_tile_as<Math, kColumns, true>(staged, warp, warp_row, warp_column, bias, act);
  else stage_tile_as<Math, kColumns, false>(staged, warp, warp_row, warp_column, bias, act);
}

// Staged tile to the output slice, residual added. stored(chunk) is called for each chunk of a pixel that is there.
template <class Math, int kRows, int kColumns, int kThreads, class Stored>
LIGHTOPS_DEVICE void store_tile(const unsigned char* staged, const View& out, const View& residual, const int* pixels,
                                int image, int column, const Stored& stored) {
  constexpr int kElements = kChunkElements<Math>, kChunks = kColumns / kElements;
  static_assert(kRows * kChunks % kThreads == 0, "every thread stores the same number of chunks");
  const int n = thread_index() % kChunks * kElements, first = thread_index() / kChunks;
  const bool some = column + n < out.channels;
  const unsigned char* from =
      staged + first * kStagedPitch<Math, kColumns> + n * static_cast<int>(sizeof(typename Math::Store));
  constexpr int kStep = kThreads / kChunks;
  if (out.vector && !residual.data) {
    auto* const to = element_out<Math>(out, image * out.image + (some ? column + n : 0));
#pragma unroll 4
    for (int r = 0; r < kRows; r += kStep) {
      const int pixel = load_shared<int>(pixels + first + r);
      const bool on = some && pixel >= 0;
      const Vec16 raw = load_shared<Vec16>(from + r * kStagedPitch<Math, kColumns>);
      store_global16(to + (on ? pixel * out.pixel : 0), raw, on);
      if (on) stored(raw);
    }
    return;
  }
#pragma unroll 1
  for (int r = 0; r < kRows; r += kStep) {
    const int pixel = load_shared<int>(pixels + first + r);
    const bool on = some && pixel >= 0;
    Vec16 raw = load_shared<Vec16>(from + r * kStagedPitch<Math, kColumns>);
    if (residual.data) {
      float v[kElements], other[kElements];
      unpack<Math>(raw, v);
      unpack<Math>(load_chunk<Math>(residual, pixel_offset(residual, image, on ? pixel : 0), column + n, on), other);
#pragma unroll
      for (int e = 0; e < kElements; ++e) v[e] += other[e];
      raw = pack<Math>(v);
    }
    store_chunk<Math>(out, pixel_offset(out, image, on ? pixel : 0), column + n, raw, on);
    if (on) stored(raw);
  }
}
template <class Math, int kRows, int kColumns, int kThreads>
LIGHTOPS_DEVICE void store_tile(const unsigned char* staged, const View& out, const View& residual, const int* pixels,
                                int image, int column) {
  store_tile<Math, kRows, kColumns, kThreads>(staged, out, residual, pixels, image, column, [](const Vec16&) {});
}

// The maximum over a pool window in words of values, or with its place.
template <class Math>
struct WordMaximum {
  Vec16 best;
  bool any = false;
  LIGHTOPS_DEVICE void take(const Vec16& v, int) {
#pragma unroll
    for (int i = 0; i < 4; ++i) best.w[i] = any ? Math::max_word(best.w[i], v.w[i]) : v.w[i];
    any = true;
  }
  LIGHTOPS_DEVICE Vec16 value() const { return best; }
};
template <class Math>
struct PlacedMaximum {
  FirstMaximum<Math> first;
  bool any = false;
  LIGHTOPS_DEVICE void take(const Vec16& raw, int at) {
    float v[kChunkElements<Math>];
    unpack<Math>(raw, v);
#pragma unroll
    for (int e = 0; e < kChunkElements<Math>; ++e) first.take(e, v[e], at);
    any = true;
  }
  LIGHTOPS_DEVICE Vec16 value() const { return pack<Math>(first.best); }
};

// Stem: max over pool windows of the staged convolution tile. Windows may hang over the convolution's edge: what lies outside does
// not count. Max keeps a NaN, as stock max-pooling does. kPlaces: the place of each maximum goes beside the outputs.
template <class Math, int kColumns, int kThreads, bool kPlaces>
LIGHTOPS_DEVICE void store_pooled_tile(const unsigned char* staged, const ConvArgs& a, TilePlace conv, int pool_y,
                                       int pool_x, int column) {
  constexpr int kElements = kChunkElements<Math>, kChunks = kColumns / kElements;
  const Geometry& g = a.pool;
  for (int index = thread_index(); index < a.pooled_h * a.pooled_w * kChunks; index += kThreads) {
    const int r = index / kChunks, n = index % kChunks * kElements;
    const int row = divided(r, a.by_pooled_w), py = pool_y + row, px = pool_x + r - row * a.pooled_w;
    const bool on = py < a.out.height && px < a.out.width;
    const int y0 = py * g.stride_h - g.pad_h, x0 = px * g.stride_w - g.pad_w;
    const unsigned char* const first = staged +
                                       ((y0 - conv.y) * a.tile.tile_w + x0 - conv.x) * kStagedPitch<Math, kColumns> +
                                       n * static_cast<int>(sizeof(typename Math::Store));
    const bool inside = y0 >= 0 && y0 + g.kernel_h <= a.conv_height && x0 >= 0 && x0 + g.kernel_w <= a.conv_width;
    std::conditional_t<kPlaces, PlacedMaximum<Math>, WordMaximum<Math>> most;
    for (int ky = 0; ky < g.kernel_h; ++ky)
      for (int kx = 0; kx < g.kernel_w; ++kx) {
        if (!on || (!inside && (y0 + ky < 0 || y0 + ky >= a.conv_height || x0 + kx < 0 || x0 + kx >= a.conv_width)))
          continue;
        most.take(load_shared<Vec16>(first + (ky * a.tile.tile_w + kx) * kStagedPitch<Math, kColumns>),
                  ky * g.kernel_w + kx);
      }
    const int64_t pixel = on ? static_cast<int64_t>(py) * a.out.width + px : 0;
    store_chunk<Math>(a.out, pixel_offset(a.out, conv.image, pixel), column + n, most.value(), most.any);
    if constexpr (kPlaces) {
      const int64_t pixels = static_cast<int64_t>(a.out.height) * a.out.width;
      if (most.any)
        store_places<Math>(a.places, conv.image * pixels + pixel, column + n, a.out.channels, most.first.places());
    }
  }
}

// A split reduction: the block leaves its sums in memory; the last of the splits to do so adds them all, in the order of the splits
// whichever it is, and goes on with the total. False: another one will. A second kernel would cost a launch more. `slot` is an int of
// shared memory that nobody reads any more.
template <class Block, class Warp>
LIGHTOPS_DEVICE bool join_splits(Warp& warp, const ConvArgs& a, int block, int blocks, int split, int* slot) {
  constexpr int kPieces = Warp::kTilesM * Warp::kTilesN;
  const auto piece = [&](int of, int i) {
    return a.partial +
           (((static_cast<int64_t>(of) * blocks + block) * kPieces + i) * Block::kThreads + thread_index()) * 4;
  };
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    Vec16 raw;
#pragma unroll
    for (int e = 0; e < 4; ++e) raw.w[e] = float_to_bits(warp.sum[i / Warp::kTilesN][i % Warp::kTilesN][e]);
    store_global16(piece(split, i), raw);
  }
  sync_threads();
  if (thread_index() == 0) store_shared(slot, arrive(a.arrivals + block));
  sync_threads();
  if (load_shared<int>(slot) != a.splits - 1) return false;
  warp.clear();
#pragma unroll 1
  for (int of = 0; of < a.splits; ++of)
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const Vec16 raw = load_arrived16(piece(of, i));
#pragma unroll
      for (int e = 0; e < 4; ++e) warp.sum[i / Warp::kTilesN][i % Warp::kTilesN][e] += bits_to_float(raw.w[e]);
    }
  if (thread_index() == 0) store_global(a.arrivals + block, 0);
  return true;
}

}  // namespace lightops::cuda
