// Both gradients of a depthwise convolution, row by row of its input, vectorised over channels.
#pragma once

#include "engine/norm.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// Which of the three tensors come from beyond L2 and the hardware's reach: their next rows are then fetched ahead.
struct Far {
  bool u = false, du = false, dy = false;
  // What is written, du or dx, goes past the caches. It must be aligned, with pixels of whole vectors, and the caller
  // fences. 128 channels at 56 x 56, batch 8: 1.03 ms to 0.97, at stride 2 0.63 to 0.36: its lines are not read to be
  // overwritten.
  bool stream = false;
};

// `u` is the convolution's input, `dy` the gradient of its output. All pixels are dense: `channels` apart.
template <class C> struct DepthwiseGrad {
  Window window;
  int64_t height = 0, width = 0;          // of u
  int64_t out_height = 0, out_width = 0;  // of dy
  int64_t channels = 0;
  Far far;
  const C* weights = nullptr;  // packed

  int64_t taps() const { return window.kernel[0] * window.kernel[1]; }
  // Elements of packed weights, and of the sums of their gradients.
  int64_t packed() const { return round_up(channels, kGroup) * taps(); }

  // Rows [first, last) of dy that reach row y of u.
  int64_t first_row(int64_t y) const {
    const int64_t reach = y + window.padding[0] - window.dilation[0] * (window.kernel[0] - 1);
    const int64_t first = reach <= 0 ? 0 : ceil_div(reach, window.stride[0]);
    return first < out_height ? first : out_height;
  }
  int64_t last_row(int64_t y) const {
    const int64_t last = (y + window.padding[0]) / window.stride[0] + 1;
    return last < out_height ? last : out_height;
  }
};

// Packs dense [channels][taps] weights as the depthwise kernels read them: [ceil(channels / 16)][taps][16], zero filled.
template <class C> void depthwise_pack(const C* weights, int64_t channels, int64_t taps, C* packed);

// Packed sums of weight gradients back to dense [channels][taps].
template <class C> void depthwise_unpack(const C* packed, int64_t channels, int64_t taps, C* weights);

// Row y of u meets the same values of dy in both gradients, dy[(y + padding - tap * dilation) / stride]:
//   du[x] = sum over taps of dy[...] * w[tap]
//   sum[tap] += sum over x of dy[...] * u[x]           (packed; null: not wanted, and u is not read)
// so each is loaded once for both. `dy` is row dy_first of dy. Padding is never read: what lies outside does not count,
// whatever the value it would be multiplied by.
template <class C>
void depthwise_grad_row(const DepthwiseGrad<C>& d, const C* dy, int64_t dy_first, int64_t y, const C* u, C* du, C* sum);

// The same row with the norm in front, whose raw input x stands for u and is read where it lies. What lay in scratch
// between three passes stays in registers, and the sums, bound by arithmetic, run while memory does.
// Without norm.a, the first pass: the weights' sums, the sums of dz and of dz * (x - mean) added to sums[c] and
// sums[channels + c], and dz to `out` where that is not null. With it, the second: dx to `out`; sum and sums are null.
template <class C>
void depthwise_norm_row(const DepthwiseGrad<C>& d, const NormBackward<C>& norm, const C* dy, int64_t dy_first,
                        int64_t y, const C* x, C* out, C* sum, C* sums);

// Whether depthwise_norm_row takes it.
template <class C> bool depthwise_norm_fits(const DepthwiseGrad<C>& d, Act act);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
