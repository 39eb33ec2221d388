// Depthwise convolution over NHWC rows, vectorised over channels.
#pragma once

#include "engine/vec.h"

namespace lightops {
namespace LIGHTOPS_ISA {

template <class C> struct Depthwise {
  Window window;
  int64_t height = 0, width = 0;  // of the input
  int64_t channels = 0;           // to compute
  const C* weights = nullptr;     // packed: [ceil(channels / 16)][kh * kw][16]
  const C* bias = nullptr;        // [channels] or null
  Act act = Act::none;

  int64_t taps() const { return window.kernel[0] * window.kernel[1]; }

  // Input rows that output row y reads: [first_row(y), last_row(y)).
  int64_t first_row(int64_t y) const {
    const int64_t top = y * window.stride[0] - window.padding[0];
    return top < 0 ? 0 : top < height ? top : height;
  }
  int64_t last_row(int64_t y) const {
    const int64_t end = y * window.stride[0] - window.padding[0] + window.dilation[0] * (window.kernel[0] - 1) + 1;
    return end < 0 ? 0 : end < height ? end : height;
  }
};

// Output rows [y, y + rows) of `out_width` pixels; rows are out_row apart, pixels out_pixel. `in` is input row `in_first`;
// rows are in_row apart, pixels in_pixel. Padding is never read: taps that fall outside the image are left out of the sum,
// as zeros would be. T is what it reads; E, the compute type or bf16, what the product that follows reads.
template <class C, class T, class E>
void depthwise_rows(const Depthwise<C>& d, const T* in, int64_t in_first, int64_t in_row, int64_t in_pixel, int64_t y,
                    int64_t rows, int64_t out_width, E* out, int64_t out_row, int64_t out_pixel);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
