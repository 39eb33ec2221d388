// The weight gradient of a 3x3 convolution of stride 1 over padded strips: tap by tap, or in the Winograd domain.
#pragma once

#include "engine/strip.h"
#include "engine/wgrad.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// Direct: sums[tap][channel][output], nine products along the pixels of a strip.
// F(3x3, 2x2), the transpose of the forward algorithm: dw = G^T [sum over tiles of (B^T x B) * (A dy A^T)] G, with 16
// products along tiles where nine taps need 36. Sums are kept in the domain, sums[position][channel][output], until all
// strips are in; tiles are collected over strips until a product along them is worth it.
template <class C> struct Wgrad3x3 {
  int64_t channels = 0, outputs = 0;
  Algo algo = Algo::direct;
  int64_t sum_row = 0;    // between channels of `sums`: outputs, or more
  int64_t sum_plane = 0;  // between taps or positions
  C* sums = nullptr;      // cleared by the caller
  C* scratch = nullptr;   // scratch() elements

  // Tiles that are collected: their transforms stay in L2 beside the sums. From the channels of the whole convolution, so
  // that sums do not depend on how channels are shared out.
  int64_t tiles = 16;
  int64_t filled = 0;  // tiles that wait

  int64_t planes() const { return algo == Algo::direct ? 9 : 16; }
  // One vector more than needed: power-of-two strides would put all positions into the same cache sets.
  int64_t x_stride() const { return round_up(tiles * channels, kLanes<C>) + kLanes<C>; }
  int64_t dy_stride() const { return round_up(tiles * outputs, kLanes<C>) + kLanes<C>; }
  int64_t scratch_elements() const { return algo == Algo::direct ? 0 : 16 * (x_stride() + dy_stride()) + kLanes<C>; }
};

// How many to collect of `total` tiles that belong together: in equal parts, since a product along the last few tiles costs
// as much traffic on the sums as one along many.
template <class C> inline int64_t wgrad3x3_tiles(int64_t channels, int64_t outputs, int64_t total) {
  const int64_t fit = (512 << 10) / int64_t(sizeof(C)) / (16 * (channels + outputs));
  const int64_t most = fit < 16 ? 16 : fit > 96 ? 96 : fit;
  return ceil_div(total, ceil_div(total, most));
}

// Adds a strip: `rows` x `width` pixels of dy at dy (rows dy_row apart, pixels `outputs`), and the activations around them
// in a strip of rows + 2 padded rows of width + 2 pixels.
template <class C>
void wgrad3x3_strip(Wgrad3x3<C>* w, const C* strip, const C* dy, int64_t dy_row, int64_t rows, int64_t width);

// Adds what still waits.
template <class C> void wgrad3x3_flush(Wgrad3x3<C>* w);

// dw[output][channel][3][3] (dense) of channels [first, last) out of finished sums.
template <class C> void wgrad3x3_store(const Wgrad3x3<C>& w, int64_t first, int64_t last, C* dw);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
