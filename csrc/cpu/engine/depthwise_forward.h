// A 3x3 depthwise convolution of act(norm(x)) with the statistics of its result, a vector of channels at a time: rows of
// the activated tensor are made side by side in L1, the nine values under a window stay in registers from pixel to pixel,
// and the moments are taken from the result's. Where 32 registers hold that (AVX-512).
#pragma once

#include "engine/depthwise.h"
#include "engine/rows.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// Whether it is computed so: 3x3, padding 1, no dilation, stride 1 or 2, whole vectors of channels.
template <class C> bool depthwise_forward_fits(const Depthwise<C>& d, Act act);

// Elements of scratch.
template <class C> int64_t depthwise_forward_scratch(const Depthwise<C>& d);

// Rows [y, y + rows) of one image: `x` is its row 0, with pixels x_pixel apart, `out` row y of `out_width` pixels,
// d.channels apart. mean[c] and deviation[c] = sum over the pixels (out - mean)^2; null: not wanted.
template <class C>
void depthwise_forward(const Depthwise<C>& d, const Prologue<C>& prologue, const C* x, int64_t x_pixel, int64_t y,
                       int64_t rows, int64_t out_width, C* out, C* mean, C* deviation, C* scratch);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
