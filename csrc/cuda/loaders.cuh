// A-loaders of the implicit GEMM: each fills one stage of the shared A tile with 64 bytes of channels per row.
//   issue(chunk, stage)   starts the copies of a chunk of the reduction
//   finish(chunk, stage)  runs after the copies have landed, on the thread's own 16-byte chunks only, so that it needs no
//                         barrier beyond the one the pipeline has anyway
// Thread t owns chunk t % 4 of the rows t / 4, t / 4 + threads / 4, ...: four neighbours read one 64-byte row, and one
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

  const ConvArgs& args;
  const float* pairs;
  int padded;
  int image;
  int pixel[kMaxRows];  // y * width + x; -1: padding, -2: no such slot

  LIGHTOPS_DEVICE HaloLoader(const ConvArgs& a, TilePlace place, unsigned char* extra)
      : args(a), pairs(reinterpret_cast<float*>(extra)), image(place.image) {
    const Tile& t = a.tile;
    const Geometry& g = a.geometry;
    padded = a.chunks * kRowElements<Math>;
    if (a.scale) {
      stage_scale_shift(reinterpret_cast<float*>(extra), a.scale, a.shift, a.x.channels, padded, kThreads);
      sync_threads();  // the pairs are read before the pipeline's first barrier
    }
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) {
      const int slot = thread_index() / kRowChunks + i * (kThreads / kRowChunks);
      const int in_row = slot % t.pitch, phase = in_row / t.sub_pitch;
      const int hy = slot / t.pitch, hx = in_row % t.sub_pitch * g.stride_w + phase;
      const int y = place.y * g.stride_h - g.pad_h + hy, x = place.x * g.stride_w - g.pad_w + hx;
      const bool exists = slot < t.slots && phase < g.stride_w && hx < t.halo_w;
      const bool inside = y >= 0 && y < a.x.height && x >= 0 && x < a.x.width;
      pixel[i] = !exists ? -2 : inside ? y * a.x.width + x : -1;
    }
  }

  LIGHTOPS_DEVICE int channel(int chunk) const { return chunk * kRowElements<Math> + thread_index() % kRowChunks * kElements; }
  LIGHTOPS_DEVICE unsigned char* mine(unsigned char* stage, int i) const {
    return stage + tile_offset(thread_index() / kRowChunks + i * (kThreads / kRowChunks), thread_index() % kRowChunks);
  }

  LIGHTOPS_DEVICE void issue(int chunk, unsigned char* stage) {
    const int c = channel(chunk);
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) {
      if (pixel[i] == -2) continue;
      const bool on = pixel[i] >= 0 && c < args.x.channels;
      const int64_t offset = pixel_offset(args.x, image, on ? pixel[i] : 0);
      if (args.x.vector)
        cp_async16(mine(stage, i), element<Math>(args.x, offset + (on ? c : 0)), on);
      else
        store_shared(mine(stage, i), load_chunk<Math>(args.x, offset, c, on));
    }
  }

  LIGHTOPS_DEVICE void finish(int chunk, unsigned char* stage) {
    if (!args.scale && args.pre_act == 0) return;
    const int c = channel(chunk);
    const Activation act(args.pre_act);
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) {
      if (pixel[i] < 0) continue;
      float v[kElements];
      unpack<Math>(load_shared<Vec16>(mine(stage, i)), v);
      if (args.scale)
        scale_shift_act<Math>(v, pairs, padded, c, act);
      else
#pragma unroll
        for (int e = 0; e < kElements; ++e) v[e] = act(v[e]);
      store_shared(mine(stage, i), pack<Math>(v));
    }
  }
};

template <class Math, int kThreads, int kMaxRows>
using SpatialLoader = HaloLoader<Math, kThreads, kMaxRows, true>;
// One tap: the tap counters of the pipeline fold away.
template <class Math, int kThreads, int kMaxRows>
using PointwiseLoader = HaloLoader<Math, kThreads, kMaxRows, false>;

// DenseNet's transition: batch norm, activation and the 2x2 average before the 1x1 convolution, in registers.
template <class Math, int kThreads, int kMaxRows>
struct PooledLoader : PointwiseLoader<Math, kThreads, kMaxRows> {
  using Base = PointwiseLoader<Math, kThreads, kMaxRows>;
  static constexpr int kElements = kChunkElements<Math>;
  int tile_y, tile_x;

  LIGHTOPS_DEVICE PooledLoader(const ConvArgs& a, TilePlace place, unsigned char* extra)
      : Base(a, place, extra), tile_y(place.y), tile_x(place.x) {}

  LIGHTOPS_DEVICE void issue(int chunk, unsigned char* stage) {
    const ConvArgs& a = this->args;
    const Activation act(a.pre_act);
    const int c = this->channel(chunk);
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) {
      const int r = thread_index() / kRowChunks + i * (kThreads / kRowChunks);
      if (r >= a.tile.slots) break;
      const int y = tile_y + r / a.tile.tile_w, x = tile_x + r % a.tile.tile_w;
      const bool on = r < a.tile.tile_h * a.tile.tile_w && y < a.out.height && x < a.out.width;
      float mean[kElements] = {};
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
        const int64_t at = on ? static_cast<int64_t>(2 * y + corner / 2) * a.x.width + 2 * x + corner % 2 : 0;
        float v[kElements];
        unpack<Math>(load_chunk<Math>(a.x, pixel_offset(a.x, this->image, at), c, on), v);
        scale_shift_act<Math>(v, this->pairs, this->padded, c, act);
#pragma unroll
        for (int e = 0; e < kElements; ++e) mean[e] += v[e];
      }
      const bool real = on && c < a.x.channels;
#pragma unroll
      for (int e = 0; e < kElements; ++e) mean[e] = real ? mean[e] * 0.25f : 0.f;
      store_shared(this->mine(stage, i), pack<Math>(mean));
    }
  }

  LIGHTOPS_DEVICE void finish(int, unsigned char*) {}
};

// Any geometry, channel count and layout: the reduction runs over (tap, channel) flattened, so a stem with 3 channels wastes
// no lanes on padding. Elements are gathered one by one; neighbouring k are neighbouring addresses in pixel-major input.
template <class Math, int kThreads>
struct GatherLoader {
  static constexpr int kElements = kChunkElements<Math>;
  static constexpr bool kGathered = true, kManyTaps = false;

  const ConvArgs& args;
  int* taps;  // per k: dy << 24 | dx << 16 | channel
  int image, first_y, first_x;

  LIGHTOPS_DEVICE GatherLoader(const ConvArgs& a, TilePlace place, unsigned char* extra)
      : args(a), taps(reinterpret_cast<int*>(extra)), image(place.image) {
    const Geometry& g = a.geometry;
    first_y = place.y * g.stride_h - g.pad_h;
    first_x = place.x * g.stride_w - g.pad_w;
    const int depth = g.kernel_h * g.kernel_w * a.x.channels;
    for (int k = thread_index(); k < a.chunks * kRowElements<Math>; k += kThreads) {
      const int tap = k / a.x.channels;
      const int packed = tap / g.kernel_w * g.dilation_h << 24 | tap % g.kernel_w * g.dilation_w << 16 | k % a.x.channels;
      store_shared(taps + k, k < depth ? packed : -1);
    }
    sync_threads();
  }

  LIGHTOPS_DEVICE void issue(int chunk, unsigned char* stage) {
    const Geometry& g = args.geometry;
    const Activation act(args.pre_act);
    const int quarter = thread_index() % kRowChunks;
    const int k0 = chunk * kRowElements<Math> + quarter * kElements;
#pragma unroll 1
    for (int r = thread_index() / kRowChunks; r < args.tile.slots; r += kThreads / kRowChunks) {
      const int y0 = first_y + r / args.tile.tile_w * g.stride_h, x0 = first_x + r % args.tile.tile_w * g.stride_w;
      float v[kElements];
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        const int tap = load_shared<int>(taps + k0 + e);
        const int y = y0 + (tap >> 24 & 127), x = x0 + (tap >> 16 & 255), c = tap & 0xffff;
        const bool on = tap >= 0 && y >= 0 && y < args.x.height && x >= 0 && x < args.x.width;
        const int64_t offset =
            on ? image * args.x.image + y * args.gather_row + x * args.gather_column + c * args.gather_channel : 0;
        v[e] = Math::load(load_global(element<Math>(args.x, offset), on));
        if (args.scale) v[e] = v[e] * load_global(args.scale + c, on) + load_global(args.shift + c, on);
        v[e] = on ? act(v[e]) : 0.f;
      }
      store_shared(stage + tile_offset(r, quarter), pack<Math>(v));
    }
  }

  LIGHTOPS_DEVICE void finish(int, unsigned char*) {}
};

}  // namespace lightops::cuda
