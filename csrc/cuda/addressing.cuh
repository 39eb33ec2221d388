// Index arithmetic shared by the kernels. Products that can pass 2^31 are 64-bit; the rest stays 32-bit, which the
// planner guarantees (images, pixels of an image and channels are each below 2^31).
#pragma once

#include "conv_args.h"
#include "number.cuh"

namespace lightops::cuda {

// Element offset of a pixel of image n.
constexpr LIGHTOPS_DEVICE int64_t pixel_offset(const View& v, int n, int64_t pixel) { return n * v.image + pixel * v.pixel; }

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

// Row of the halo tile that output pixel r of the tile reads for tap (0, 0); pixels past the tile repeat the first.
LIGHTOPS_DEVICE int halo_slot(const Tile& t, const Geometry& g, int r) {
  if (r >= t.tile_h * t.tile_w) return 0;
  return r / t.tile_w * g.stride_h * t.pitch + r % t.tile_w;
}

// How many rows further tap (ky, kx) reads.
LIGHTOPS_DEVICE int tap_slot(const Tile& t, const Geometry& g, int tap) {
  const int down = tap / g.kernel_w * g.dilation_h, right = tap % g.kernel_w * g.dilation_w;
  return down * t.pitch + right % g.stride_w * t.sub_pitch + right / g.stride_w;
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
    if constexpr (sizeof(s) == 4)
      raw.w[i] = float_to_bits(s);
    else
      raw.w[i / 2] |= static_cast<uint32_t>(s) << (i % 2 * 16);
  }
  return raw;
}

template <class Math>
LIGHTOPS_DEVICE void store_chunk(const View& v, int64_t offset, int channel, const float (&value)[kChunkElements<Math>], bool on) {
  if (v.vector) {
    store_global16(element_out<Math>(v, offset + channel), pack<Math>(value), on && channel < v.channels);
    return;
  }
#pragma unroll
  for (int i = 0; i < kChunkElements<Math>; ++i)
    store_global(element_out<Math>(v, offset + channel + i), Math::store(value[i]), on && channel + i < v.channels);
}

// act(x * scale + shift) on a chunk; the per-channel pairs lie in shared memory, scale then shift, `channels` floats each.
template <class Math>
LIGHTOPS_DEVICE void scale_shift_act(float (&v)[kChunkElements<Math>], const float* pairs, int channels, int channel, Activation act) {
#pragma unroll
  for (int i = 0; i < kChunkElements<Math>; i += 4) {
    const Vec16 scale = load_shared<Vec16>(pairs + channel + i), shift = load_shared<Vec16>(pairs + channels + channel + i);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      v[i + j] = act(v[i + j] * bits_to_float(scale.w[j]) + bits_to_float(shift.w[j]));
  }
}

// Copies scale and shift into shared memory, padded with zeros to whole rows. The caller's next barrier publishes them.
LIGHTOPS_DEVICE void stage_scale_shift(float* pairs, const float* scale, const float* shift, int channels, int padded, int threads) {
  for (int c = thread_index(); c < padded; c += threads) {
    store_shared(pairs + c, load_global(scale + c, c < channels));
    store_shared(pairs + padded + c, load_global(shift + c, c < channels));
  }
}

}  // namespace lightops::cuda
