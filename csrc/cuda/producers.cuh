// What fills the resident tile of a fused pair (resident.cuh). kRowsArePixels: the tile's rows are the block's output pixels;
// otherwise they are the halo pixels of the second convolution.
#pragma once

#include "resident.cuh"

namespace lightops::cuda {

// Depthwise convolution into the tile: rows are the block's output pixels. A stage holds one chunk of the halo and, as further
// rows, the chunk of every tap's weights; two stages, so that a chunk's loads run under the chunk before.
// Thread t computes 16 bytes of channels (t % 4) of the pixels t / 4, t / 4 + threads / 4, ...: the weights stay in registers.
template <class Block, int kHaloRows>
struct DepthwiseProducer {
  using Math = typename Block::Math;
  static constexpr bool kRowsArePixels = true;
  static constexpr int kElements = kChunkElements<Math>;
  using Loader = SpatialLoader<Math, Block::kThreads, kHaloRows>;

  static LIGHTOPS_DEVICE void issue(const ConvArgs& f, Loader& loader, int chunk, int taps, unsigned char* stage) {
    if (chunk < f.chunks) {
      loader.issue(chunk, stage);
      const int quarter = thread_index() % kRowChunks, c = loader.channel(chunk);
      const auto* weight = reinterpret_cast<const typename Math::Store*>(f.weight);
      for (int tap = thread_index() / kRowChunks; tap < taps; tap += Block::kThreads / kRowChunks) {
        const bool on = c < f.row_elements;
        cp_async16(stage + tile_offset(f.tile.slots + tap, quarter), weight + (on ? tap * f.row_elements + c : 0), on);
      }
    }
    cp_async_commit();
  }

  // kTaps = 9 keeps the weights of a chunk in registers; 0 reads them for every pixel, for any other window.
  template <int kTaps>
  static LIGHTOPS_DEVICE void convolve(const ConvArgs& f, const unsigned char* stage, int taps, int channel, unsigned char* out) {
    const int quarter = thread_index() % kRowChunks;
    const Activation act(f.act);
    Vec16 weight[kTaps ? kTaps : 1];
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) weight[tap] = load_shared<Vec16>(stage + tile_offset(f.tile.slots + tap, quarter));
    float bias[kElements];
#pragma unroll
    for (int e = 0; e < kElements; ++e)
      bias[e] = f.bias ? load_global(f.bias + channel + e, channel + e < f.x.channels) : 0.f;
#pragma unroll 1
    for (int r = thread_index() / kRowChunks; r < Block::kM; r += Block::kThreads / kRowChunks) {
      const int first = halo_slot(f.tile, f.geometry, r);
      float sum[kElements];
#pragma unroll
      for (int e = 0; e < kElements; ++e) sum[e] = bias[e];
      const auto add = [&](int tap, const Vec16& packed) {
        float x[kElements], w[kElements];
        unpack<Math>(load_shared<Vec16>(stage + tile_offset(first + tap_slot(f.tile, f.geometry, tap), quarter)), x);
        unpack<Math>(packed, w);
#pragma unroll
        for (int e = 0; e < kElements; ++e) sum[e] += x[e] * w[e];
      };
      if constexpr (kTaps > 0) {
#pragma unroll
        for (int tap = 0; tap < kTaps; ++tap) add(tap, weight[tap]);
      } else {
        for (int tap = 0; tap < taps; ++tap)
          add(tap, load_shared<Vec16>(stage + tile_offset(f.tile.slots + tap, quarter)));
      }
#pragma unroll
      for (int e = 0; e < kElements; ++e) sum[e] = act(sum[e]);
      store_shared(out + tile_offset(r, quarter), pack<Math>(sum));
    }
  }

  static LIGHTOPS_DEVICE void fill(const ResidentArgs& a, TilePlace place, unsigned char* resident, unsigned char* scratch) {
    const ConvArgs& f = a.first;
    const int taps = f.geometry.kernel_h * f.geometry.kernel_w;
    const int stage_bytes = (f.tile.slots + taps) * kRowBytes;
    Loader loader(f, place, nullptr);
    issue(f, loader, 0, taps, scratch);
    for (int chunk = 0; chunk < f.chunks; ++chunk) {
      cp_async_wait<0>();
      sync_threads();
      issue(f, loader, chunk + 1, taps, scratch + (chunk + 1) % 2 * stage_bytes);
      unsigned char* const out = resident + chunk * Block::kM * kRowBytes;
      const unsigned char* const stage = scratch + chunk % 2 * stage_bytes;
      if (taps == 9)
        convolve<9>(f, stage, taps, loader.channel(chunk), out);
      else
        convolve<0>(f, stage, taps, loader.channel(chunk), out);
    }
  }
};

// A 1x1 convolution (with the prologue of the loader) into the tile: rows are the halo pixels of the second convolution. Rows
// outside the image are zero: that is the second convolution's padding.
template <class Block, class First>
struct SqueezeProducer {
  using Math = typename Block::Math;
  static constexpr bool kRowsArePixels = false;
  using Loader = PointwiseLoader<Math, First::kThreads, rows_a_thread(First::kM, First::kThreads)>;
  static_assert(First::kThreads == Block::kThreads, "both products use the same warps");

  static LIGHTOPS_DEVICE void fill(const ResidentArgs& a, TilePlace place, unsigned char* resident, unsigned char* scratch) {
    const ConvArgs& f = a.first;
    const TilePlace halo{place.image, place.y - a.geometry.pad_h, place.x - a.geometry.pad_w};
    Loader loader(f, halo, scratch + pipeline_bytes(First::size(), f.tile.slots, 1));
    const Activation act(f.act);
#pragma unroll 1
    for (int column = 0; column < f.out.channels; column += First::kN) {
      typename First::Warp sums;
      accumulate<First>(f, loader, scratch, column, 0, f.chunks, sums);
      sums.each_pair([&](int row, int n, float first, float second) {
        const int r = First::warp_row() + row, c = column + First::warp_column() + n;
        if (r >= f.tile.slots || c >= a.chunks * kRowElements<Math>) return;
        const int y = halo.y + r / f.tile.tile_w, x = halo.x + r % f.tile.tile_w;
        const bool inside = y >= 0 && y < f.x.height && x >= 0 && x < f.x.width;
        if (f.bias) {
          first += load_global(f.bias + c, c < f.out.channels);
          second += load_global(f.bias + c + 1, c + 1 < f.out.channels);
        }
        const int in_row = c % kRowElements<Math> * static_cast<int>(sizeof(typename Math::Store));
        unsigned char* const at = resident + (c / kRowElements<Math> * f.tile.slots) * kRowBytes +
                                  tile_offset(r, in_row / kChunkBytes) + in_row % kChunkBytes;
        stage_pair<Math>(at, inside ? act(first) : 0.f, inside ? act(second) : 0.f);
      });
    }
  }
};

// The input itself, all channels, with the loader's prologue: a pointwise convolution with more output channels than one
// column tile then reads its input once.
template <class Block>
struct ChannelProducer {
  using Math = typename Block::Math;
  static constexpr bool kRowsArePixels = true;
  using Loader = PointwiseLoader<Math, Block::kThreads, rows_a_thread(Block::kM, Block::kThreads)>;

  static LIGHTOPS_DEVICE void fill(const ResidentArgs& a, TilePlace place, unsigned char* resident, unsigned char* scratch) {
    Loader loader(a.first, place, scratch);
    for (int chunk = 0; chunk < a.chunks; ++chunk) loader.issue(chunk, resident + chunk * Block::kM * kRowBytes);
    cp_async_commit();
    cp_async_wait<0>();
    for (int chunk = 0; chunk < a.chunks; ++chunk) loader.finish(chunk, resident + chunk * Block::kM * kRowBytes);
  }
};

// The transition's input: batch norm, activation, 2x2 average, all channels.
template <class Block>
struct PooledProducer {
  using Math = typename Block::Math;
  static constexpr bool kRowsArePixels = true;
  using Loader = PooledLoader<Math, Block::kThreads, rows_a_thread(Block::kM, Block::kThreads)>;

  static LIGHTOPS_DEVICE void fill(const ResidentArgs& a, TilePlace place, unsigned char* resident, unsigned char* scratch) {
    Loader loader(a.first, place, scratch);
    for (int chunk = 0; chunk < a.chunks; ++chunk) loader.issue(chunk, resident + chunk * Block::kM * kRowBytes);
  }
};

}  // namespace lightops::cuda
