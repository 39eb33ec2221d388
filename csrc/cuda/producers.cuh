// What fills the resident tile of a fused pair (resident.cuh). kRowsArePixels: the tile's rows are the block's output pixels;
// otherwise they are the halo pixels of the second convolution.
#pragma once

#include "resident.cuh"

namespace lightops::cuda {

// Depthwise convolution into the tile: rows are the block's output pixels. A stage holds one chunk of the halo and, as further
// rows, the chunk of every tap's weights; two to four stages, as many as fit: a chunk is computed faster than it is fetched.
//
// 16-bit types multiply on the tensor cores: for 8 channels, k = (tap, channel) over two taps is the depth of one instruction, and B
// holds the two taps' weights on its diagonals. Nine taps are 5 instructions for 16 pixels x 8 channels; 15/16 of the products are with
// zeros, and still it takes a fifth of the instructions that fp32 multiply-adds take with the conversions around them (H100, 56x56x128:
// 84 instructions an output before, most of them these). Sums are exact fp32 as before. Zero times NaN or infinity is NaN, so a tile
// in which a sum is not finite is computed again, tap by tap.
template <class Block, int kHaloRows>
struct DepthwiseProducer {
  using Math = typename Block::Math;
  using Store = typename Math::Store;
  static constexpr bool kRowsArePixels = true;
  static constexpr int kBlocks = Block::kBlocks;
  static constexpr int kElements = kChunkElements<Math>;
  using Loader = SpatialLoader<Math, Block::kThreads, kHaloRows>;

  static LIGHTOPS_DEVICE void issue(const ConvArgs& f, Loader& loader, int chunk, int last, int taps,
                                    unsigned char* stage) {
    if (chunk < last) {
      loader.issue(chunk, stage);
      const int quarter = thread_index() % kRowChunks, c = loader.channel(chunk);
      const auto* weight = reinterpret_cast<const Store*>(f.weight);
      for (int tap = thread_index() / kRowChunks; tap < taps; tap += Block::kThreads / kRowChunks) {
        const bool on = c < f.row_elements;
        cp_async16(stage + tile_offset(f.tile.slots + tap, quarter), weight + (on ? tap * f.row_elements + c : 0), on);
      }
    }
    cp_async_commit();
  }

  // Channels `pair` and pair + 1 of a 16-byte chunk of a row.
  static LIGHTOPS_DEVICE void read_pair(const unsigned char* stage, int place, int chunk, int pair, float (&v)[2]) {
    typename PairOf<Math>::Type raw = load_shared<typename PairOf<Math>::Type>(stage + place_offset(place, chunk) +
                                                                               pair * static_cast<int>(sizeof(Store)));
    unpack<Math>(raw, v);
  }
  static LIGHTOPS_DEVICE void write_pair(unsigned char* out, int row, int chunk, int pair, float (&v)[2],
                                         const Activation<Math>& act) {
    typename PairOf<Math>::Type raw;
    act.pack(v, raw);
    store_shared(out + tile_offset(row, chunk) + pair * static_cast<int>(sizeof(Store)), raw);
  }
  static LIGHTOPS_DEVICE void bias_pair(const ConvArgs& f, int channel, float (&v)[2]) {
#pragma unroll
    for (int e = 0; e < 2; ++e) v[e] = f.bias ? load_global(f.bias + channel + e, channel + e < f.x.channels) : 0.f;
  }

  // One output pixel, two channels, tap by tap.
  static LIGHTOPS_DEVICE void sum_pair(const ConvArgs& f, const unsigned char* stage, int taps, const int* shifts,
                                       int place, int chunk, int pair, float (&v)[2]) {
#pragma unroll 1
    for (int tap = 0; tap < taps; ++tap) {
      float x[2], w[2];
      read_pair(stage, place + load_shared<int>(shifts + tap), chunk, pair, x);
      read_pair(stage, row_place(f.tile.slots + tap), chunk, pair, w);
      v[0] += x[0] * w[0];
      v[1] += x[1] * w[1];
    }
  }

  // Any window and type: a thread takes a pair of channels of a pixel.
  static LIGHTOPS_DEVICE void convolve(const ConvArgs& f, const unsigned char* stage, int taps, const int* shifts,
                                       int first_channel, unsigned char* out) {
    constexpr int kPairs = kRowBytes / static_cast<int>(sizeof(Store)) / 2;
    const Activation<Math> act(f.act);
    const int pair = thread_index() % kPairs * 2, chunk = pair / kElements, in_chunk = pair % kElements;
    float bias[2];
    bias_pair(f, first_channel + pair, bias);
    for (int r = thread_index() / kPairs; r < Block::kM; r += Block::kThreads / kPairs) {
      float v[2] = {bias[0], bias[1]};
      sum_pair(f, stage, taps, shifts, halo_place(f.tile, f.geometry, r), chunk, in_chunk, v);
      write_pair(out, r, chunk, in_chunk, v, act);
    }
  }

  // Which of the tile's channels and pixels a warp convolves on the tensor cores: kWide neighbouring 16-byte chunks of channels, whose
  // addresses differ by one bit, of the pixels 16 at a time. Chunks past the last channel are not shared out.
  template <int kWide>
  struct Share {
    static_assert(kWide <= 2, "its binary logarithm is taken to be one less");
    int chunk, row, step;  // first chunk and pixel; to the next pixels
    LIGHTOPS_DEVICE Share(const ConvArgs& f, int first_channel) {
      constexpr int kWarps = Block::kThreads / 32;
      const int warp = thread_index() / 32, left = f.x.channels - first_channel;
      // 8, 4 or 2 chunks: a step of the product reads two.
      const int shift = (left > 4 * kElements ? 3 : left > 2 * kElements ? 2 : 1) - (kWide - 1);
      chunk = (warp & ((1 << shift) - 1)) * kWide;
      row = (warp >> shift) * 16;
      step = (kWarps >> shift) * 16;
    }
  };
  // Of the two channels a lane ends up with, in each of its chunks.
  template <int kWide>
  static LIGHTOPS_DEVICE void bias_of(const ConvArgs& f, int first_channel, float (&bias)[kWide][2]) {
    const Share<kWide> share(f, first_channel);
#pragma unroll
    for (int w = 0; w < kWide; ++w)
      bias_pair(f, first_channel + (share.chunk + w) * kElements + thread_index() % 4 * 2, bias[w]);
  }

  template <int kTaps, int kWide>
  static LIGHTOPS_DEVICE void convolve_diagonal(const ConvArgs& f, const unsigned char* stage, const Tables& tables,
                                                int first_channel, const float (&bias)[kWide][2], unsigned char* out) {
    constexpr int kPairs = (kTaps + 1) / 2;
    Activation<Math> act(f.act);
    act.low = keep(act.low), act.high = keep(act.high);
    const int lane = thread_index() % 32, column = lane / 4, pair = lane % 4 * 2;
    const Share<kWide> share(f, first_channel);
    // B[k][n] of a lane: n = lane / 4, k = 2 (lane % 4) + {0, 1} and 8 more: on the diagonal where n is one of the two.
    uint32_t weight[kWide][kPairs][2];
    int shift[kPairs];
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int tap = 2 * p + half;
#pragma unroll
        for (int w = 0; w < kWide; ++w) {
          weight[w][p][half] = 0;
          if (tap < kTaps && column / 2 == lane % 4)
            weight[w][p][half] = static_cast<uint32_t>(load_shared<Store>(
                                     stage + tile_offset(f.tile.slots + tap, share.chunk + w) + column * 2))
                                 << (column % 2 * 16);
        }
      }
      const int mine = 2 * p + lane / 16;
      shift[p] = load_shared<int>(tables.tap + (mine < kTaps ? mine : kTaps - 1));
    }
    unsigned char* const base = shared_memory();
    // Stages are whole rows, so that a place takes their beginning as it takes a shift.
#pragma unroll
    for (int p = 0; p < kPairs; ++p) shift[p] += static_cast<int>(stage - base);
    // Sixteen rows further on a row has the same swizzle: addresses are these and a multiple of the rows' length.
    const int to = static_cast<int>(out - base) + tile_offset(column, share.chunk) + pair * 2;
    const int* const places = tables.pixel + lane % 16;
    // Kept, or the compiler shifts behind the exclusive or, at every tap.
    const int chunk_bits = static_cast<int>(keep(static_cast<uint32_t>(share.chunk) << 4));
#pragma unroll 1
    for (int r = share.row; r < Block::kM; r += share.step) {
      const int place = load_shared<int>(places + r);
      float sum[kWide][4];
#pragma unroll
      for (int w = 0; w < kWide; ++w)
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[w][i] = bias[w][i % 2];
#pragma unroll
      for (int p = 0; p < kPairs; ++p) {
        const int at = place_offset_of(place + shift[p], chunk_bits);
#pragma unroll
        for (int w = 0; w < kWide; ++w) {
          uint32_t a[4];
          ldmatrix_x4(a, base + (at ^ w * kChunkBytes));
          Math::mma(sum[w], a, weight[w][p]);
        }
      }
      float all = (sum[0][0] + sum[0][1]) + (sum[0][2] + sum[0][3]);
#pragma unroll
      for (int w = 1; w < kWide; ++w) all += (sum[w][0] + sum[w][1]) + (sum[w][2] + sum[w][3]);
      if (any_lane(!(all - all == 0.f))) {
#pragma unroll
        for (int w = 0; w < kWide; ++w)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float v[2] = {bias[w][0], bias[w][1]};
            sum_pair(f, stage, kTaps, tables.tap, load_shared<int>(tables.pixel + r + column + half * 8),
                     share.chunk + w, pair, v);
            sum[w][half * 2] = v[0];
            sum[w][half * 2 + 1] = v[1];
          }
      }
      if (act.smooth) write_sums<true>(sum, base, to + r * kRowBytes, act);
      else write_sums<false>(sum, base, to + r * kRowBytes, act);
    }
  }
  // Rows `to` and eight further on, two channels of each chunk.
  template <bool kSmooth, int kWide>
  static LIGHTOPS_DEVICE void write_sums(const float (&sum)[kWide][4], unsigned char* base, int to,
                                         const Activation<Math>& act) {
#pragma unroll
    for (int w = 0; w < kWide; ++w)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float v[2] = {sum[w][half * 2], sum[w][half * 2 + 1]};
        typename PairOf<Math>::Type raw;
        act.template pack_as<kSmooth>(v, raw);
        store_shared(base + (to ^ w * kChunkBytes) + half * 8 * kRowBytes, raw);
      }
  }

  // Chunks first to before last.
  static LIGHTOPS_DEVICE void fill(const ResidentArgs& a, TilePlace place, const Tables& tables,
                                   unsigned char* resident, unsigned char* scratch, int first, int last) {
    const ConvArgs& f = a.first;
    const Geometry& g = f.geometry;
    const int taps = g.kernel_h * g.kernel_w;
    const int stage_bytes = (f.tile.slots + taps) * kRowBytes;
    Loader loader(f, place, nullptr);
    const int stages = a.first_stages;
    for (int i = 0; i < stages - 1; ++i) issue(f, loader, first + i, last, taps, scratch + i * stage_bytes);
    tables.fill_taps(f.tile, g, Block::kThreads);
    // In the place of the table of output pixels, which is filled behind the producer.
    for (int r = thread_index(); r < Block::kM; r += Block::kThreads)
      store_shared(tables.pixel + r, halo_place(f.tile, g, r));
    int here = 0;
    for (int chunk = first; chunk < last; ++chunk) {
      const int channel = chunk * kRowElements<Math>;
      float bias[2][2] = {};  // asked for before the wait
      if (sizeof(Store) == 2 && taps == 9) bias_of<2>(f, channel, bias);
      if (stages == 4) cp_async_wait<2>();
      else if (stages == 3) cp_async_wait<1>();
      else cp_async_wait<0>();
      sync_threads();
      const int ahead = here == 0 ? stages - 1 : here - 1;  // the stage of the chunk before
      issue(f, loader, chunk + stages - 1, last, taps, scratch + ahead * stage_bytes);
      unsigned char* const out = resident + (chunk - first) * Block::kM * kRowBytes;
      const unsigned char* const stage = scratch + here * stage_bytes;
      here = here + 1 == stages ? 0 : here + 1;
      if constexpr (sizeof(Store) == 2) {
        if (taps == 9) {
          convolve_diagonal<9, 2>(f, stage, tables, channel, bias, out);
          continue;
        }
        if (taps == 25) {  // two chunks at a time would need twice its 26 registers of weights
          float one[1][2];
          bias_of<1>(f, channel, one);
          convolve_diagonal<25, 1>(f, stage, tables, channel, one, out);
          continue;
        }
      }
      convolve(f, stage, taps, tables.tap, channel, out);
    }
  }
};

// A 1x1 convolution (with the prologue of the loader) into the tile: rows are the halo pixels of the second convolution. Rows
// outside the image are zero: that is the second convolution's padding.
template <class Block, class First>
struct SqueezeProducer {
  using Math = typename Block::Math;
  static constexpr bool kRowsArePixels = false;
  static constexpr int kBlocks = 1;  // a block fills shared memory
  using Loader = PointwiseLoader<Math, First::kThreads, rows_a_thread(First::kM, First::kThreads)>;
  static_assert(First::kThreads == Block::kThreads, "both products use the same warps");

  static LIGHTOPS_DEVICE void fill(const ResidentArgs& a, TilePlace place, const Tables& tables,
                                   unsigned char* resident, unsigned char* scratch, int, int) {
    const ConvArgs& f = a.first;
    const TilePlace halo{place.image, place.y - a.geometry.pad_h, place.x - a.geometry.pad_w};
    tables.fill_pixels(f.tile, halo, f.x.height, f.x.width, First::kM, First::kThreads);
    Loader loader(f, halo, scratch + pipeline_bytes(First::size(), f.tile.slots, 1, 1));
    const Activation<Math> act(f.act);
    const int last = a.chunks * kRowElements<Math>;
#pragma unroll 1
    for (int column = 0; column < f.out.channels; column += First::kN) {
      typename First::Warp sums;
      // One tap: an iteration a chunk.
      accumulate<First>(f, loader, scratch, nullptr, column, 0, f.chunks, sums, [] {});
      sums.each_column([&](int n, const auto& each_row) {
        const int c = column + First::warp_column() + n;
        if (c >= last) return;
        const float bias[2] = {f.bias ? load_global(f.bias + c, c < f.out.channels) : 0.f,
                               f.bias ? load_global(f.bias + c + 1, c + 1 < f.out.channels) : 0.f};
        const int in_row = c % kRowElements<Math> * static_cast<int>(sizeof(typename Math::Store));
        unsigned char* const tile = resident + c / kRowElements<Math> * f.tile.slots * kRowBytes;
        each_row([&](int row, float first, float second) {
          const int r = First::warp_row() + row;
          if (r >= f.tile.slots) return;
          const bool inside = load_shared<int>(tables.pixel + r) >= 0;
          float v[2] = {first + bias[0], second + bias[1]};
          typename PairOf<Math>::Type raw{};
          if (inside) act.pack(v, raw);
          const int key = r + divided(r, f.tile.by_pitch) * (a.tile.key_pitch - a.tile.pitch);
          store_shared(tile + place_offset(row_place(r, key), in_row / kChunkBytes) + in_row % kChunkBytes, raw);
        });
      });
    }
  }
};

}  // namespace lightops::cuda
