#include "engine/depthwise.h"

#include "engine/activation.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// 3x3 with the nine weights of a vector of channels held in registers, Columns outputs at once: at stride 1 neighbouring
// outputs share two of three input columns, so four outputs take 18 loads and 36 multiply-adds.
template <class C, int Stride, int Columns>
LIGHTOPS_INLINE void columns_3x3(const C* in, int64_t in_row, int64_t pixel, int64_t x, int64_t c, int64_t count,
                                 const Vec<C> (&weight)[9], Vec<C> bias, Vec<C> (&sum)[Columns]) {
  constexpr int kSpan = (Columns - 1) * Stride + 3;
#pragma GCC unroll 4
  for (int i = 0; i < Columns; ++i) sum[i] = bias;
#pragma GCC unroll 3
  for (int ky = 0; ky < 3; ++ky) {
    const C* row = in + ky * in_row + x * Stride * pixel + c;
#pragma GCC unroll 9
    for (int j = 0; j < kSpan; ++j) {
      Vec<C> v = load_upto(row + j * pixel, count);
#pragma GCC unroll 4
      for (int i = 0; i < Columns; ++i) {
        const int kx = j - i * Stride;
        if (kx >= 0 && kx < 3) sum[i] += v * weight[ky * 3 + kx];
      }
    }
  }
}

template <class C, int Stride>
void row_3x3(const Depthwise<C>& d, const C* in, int64_t in_row, int64_t pixel, int64_t width, int64_t first, int64_t last,
             C* out, int64_t out_pixel) {
  constexpr int L = kLanes<C>;
  const Clamp<C> clamp(d.act);
  const bool clamps = is_clamp(d.act);
  for (int64_t c = first; c < last; c += L) {
    const int64_t count = last - c < L ? last - c : L;
    Vec<C> weight[9];
#pragma GCC unroll 9
    for (int i = 0; i < 9; ++i) weight[i] = load_upto(d.weights + i * d.channels + c, count);
    const Vec<C> bias = d.bias ? load_upto(d.bias + c, count) : Vec<C>{};
    auto finish = [&](Vec<C> v, int64_t x) __attribute__((always_inline)) {
      store_upto(out + x * out_pixel + c, clamps ? clamp(v) : smooth<C>(v, d.act), count);
    };
    int64_t x = 0;
    for (; x + 4 <= width; x += 4) {
      Vec<C> sum[4];
      columns_3x3<C, Stride, 4>(in, in_row, pixel, x, c, L, weight, bias, sum);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) finish(sum[i], x + i);
    }
    for (; x < width; ++x) {
      Vec<C> sum[1];
      columns_3x3<C, Stride, 1>(in, in_row, pixel, x, c, count, weight, bias, sum);
      finish(sum[0], x);
    }
  }
}

template <class C>
void row_any(const Depthwise<C>& d, const C* in, int64_t in_row, int64_t pixel, int64_t width, int64_t first, int64_t last,
             C* out, int64_t out_pixel) {
  constexpr int L = kLanes<C>;
  const Clamp<C> clamp(d.act);
  const bool clamps = is_clamp(d.act);
  const Window& w = d.window;
  for (int64_t x = 0; x < width; ++x) {
    for (int64_t c = first; c < last; c += L) {
      const int64_t count = last - c;
      Vec<C> sum = d.bias ? load_upto(d.bias + c, count) : Vec<C>{};
      for (int64_t ky = 0; ky < w.kernel[0]; ++ky) {
        for (int64_t kx = 0; kx < w.kernel[1]; ++kx) {
          const C* tap = in + ky * in_row + (x * w.stride[1] + kx * w.dilation[1]) * pixel + c;
          sum += load_upto(tap, count) * load_upto(d.weights + (ky * w.kernel[1] + kx) * d.channels + c, count);
        }
      }
      store_upto(out + x * out_pixel + c, clamps ? clamp(sum) : smooth<C>(sum, d.act), count);
    }
  }
}

}  // namespace

template <class C>
void depthwise_row(const Depthwise<C>& d, const C* in, int64_t in_row, int64_t pixel, int64_t out_width, int64_t first,
                   int64_t last, C* out, int64_t out_pixel) {
  const Window& w = d.window;
  const bool three = w.kernel[0] == 3 && w.kernel[1] == 3 && w.dilation[1] == 1;
  if (three && w.stride[1] == 1) row_3x3<C, 1>(d, in, in_row, pixel, out_width, first, last, out, out_pixel);
  else if (three && w.stride[1] == 2) row_3x3<C, 2>(d, in, in_row, pixel, out_width, first, last, out, out_pixel);
  else row_any<C>(d, in, in_row, pixel, out_width, first, last, out, out_pixel);
}

template void depthwise_row<float>(const Depthwise<float>&, const float*, int64_t, int64_t, int64_t, int64_t,
                                   int64_t, float*, int64_t);
template void depthwise_row<double>(const Depthwise<double>&, const double*, int64_t, int64_t, int64_t, int64_t,
                                    int64_t, double*, int64_t);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
