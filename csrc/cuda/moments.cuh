// Batch statistics as part of an epilogue: while a block stores its tile, each thread takes the sums of its chunk of channels over its
// rows, as distances from the tile's first pixel (so that no large sums are subtracted); then one thread a column adds the threads' sums.
#pragma once

#include "addressing.cuh"

namespace lightops::cuda {

template <class Math, int kColumns, int kThreads>
struct TileMoments {
  static constexpr int kElements = kChunkElements<Math>, kChunks = kColumns / kElements, kLanes = kThreads / kChunks;
  // [element][thread], with a pitch at which the readers (neighbouring columns) meet different banks too.
  static constexpr int kPitch = kThreads + 32 / kElements;
  static constexpr int kBytes = (2 * kElements * kPitch + kLanes) * 4;  // of the staged tile that finish() overwrites
  float pivot[kElements], sum[kElements], square[kElements];
  float count = 0.f;

  // `staged` is the tile's first row.
  explicit LIGHTOPS_DEVICE TileMoments(const unsigned char* staged) {
    unpack<Math>(load_shared<Vec16>(staged + thread_index() % kChunks * kChunkBytes), pivot);
#pragma unroll
    for (int e = 0; e < kElements; ++e) sum[e] = square[e] = 0.f;
  }

  LIGHTOPS_DEVICE void add(const Vec16& raw) {
    float v[kElements];
    unpack<Math>(raw, v);
    count += 1.f;
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      const float off = v[e] - pivot[e];
      sum[e] += off;
      square[e] += off * off;
    }
  }

  // Mean and sum of squared deviations of the tile to moments[part][2][channels]. The staged tile is overwritten.
  LIGHTOPS_DEVICE void finish(unsigned char* staged, const ConvArgs& a, int part, int column) const {
    using Store = typename Math::Store;
    const int n = thread_index(), c = column + n;
    const float first =
        n < kColumns ? Math::load(load_shared<Store>(staged + n * static_cast<int>(sizeof(Store)))) : 0.f;
    auto* const sums = reinterpret_cast<float*>(staged);
    float* const counts = sums + 2 * kElements * kPitch;
    sync_threads();  // every thread has stored its rows
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      store_shared(sums + e * kPitch + n, sum[e]);
      store_shared(sums + (kElements + e) * kPitch + n, square[e]);
    }
    if (n % kChunks == 0) store_shared(counts + n / kChunks, count);
    sync_threads();
    if (n >= kColumns) return;
    const float* const mine = sums + n % kElements * kPitch + n / kElements;
    float total = 0.f, squares = 0.f, pixels = 0.f;
#pragma unroll 4
    for (int lane = 0; lane < kLanes; ++lane) {
      total += load_shared<float>(mine + lane * kChunks);
      squares += load_shared<float>(mine + kElements * kPitch + lane * kChunks);
      pixels += load_shared<float>(counts + lane);
    }
    const float off = total / pixels, deviation = squares - total * off;
    const bool on = c < a.out.channels;
    float* const out = a.moments + static_cast<int64_t>(part) * 2 * a.out.channels + (on ? c : 0);
    store_global(out, first + off, on);
    store_global(out + a.out.channels, deviation < 0.f ? 0.f : deviation, on);
    store_global(a.counts + part, pixels, c == 0);
  }
};

}  // namespace lightops::cuda
