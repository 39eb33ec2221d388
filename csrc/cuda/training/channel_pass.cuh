// A block's walk over its part of the pixels (channel_pass.h), the norm of a thread's channels, and sums over the block.
#pragma once

#include "addressing.cuh"
#include "training/channel_pass.h"

namespace lightops::cuda {

struct Pixel {
  int image, row, column;
  bool on;
};
LIGHTOPS_DEVICE int64_t offset_of(const View& v, Pixel p) {
  return pixel_offset(v, p.image, p.row * v.width + p.column);
}

// Thread t has chunk t % columns of pixel t / columns, and every lanes-th pixel from there.
template <class Math>
struct PassThread {
  const ChannelPass& pass;
  int lane, channel, part;
  bool on;

  LIGHTOPS_DEVICE PassThread(const ChannelPass& s, int channels, int which) : pass(s), part(which) {
    lane = thread_index() / s.columns;
    channel = (block_x() * s.columns + thread_index() - lane * s.columns) * kChunkElements<Math>;
    on = lane < s.lanes && channel < channels;
  }
  LIGHTOPS_DEVICE int first() const { return part * pass.step; }
  LIGHTOPS_DEVICE int last() const { return first() + pass.step < pass.pixels ? first() + pass.step : pass.pixels; }

  // load(i, pixel) for kBatch pixels, then use(i, pixel) for each: their loads are in flight together.
  template <int kBatch, class Load, class Use>
  LIGHTOPS_DEVICE void each(const Load& load, const Use& use) const {
    const int end = last();
    int here = first() + lane;
    int row = here / pass.width, column = here - row * pass.width;
    int image = row / pass.height;
    row -= image * pass.height;
    for (int base = first(); base < end; base += kBatch * pass.lanes) {
      Pixel batch[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        batch[i] = {image, row, column, on && here < end};
        load(i, batch[i]);
        here += pass.lanes;
        column += pass.jump_column;
        if (column >= pass.width) column -= pass.width, ++row;
        row += pass.jump_row;
        if (row >= pass.height) row -= pass.height, ++image;
        image += pass.jump_image;
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i)
        if (batch[i].on) use(i, batch[i]);
    }
  }
};

// scale and shift of one channel; the only place where they are computed.
LIGHTOPS_DEVICE void affine_entry(const NormArgs& n, int channel, bool on, float* scale, float* shift) {
  const float gamma = n.gamma ? load_global(n.gamma + channel, on) : 1.f,
              beta = n.beta ? load_global(n.beta + channel, on) : 0.f;
  *scale = gamma / square_root(load_global(n.var + channel, on) + (on ? n.eps : 1.f));
  *shift = multiply_add(-load_global(n.mean + channel, on), *scale, beta);
}

// The norm of a thread's kCount channels from `channel` on. Without one: z = x.
template <int kCount>
struct ThreadNorm {
  float scale[kCount], shift[kCount];

  LIGHTOPS_DEVICE ThreadNorm(const NormArgs& n, int channel, int channels, bool on) {
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      scale[e] = 1.f, shift[e] = 0.f;
      if (n.mean) affine_entry(n, channel + e, on && channel + e < channels, scale + e, shift + e);
    }
  }
  LIGHTOPS_DEVICE float operator()(int e, float x) const { return multiply_add(x, scale[e], shift[e]); }
  template <int kValues>
  LIGHTOPS_DEVICE void apply(float (&v)[kValues]) const {
#pragma unroll
    for (int e = 0; e < kValues; ++e) v[e] = (*this)(e, v[e]);
  }
};

// A per-channel vector, zero where there is none.
template <int kCount>
LIGHTOPS_DEVICE void load_vector(float (&v)[kCount], const float* from, int channel, int channels, bool on) {
#pragma unroll
  for (int e = 0; e < kCount; ++e) v[e] = from ? load_global(from + channel + e, on && channel + e < channels) : 0.f;
}

// dx from scale * dz and the distance of x from its mean. Without batch statistics x has no part in it: zero times infinity is NaN.
LIGHTOPS_DEVICE float combine(float gain_dz, float off, float slope, float constant, bool batch) {
  return batch ? gain_dz + multiply_add(off, slope, constant) : gain_dz;
}

// The gradient through an activation: du times act'(z). As torch, relu6 stops it at both bounds; a bound of NaN stops nothing.
struct Slope {
  float low, high;
  bool smooth, silu;

  explicit LIGHTOPS_DEVICE Slope(int code)
      : low(code == 1 || code == 2 ? 0.f : bits_to_float(0x7fc00000u)),
        high(code == 2 ? 6.f : bits_to_float(0x7fc00000u)),
        smooth(code >= 3),
        silu(code == 4) {}

  LIGHTOPS_DEVICE float clipped(float du, float z) const { return z <= low || z >= high ? 0.f : du; }
  LIGHTOPS_DEVICE float gated(float du, float z) const {
    if (!silu) return z <= -3.f ? 0.f : z >= 3.f ? du : du * multiply_add(z, 1.f / 3.f, 0.5f);
    const float gate = reciprocal_approx(1.f + exp_approx(-z));
    return du * (gate * (1.f + z * (1.f - gate)));
  }
  // dz of kCount values in place; `smooth` is asked once for all of them.
  template <int kCount>
  LIGHTOPS_DEVICE void apply(float (&du)[kCount], const float (&z)[kCount]) const {
    if (smooth) {
#pragma unroll
      for (int e = 0; e < kCount; ++e) du[e] = gated(du[e], z[e]);
    } else {
#pragma unroll
      for (int e = 0; e < kCount; ++e) du[e] = clipped(du[e], z[e]);
    }
  }
};

// Shared memory of sums over a block: [kind][element][thread], with a pitch at which both the writers (neighbouring threads) and the
// readers (neighbouring channels of neighbouring columns) meet 32 different banks.
template <int kElements, int kThreads = kPassThreads>
constexpr int kSumPitch = kThreads + 32 / kElements;
template <int kElements, int kKinds, int kThreads = kPassThreads>
constexpr int kSumBytes = kElements * kKinds * kSumPitch<kElements, kThreads> * 4;

// The sum of value(lane) over the lanes, in eight chains: equal values round alike, 256 of them in one chain by up to 64 times the last
// place.
template <class Value>
LIGHTOPS_DEVICE float over_lanes(int lanes, const Value& value) {
  constexpr int kChains = 8;
  float chains[kChains] = {};
  int lane = 0;
  for (; lane + kChains <= lanes; lane += kChains) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) chains[i] += value(lane + i);
  }
  for (; lane < lanes; ++lane) chains[0] += value(lane);
#pragma unroll
  for (int half = kChains / 2; half > 0; half /= 2)
#pragma unroll
    for (int i = 0; i < half; ++i) chains[i] += chains[i + half];
  return chains[0];
}

// The sums over the block's pixels of kKinds values of each channel, lane after lane; take(channel of the group, sums) is called by
// one thread a channel. `s` has columns and lanes.
template <int kThreads = kPassThreads, int kKinds, int kElements, class Pass, class Take>
LIGHTOPS_DEVICE void sum_lanes(const Pass& s, const float (&v)[kKinds][kElements], const Take& take) {
  auto* const shared = reinterpret_cast<float*>(shared_memory());
  constexpr int kPitch = kSumPitch<kElements, kThreads>;
#pragma unroll
  for (int k = 0; k < kKinds; ++k)
#pragma unroll
    for (int e = 0; e < kElements; ++e) store_shared(shared + (k * kElements + e) * kPitch + thread_index(), v[k][e]);
  sync_threads();
  const int column = thread_index() / kElements, e = thread_index() % kElements;
  if (column >= s.columns) return;
  float sums[kKinds];
#pragma unroll
  for (int k = 0; k < kKinds; ++k) {
    const float* const values = shared + (k * kElements + e) * kPitch + column;
    sums[k] = over_lanes(s.lanes, [&](int l) { return load_shared<float>(values + l * s.columns); });
  }
  take(thread_index(), sums);
}

// Mean and squared deviations of values that come one by one (Welford): no difference of large sums, whatever the mean.
template <int kElements>
struct Moments {
  float count = 0.f, mean[kElements] = {}, deviation[kElements] = {};

  LIGHTOPS_DEVICE void add(const float (&v)[kElements]) {
    count += 1.f;
    const float share = reciprocal_approx(count);
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      const float off = v[e] - mean[e];
      mean[e] = multiply_add(off, share, mean[e]);
      deviation[e] = multiply_add(off, v[e] - mean[e], deviation[e]);
    }
  }
};

template <int kElements, int kThreads = kPassThreads>
constexpr int kMomentBytes = kSumBytes<kElements, 2, kThreads> + kThreads * 4;

// The moments of the block's pixels: the mean of the lanes' means as the mean of their distances from the first, then once more from
// what that gave, because the first may lie far off and distances that are alike round alike; then the deviations from it.
template <int kThreads = kPassThreads, int kElements, class Pass, class Take>
LIGHTOPS_DEVICE void merge_lanes(const Pass& s, const Moments<kElements>& m, const Take& take) {
  auto* const shared = reinterpret_cast<float*>(shared_memory());
  constexpr int kPitch = kSumPitch<kElements, kThreads>;
  float* const counts = shared + 2 * kElements * kPitch;
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    store_shared(shared + e * kPitch + thread_index(), m.mean[e]);
    store_shared(shared + (kElements + e) * kPitch + thread_index(), m.deviation[e]);
  }
  store_shared(counts + thread_index(), m.count);
  sync_threads();
  const int column = thread_index() / kElements, e = thread_index() % kElements;
  if (column >= s.columns) return;
  const float* const means = shared + e * kPitch + column;
  const auto at = [&](const float* of, int l) { return load_shared<float>(of + l * s.columns); };
  const float count = over_lanes(s.lanes, [&](int l) { return at(counts + column, l); });
  float mean = load_shared<float>(means);
#pragma unroll 1
  for (int again = 0; again < 2; ++again)
    mean += over_lanes(s.lanes, [&](int l) { return at(counts + column, l) * (at(means, l) - mean); }) / count;
  const float deviation = over_lanes(s.lanes, [&](int l) {
    const float off = at(means, l) - mean;
    return at(means + kElements * kPitch, l) + at(counts + column, l) * off * off;
  });
  take(thread_index(), mean, deviation, count);
}

}  // namespace lightops::cuda
