// The weight gradient of a convolution: dw[o][c] += sum over pixels p of dy[p][o] * u[p][c], the product that runs along
// pixels. Used per tap by kxk convolutions (the rows of u shifted by the tap), and with dy and u exchanged where the
// input has few channels (stems): the side called `u` lies along vectors, `dy` is read by broadcast.
#pragma once

#include "engine/gemm.h"
#include "engine/parallel.h"
#include "engine/rows.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// Pixels that one chain of multiply-adds runs over. Longer sums are runs of this length added up, see gemm.cpp: kRun.
constexpr int64_t kWgradPixels = 192;

// Pixels are `outer` (image rows) x `inner` (pixels of a row), addressed independently in both operands: with the rows
// of a padded strip as u, a tap of a kxk convolution is an offset of u, and its stride is in u_outer, u_inner. Both are
// read where they lie, in the compute type (16-bit tensors and prologues go through a strip first, rows.h): copying them
// into panels took up to a third of the time and gained nothing. 94% of the core's multiply-add peak at the networks'
// 1x1 shapes, 84% at 392 pixels of 1024 x 1024.
template <class C> struct Wgrad {
  int64_t outer = 1, inner = 0;

  const C* dy = nullptr;
  int64_t dy_outer = 0, dy_inner = 0;
  int64_t outputs = 0;

  const C* u = nullptr;
  int64_t u_outer = 0, u_inner = 0;
  int64_t channels = 0;
  bool slack = false;  // u lies in scratch: a vector may be read behind the last channel of the last pixel

  C* dw = nullptr;  // [outputs][channels], rows dw_row apart
  int64_t dw_row = 0;
};

// Adds to dw; the caller clears it. The order of additions is that of the pixels, in runs of kWgradPixels or of whole
// image rows: it depends on the sizes alone. Calls for parts of the outputs or channels give the same values as one.
template <class C> void wgrad(const Wgrad<C>& g);

// Into how many parts the pixels of a weight gradient are cut when its dw is small: each part sums into a dw of its own
// (cleared by the caller), merged in order afterwards. A function of sizes alone, so that results do not depend on the
// number of threads; a power of two, which comes out even for most of them.
inline int64_t wgrad_parts(int64_t pixels, int64_t dw_elements) {
  const int64_t by_pixels = ceil_div(pixels, 2 * kWgradPixels), by_memory = (int64_t(1) << 20) / (dw_elements + 1);
  const int64_t most = by_pixels < by_memory ? by_pixels : by_memory;
  int64_t parts = 1;
  while (parts < 16 && 2 * parts <= most) parts *= 2;
  return parts;
}

// parts[0] += parts[1] + ... in order, over elements [first, last); parts are `stride` elements apart.
template <class C> void merge_parts(C* parts, int64_t count, int64_t stride, int64_t first, int64_t last);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
