#include "engine/depthwise.h"

#include "engine/activation.h"
#include "engine/depthwise_line.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Channels that are worked on along a whole row before the next ones: pixels that lie a power of two apart would evict
// each other from L1 between neighbouring outputs.
constexpr int64_t kChannelBytes = 1024;

// Up to so many channels rows go by line_3.
constexpr int64_t kLineChannels = kPanel;

// The kernel rows of one output row that lie inside the image.
template <class T> struct Taps {
  const T* in;          // input row of the first of them, column 0
  int64_t step;         // between input rows of neighbouring kernel rows
  int64_t pixel;
  int64_t first, last;  // kernel rows
};

// Columns outputs side by side, of Rows kernel rows and kernel columns [First, Last) of 3, those inside the image;
// `channels` is whole vectors. `in` is column First of the first output. At stride 1 neighbouring outputs share two of three input columns: four
// outputs of three rows take 18 + 9 loads for 36 multiply-adds, so the multiply-adds are the bound.
template <class C, class T, class E, int Stride, int Columns, int Rows, int First, int Last>
__attribute__((noinline)) void block_3(const T* in, int64_t step, int64_t pixel, const C* weights, int64_t group_taps,
                                       const C* bias, Clamp<C> clamp, int64_t channels, E* out, int64_t out_pixel) {
  constexpr int L = kLanes<C>, kTaps = Last - First, kSpan = (Columns - 1) * Stride + kTaps;
  Pixels pixels(pixel * int64_t(sizeof(T)));
  const int64_t row_bytes = step * int64_t(sizeof(T));
  const char* row[Rows];
#pragma GCC unroll 3
  for (int y = 0; y < Rows; ++y) row[y] = reinterpret_cast<const char*>(in) + y * row_bytes;
  for (int64_t c = 0; c < channels; c += L) {
    pixels.hold();
    const C* w = weights + c / kGroup * group_taps * kGroup + c % kGroup;
    Vec<C> sum[Columns];
#pragma GCC unroll 4
    for (int i = 0; i < Columns; ++i) sum[i] = Vec<C>{};
#pragma GCC unroll 3
    for (int y = 0; y < Rows; ++y) {
      Vec<C> weight[kTaps];
#pragma GCC unroll 3
      for (int kx = 0; kx < kTaps; ++kx) weight[kx] = load(w + (y * 3 + First + kx) * kGroup);
#pragma GCC unroll 9
      for (int j = 0; j < kSpan; ++j) {
        Vec<C> v = load(reinterpret_cast<const T*>(row[y] + pixels.times(j)));
        hold_vector(v);
#pragma GCC unroll 4
        for (int i = 0; i < Columns; ++i) {
          const int kx = j - i * Stride;
          if (kx >= 0 && kx < kTaps) sum[i] += v * weight[kx];
        }
      }
      row[y] += L * int64_t(sizeof(T));
    }
    const Vec<C> shift = bias ? load(bias + c) : Vec<C>{};
#pragma GCC unroll 4
    for (int i = 0; i < Columns; ++i) store(out + i * out_pixel + c, clamp(sum[i] + shift));
  }
}

// One output whose first tap is at column `left`, by the general rule: any window, any channel count. `out` is its channel
// `first`.
template <class C, class T, class E>
void one_output(const Depthwise<C>& d, const Taps<T>& t, int64_t left, int64_t first, int64_t end, Clamp<C> clamp,
                E* out) {
  const Window& w = d.window;
  for (int64_t c = first; c < end; c += kLanes<C>) {
    const int64_t count = end - c;
    const C* weights = d.weights + c / kGroup * d.taps() * kGroup + c % kGroup;
    Vec<C> sum = {};
    for (int64_t ky = t.first; ky < t.last; ++ky) {
      for (int64_t kx = 0; kx < w.kernel[1]; ++kx) {
        const int64_t column = left + kx * w.dilation[1];
        if (column < 0 || column >= d.width) continue;
        const T* in = t.in + (ky - t.first) * t.step + column * t.pixel + c;
        sum += load_upto(in, count) * load(weights + (ky * w.kernel[1] + kx) * kGroup);
      }
    }
    if (d.bias) sum += load_upto(d.bias + c, count);
    store_upto(out + c - first, clamp(sum), count);
  }
}

template <class C, class T, class E> using Block = void (*)(const T*, int64_t, int64_t, const C*, int64_t, const C*,
                                                            Clamp<C>, int64_t, E*, int64_t);

// The blocks for a stride of 1 or 2 and 1 to 3 rows: four, two or one output whose taps are all inside, and one at the left
// or the right border of the image. By the general rule the two borders cost as much as twelve outputs between them.
template <class C, class T, class E> struct Blocks {
  Block<C, T, E> four, two, one, left, right;

  Blocks(int64_t stride, int64_t rows) {
    if (stride == 1) fill<1>(rows);
    else fill<2>(rows);
  }
  Block<C, T, E> inside(int64_t columns) const { return columns == 4 ? four : columns == 2 ? two : one; }

 private:
  template <int Stride> void fill(int64_t rows) {
    if (rows == 3) fill<Stride, 3>();
    else if (rows == 2) fill<Stride, 2>();
    else fill<Stride, 1>();
  }
  template <int Stride, int Rows> void fill() {
    four = block_3<C, T, E, Stride, 4, Rows, 0, 3>;
    two = block_3<C, T, E, Stride, 2, Rows, 0, 3>;
    one = block_3<C, T, E, 1, 1, Rows, 0, 3>;
    left = block_3<C, T, E, 1, 1, Rows, 1, 3>;
    right = block_3<C, T, E, 1, 1, Rows, 0, 2>;
  }
};

template <class C, class T, class E>
void run_row(const Depthwise<C>& d, const Taps<T>& t, int64_t out_width, E* out, int64_t out_pixel) {
  constexpr int64_t kChannels = kChannelBytes / int64_t(sizeof(C));
  const Window& w = d.window;
  const Clamp<C> clamp(is_clamp(d.act) ? d.act : Act::none);
  const int64_t rows = t.last - t.first;
  const bool fast = w.kernel[0] <= 3 && w.kernel[1] == 3 && w.dilation[1] == 1 && w.stride[1] <= 2 && rows > 0;
  // Output columns [inner, outer) have all their taps inside the image.
  int64_t inner = ceil_div(w.padding[1], w.stride[1]);
  int64_t outer = d.width - 1 + w.padding[1] - w.dilation[1] * (w.kernel[1] - 1);
  outer = outer < 0 ? 0 : outer / w.stride[1] + 1;
  if (outer > out_width) outer = out_width;
  if (!fast || inner >= outer) inner = outer = 0;
  const Blocks<C, T, E> blocks(w.stride[1], rows);
  const Blocks<C, T, C> summing(w.stride[1], rows);
  C sums[4 * kChannels];  // an activation that is no clamp is taken from here, before anything is rounded to E

  for (int64_t chunk = 0; chunk < d.channels; chunk += kChannels) {
    const int64_t end = d.channels - chunk < kChannels ? d.channels : chunk + kChannels;
    const int64_t whole = (end - chunk) / kLanes<C> * kLanes<C>;  // the rest, a partial vector, goes the general way
    const C* weights = d.weights + chunk / kGroup * d.taps() * kGroup + t.first * w.kernel[1] * kGroup;
    const C* bias = d.bias ? d.bias + chunk : nullptr;
    for (int64_t x = 0; x < out_width;) {
      const int64_t left = x * w.stride[1] - w.padding[1];
      const bool inside = x >= inner && x < outer;
      const int64_t columns = !inside ? 1 : x + 4 <= outer ? 4 : x + 2 <= outer ? 2 : 1;
      const bool at_left = fast && left == -1 && d.width >= 2, at_right = fast && left >= 0 && left + 2 == d.width;
      const auto run = [&](const auto& block, auto* to, int64_t to_pixel) {
        const bool whole_taps = inside || at_left || at_right;
        if (whole_taps && whole > 0) {
          const auto chosen = inside ? block.inside(columns) : at_left ? block.left : block.right;
          chosen(t.in + (at_left ? 0 : left) * t.pixel + chunk, t.step, t.pixel, weights, d.taps(), bias, clamp, whole,
                 to, to_pixel);
        }
        const int64_t done = whole_taps ? whole : 0;
        for (int64_t i = 0; done < end - chunk && i < columns; ++i)
          one_output(d, t, left + i * w.stride[1], chunk + done, end, clamp, to + i * to_pixel + done);
      };
      E* to = out + x * out_pixel + chunk;
      if (is_clamp(d.act)) {
        run(blocks, to, out_pixel);
      } else {
        run(summing, sums, kChannels);
        for (int64_t i = 0; i < columns; ++i)
          for (int64_t c = 0; c < end - chunk; c += kLanes<C>)
            store_upto(to + i * out_pixel + c, smooth<C>(load(sums + i * kChannels + c), d.act), end - chunk - c);
      }
      x += columns;
    }
  }
}

template <class C, class T, class E> using LineKernel = void (*)(const Line<C, T, E>&);

template <class C, class T, class E, int Stride> LineKernel<C, T, E> line_of(int64_t rows) {
  return rows == 3 ? line_3<C, T, E, Stride, 3> : rows == 2 ? line_3<C, T, E, Stride, 2> : line_3<C, T, E, Stride, 1>;
}

// Whether rows are computed by line_3: a 3x3 at stride 1 or 2 with a padded column on the left, whole vectors of few channels.
template <class C> bool by_lines(const Depthwise<C>& d, int64_t out_width) {
  const Window& w = d.window;
  const int64_t last = (out_width - 1) * w.stride[1] + 1;  // the last output's third column
  return w.kernel[0] <= 3 && w.kernel[1] == 3 && w.dilation[1] == 1 && w.stride[1] <= 2 && w.padding[1] == 1 &&
         out_width > 4 && last <= d.width && is_clamp(d.act) && d.channels <= kLineChannels &&
         d.channels % kLanes<C> == 0;
}

template <class C, class T> Taps<T> taps_of(const Depthwise<C>& d, const T* in, int64_t in_first, int64_t in_row,
                                            int64_t in_pixel, int64_t y) {
  const Window& w = d.window;
  const int64_t top = y * w.stride[0] - w.padding[0];
  Taps<T> t;
  t.first = top < 0 ? ceil_div(-top, w.dilation[0]) : 0;
  t.last = w.kernel[0];
  while (t.last > t.first && top + (t.last - 1) * w.dilation[0] >= d.height) --t.last;
  t.in = in + (top + t.first * w.dilation[0] - in_first) * in_row;
  t.step = w.dilation[0] * in_row;
  t.pixel = in_pixel;
  return t;
}

template <class C, class T, class E>
void run_lines(const Depthwise<C>& d, const Taps<T>& t, int64_t out_width, E* out, int64_t out_pixel) {
  const int64_t rows = t.last - t.first;
  const auto kernel = d.window.stride[1] == 1 ? line_of<C, T, E, 1>(rows) : line_of<C, T, E, 2>(rows);
  Line<C, T, E> l{t.in, t.step, t.pixel, nullptr, {}, Clamp<C>(d.act), out, out_pixel, out_width, false};
  l.cut = (out_width - 1) * d.window.stride[1] + 1 == d.width;
  for (int64_t c = 0; c < d.channels; c += kLanes<C>) {
    l.in = t.in + c;
    l.weights = d.weights + c / kGroup * d.taps() * kGroup + t.first * 3 * kGroup + c % kGroup;
    l.shift = d.bias ? load(d.bias + c) : Vec<C>{};
    l.out = out + c;
    kernel(l);
  }
}

}  // namespace

template <class C, class T, class E>
void depthwise_rows(const Depthwise<C>& d, const T* in, int64_t in_first, int64_t in_row, int64_t in_pixel, int64_t y,
                    int64_t rows, int64_t out_width, E* out, int64_t out_row, int64_t out_pixel) {
  const bool lines = by_lines(d, out_width);
  for (int64_t i = 0; i < rows; ++i, out += out_row) {
    const Taps<T> t = taps_of(d, in, in_first, in_row, in_pixel, y + i);
    if (lines && t.last > t.first) run_lines(d, t, out_width, out, out_pixel);
    else run_row(d, t, out_width, out, out_pixel);
  }
}

#define LIGHTOPS_DEPTHWISE(C, T, E)                                                                                 \
  template void depthwise_rows<C, T, E>(const Depthwise<C>&, const T*, int64_t, int64_t, int64_t, int64_t, int64_t, \
                                        int64_t, E*, int64_t, int64_t);
LIGHTOPS_DEPTHWISE(float, float, float)
LIGHTOPS_DEPTHWISE(double, double, double)
#if LIGHTOPS_PAIRS
LIGHTOPS_DEPTHWISE(float, float, bf16)
LIGHTOPS_DEPTHWISE(float, bf16, bf16)
#endif

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
