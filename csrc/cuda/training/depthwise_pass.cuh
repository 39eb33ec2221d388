// What the depthwise kernels share: a thread's place, its items, pairs of channels in and out.
#pragma once

#include "training/channel_pass.cuh"
#include "training/depthwise_pass.h"

namespace lightops::cuda {

template <class Math>
using PairType = typename PairOf<Math>::Type;

// Channels c and c + 1 at an element offset: one access, which the kernels' refusal of odd channels allows.
template <class Math>
LIGHTOPS_DEVICE PairType<Math> load_pair(const View& v, int64_t offset, int c, bool on) {
  return load_global(reinterpret_cast<const PairType<Math>*>(element<Math>(v, offset + c)), on);
}
template <class Math>
LIGHTOPS_DEVICE void store_pair(const View& v, int64_t offset, int c, const PairType<Math>& raw, bool on) {
  store_global(reinterpret_cast<PairType<Math>*>(element_out<Math>(v, offset + c)), raw, on);
}

// none, relu and relu6 as one clamp that keeps a NaN.
struct Clamp {
  float low, high;

  explicit LIGHTOPS_DEVICE Clamp(int code)
      : low(bits_to_float(code == 1 || code == 2 ? 0u : 0xff800000u)),
        high(code == 2 ? 6.f : bits_to_float(0x7f800000u)) {}
  LIGHTOPS_DEVICE float operator()(float v) const { return min_nan(max_nan(v, low), high); }
};

// Which of kCount columns from `column` on lie in a map, a bit each: asked once for a strip of rows.
template <int kCount>
LIGHTOPS_DEVICE unsigned columns_inside(int column, int width) {
  unsigned inside = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) inside |= column + i >= 0 && column + i < width ? 1u << i : 0u;
  return inside;
}

// Pairs of kCount neighbouring pixels of a row, zero where `inside` has no bit.
template <class Math, int kCount>
struct RowOfPairs {
  PairType<Math> raw[kCount];
  unsigned inside;

  LIGHTOPS_DEVICE bool has(int i) const { return inside >> i & 1u; }
  LIGHTOPS_DEVICE void load(const View& v, int image, int row, int column, int c, unsigned columns) {
    inside = row >= 0 && row < v.height ? columns : 0u;
    const int64_t start = pixel_offset(v, image, static_cast<int64_t>(row) * v.width + column);
#pragma unroll
    for (int i = 0; i < kCount; ++i) raw[i] = load_pair<Math>(v, start + i * v.pixel, c, has(i));
  }
};

// Grid: x = group of columns, y = part. Thread t has pair t % columns of item t / columns, and every lanes-th item from there.
struct DepthwiseThread {
  int lane, channel;
  bool on;

  LIGHTOPS_DEVICE DepthwiseThread(const DepthwisePass& s, int channels) {
    lane = thread_index() / s.columns;
    channel = (block_x() * s.columns + thread_index() - lane * s.columns) * 2;
    on = lane < s.lanes && channel < channels;
  }
  // body(image, first row of cells, first column of cells, on)
  template <class Body>
  LIGHTOPS_DEVICE void each(const DepthwisePass& s, int cells, const Body& body) const {
    const int first = block_y() * s.step, end = first + s.step < s.items ? first + s.step : s.items;
    for (int base = first; base < end; base += s.lanes) {
      const int item = base + lane, line = item / s.across, image = line / s.strips;
      body(image, (line - image * s.strips) * s.rows, (item - line * s.across) * cells, on && item < end);
    }
  }
};

// Weights of the thread's two channels.
template <class Math, int kTaps>
LIGHTOPS_DEVICE void load_weights(float (&w)[kTaps][2], const unsigned char* from, int channel, int channels, bool on) {
  const auto* const weight = reinterpret_cast<const typename Math::Store*>(from);
#pragma unroll
  for (int e = 0; e < 2; ++e)
#pragma unroll
    for (int k = 0; k < kTaps; ++k)
      w[k][e] =
          Math::load(load_global(weight + static_cast<int64_t>(channel + e) * kTaps + k, on && channel + e < channels));
}

}  // namespace lightops::cuda
