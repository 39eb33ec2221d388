#include "engine/depthwise.h"

#include "engine/activation.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Channels that are worked on along a whole row before the next ones: their weights stay in L1, and pixels that lie a
// power of two apart do not evict each other there.
constexpr int64_t kChannelBytes = 512;

// The kernel rows of one output row that lie inside the image, and where they start.
template <class C> struct Taps {
  const C* in;      // input row of kernel row `first`, column 0
  int64_t step;     // between input rows of neighbouring kernel rows
  int64_t pixel;
  int64_t first, last;
};

// Columns outputs from output column x, all of whose taps are inside, kernel 3 wide. At stride 1 neighbouring outputs
// share two of three input columns: four outputs take 18 + 9 loads for 36 multiply-adds.
template <class C, int Stride, int Columns>
LIGHTOPS_INLINE void columns_3(const Taps<C>& t, const C* weights, int64_t weight_stride, int64_t x, int64_t c,
                               int64_t count, Vec<C> (&sum)[Columns]) {
  constexpr int kSpan = (Columns - 1) * Stride + 3;
  const C* row = t.in + x * t.pixel + c;
  for (int64_t ky = t.first; ky < t.last; ++ky, row += t.step) {
    Vec<C> weight[3];
#pragma GCC unroll 3
    for (int kx = 0; kx < 3; ++kx) weight[kx] = load_upto(weights + (ky * 3 + kx) * weight_stride + c, count);
#pragma GCC unroll 9
    for (int j = 0; j < kSpan; ++j) {
      const Vec<C> v = load_upto(row + j * t.pixel, count);
#pragma GCC unroll 4
      for (int i = 0; i < Columns; ++i) {
        const int kx = j - i * Stride;
        if (kx >= 0 && kx < 3) sum[i] += v * weight[kx];
      }
    }
  }
}

// One output at column x (input column `left` may be negative) by the general rule.
template <class C>
LIGHTOPS_INLINE Vec<C> one_output(const Depthwise<C>& d, const Taps<C>& t, int64_t left, int64_t c, int64_t count,
                                  Vec<C> sum) {
  const Window& w = d.window;
  for (int64_t ky = t.first; ky < t.last; ++ky) {
    for (int64_t kx = 0; kx < w.kernel[1]; ++kx) {
      const int64_t column = left + kx * w.dilation[1];
      if (column < 0 || column >= d.width) continue;
      const C* in = t.in + (ky - t.first) * t.step + column * t.pixel + c;
      sum += load_upto(in, count) * load_upto(d.weights + (ky * w.kernel[1] + kx) * d.weight_stride + c, count);
    }
  }
  return sum;
}

// Stride 0: any window.
template <class C, int Stride>
void row(const Depthwise<C>& d, const Taps<C>& t, int64_t out_width, C* out, int64_t out_pixel) {
  constexpr int L = kLanes<C>;
  constexpr int64_t kChannels = kChannelBytes / int64_t(sizeof(C));
  const Window& w = d.window;
  const Clamp<C> clamp(d.act);
  const bool clamps = is_clamp(d.act);
  const int64_t reach = w.dilation[1] * (w.kernel[1] - 1);
  // Output columns [inner, outer) have all their taps inside the image.
  int64_t inner = Stride ? ceil_div(w.padding[1], w.stride[1]) : out_width;
  int64_t outer = d.width - 1 + w.padding[1] - reach;
  outer = outer < 0 ? 0 : outer / w.stride[1] + 1;
  if (outer > out_width) outer = out_width;
  if (inner > outer) inner = outer = out_width;

  for (int64_t chunk = 0; chunk < d.channels; chunk += kChannels) {
    const int64_t end = d.channels - chunk < kChannels ? d.channels : chunk + kChannels;
    auto finish = [&](Vec<C> v, int64_t x, int64_t c, int64_t count) __attribute__((always_inline)) {
      store_upto(out + x * out_pixel + c, clamps ? clamp(v) : smooth<C>(v, d.act), count);
    };
    auto edge = [&](int64_t x) {
      for (int64_t c = chunk; c < end; c += L) {
        const Vec<C> bias = d.bias ? load_upto(d.bias + c, end - c) : Vec<C>{};
        finish(one_output(d, t, x * w.stride[1] - w.padding[1], c, end - c, bias), x, c, end - c);
      }
    };
    auto block = [&](auto columns, int64_t x) {
      constexpr int kColumns = decltype(columns)::value;
      for (int64_t c = chunk; c < end; c += L) {
        const int64_t count = end - c;
        const Vec<C> bias = d.bias ? load_upto(d.bias + c, count) : Vec<C>{};
        Vec<C> sum[kColumns];
#pragma GCC unroll 4
        for (int i = 0; i < kColumns; ++i) sum[i] = bias;
        const int64_t left = x * Stride - w.padding[1];
        if (count >= L) columns_3<C, Stride, kColumns>(t, d.weights, d.weight_stride, left, c, L, sum);
        else columns_3<C, Stride, kColumns>(t, d.weights, d.weight_stride, left, c, count, sum);
#pragma GCC unroll 4
        for (int i = 0; i < kColumns; ++i) finish(sum[i], x + i, c, count);
      }
    };
    int64_t x = 0;
    for (; x < inner && x < out_width; ++x) edge(x);
    if constexpr (Stride > 0) {
      for (; x + 4 <= outer; x += 4) block(Constant<4>(), x);
      for (; x < outer; ++x) block(Constant<1>(), x);
    }
    for (; x < out_width; ++x) edge(x);
  }
}

}  // namespace

template <class C>
void depthwise_row(const Depthwise<C>& d, const C* in, int64_t in_first, int64_t in_row, int64_t in_pixel, int64_t y,
                   int64_t out_width, C* out, int64_t out_pixel) {
  const Window& w = d.window;
  const int64_t top = y * w.stride[0] - w.padding[0];
  Taps<C> t;
  t.first = top < 0 ? ceil_div(-top, w.dilation[0]) : 0;
  t.last = w.kernel[0];
  while (t.last > t.first && top + (t.last - 1) * w.dilation[0] >= d.height) --t.last;
  t.in = in + (top + t.first * w.dilation[0] - in_first) * in_row;
  t.step = w.dilation[0] * in_row;
  t.pixel = in_pixel;
  const bool three = w.kernel[1] == 3 && w.dilation[1] == 1;
  if (three && w.stride[1] == 1) row<C, 1>(d, t, out_width, out, out_pixel);
  else if (three && w.stride[1] == 2) row<C, 2>(d, t, out_width, out, out_pixel);
  else row<C, 0>(d, t, out_width, out, out_pixel);
}

template void depthwise_row<float>(const Depthwise<float>&, const float*, int64_t, int64_t, int64_t, int64_t, int64_t,
                                   float*, int64_t);
template void depthwise_row<double>(const Depthwise<double>&, const double*, int64_t, int64_t, int64_t, int64_t,
                                    int64_t, double*, int64_t);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
