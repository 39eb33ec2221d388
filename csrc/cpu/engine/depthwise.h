// Depthwise convolution over padded NHWC rows, vectorised over channels.
#pragma once

#include "engine/vec.h"

namespace lightops {
namespace LIGHTOPS_ISA {

template <class C> struct Depthwise {
  Window window;
  int64_t channels = 0;
  const C* weights = nullptr;  // [kh * kw][channels]
  const C* bias = nullptr;     // [channels] or null
  Act act = Act::none;
};

// One output row: kernel row i reads the padded input row at in + i * in_row, pixels `pixel` apart. Computes channels
// [first, last) into `out`, pixels `out_pixel` apart. Input rows are read up to one vector past their end.
template <class C>
void depthwise_row(const Depthwise<C>& d, const C* in, int64_t in_row, int64_t pixel, int64_t out_width, int64_t first,
                   int64_t last, C* out, int64_t out_pixel);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
