// Where in its window a maximum is, ky * kernel width + kx, as max-pools of training leave it for the backward pass (PlaceMap).
#pragma once

#include "addressing.cuh"

namespace lightops::cuda {

// Of a chunk of channels.
template <class Math>
struct alignas(kChunkElements<Math>) Places {
  uint32_t w[kChunkElements<Math> / 4];
};

template <class Math>
LIGHTOPS_DEVICE Places<Math> load_places(const PlaceMap& m, int64_t pixel, int channel, int channels) {
  const unsigned char* const from = m.data + pixel * m.pitch + channel;
  if (m.whole) return load_global(reinterpret_cast<const Places<Math>*>(from));
  Places<Math> p{};
#pragma unroll
  for (int e = 0; e < kChunkElements<Math>; ++e)
    p.w[e / 4] |= static_cast<uint32_t>(load_global(from + e, channel + e < channels)) << (e % 4 * 8);
  return p;
}

template <class Math>
LIGHTOPS_DEVICE void store_places(const PlaceMap& m, int64_t pixel, int channel, int channels, const Places<Math>& p) {
  unsigned char* const to = m.data + pixel * m.pitch + channel;
  if (m.whole) {
    store_global(reinterpret_cast<Places<Math>*>(to), p, channel < channels);
    return;
  }
#pragma unroll
  for (int e = 0; e < kChunkElements<Math>; ++e)
    store_global(to + e, static_cast<unsigned char>(p.w[e / 4] >> (e % 4 * 8)), channel + e < channels);
}

// The maxima of a window for a chunk of channels, its pixels given in row order: the first of equal ones; a NaN before any number, the
// last of them, as torch.
template <class Math>
struct FirstMaximum {
  static constexpr int kElements = kChunkElements<Math>;
  float best[kElements];
  int place[kElements];

  LIGHTOPS_DEVICE FirstMaximum() {
#pragma unroll
    for (int e = 0; e < kElements; ++e) best[e] = bits_to_float(0xff800000u), place[e] = -1;
  }
  // Whether value e at this place is the maximum so far.
  LIGHTOPS_DEVICE bool take(int e, float value, int at) {
    const bool better = value > best[e] || value != value || place[e] < 0;
    best[e] = better ? value : best[e];
    place[e] = better ? at : place[e];
    return better;
  }
  LIGHTOPS_DEVICE Places<Math> places() const {
    Places<Math> p{};
#pragma unroll
    for (int e = 0; e < kElements; ++e) p.w[e / 4] |= static_cast<uint32_t>(place[e] & 255) << (e % 4 * 8);
    return p;
  }
};

}  // namespace lightops::cuda
