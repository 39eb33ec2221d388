#include "engine/depthwise_forward.h"

#include "engine/activation.h"
#include "engine/parallel.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

constexpr bool kWalks = kVecBytes == 64;  // AVX-512: 32 registers

constexpr int64_t kRing = 4;  // rows of u, a power of two; three are under a window
// Two vectors of channels are made together, two lines of a pixel, while the ring fits L1 beside what streams past.
constexpr int64_t kMost = 2, kRingBytes = 32 << 10;

// Sums of what is `shift` away from the result: the shift is the mean of the chunk's first row. The squares' sum loses at
// most as much as there are rows: that row alone has the square of its distance from the chunk's mean among the deviations.
template <class C> struct Moments {
  Vec<C> shift = {}, sum = {}, squares = {};
  bool wanted = false;

  LIGHTOPS_INLINE void add(Vec<C> y) {
    const Vec<C> off = y - shift;
    sum += off;
    squares += off * off;
  }
};

template <class C> struct Row {
  const C* u[3];  // by kernel row, at column 0; pixels a vector apart
  int64_t width, out_width, pixel;
  const C* weights;
  Vec<C> bias;
  C* out;
};

// One row of one vector. Rows: the kernel rows (bit ky) that lie inside the image; what does not is left out at compile time.
template <class C, int Stride, int Rows> LIGHTOPS_INLINE void walk(const Row<C>& r, Moments<C>& moments) {
  constexpr int L = kLanes<C>;
  Vec<C> weight[9], d[3][3];
#pragma GCC unroll 9
  for (int k = 0; k < 9; ++k) weight[k] = load(r.weights + k * kGroup);
  C* out = r.out;
  Moments<C> row;
  row.shift = moments.shift;
  const bool sums = moments.wanted;
  const auto pixel = [&](int first, int last) __attribute__((always_inline)) {
    Vec<C> sum[3] = {};  // by kernel row: three short chains instead of a long one
#pragma GCC unroll 3
    for (int ky = 0; ky < 3; ++ky) {
      if (!(Rows >> ky & 1)) continue;
#pragma GCC unroll 3
      for (int kx = first; kx < last; ++kx) sum[ky] += d[ky][kx] * weight[ky * 3 + kx];
    }
    constexpr int kFirst = Rows & 1 ? 0 : 1;
    Vec<C> y = sum[kFirst];
#pragma GCC unroll 2
    for (int ky = kFirst + 1; ky < 3; ++ky)
      if (Rows >> ky & 1) y += sum[ky];
    y += r.bias;
    store(out, y);
    out += r.pixel;
    if (sums) row.add(y);
  };
  int64_t at = 0;
  const auto next = [&](int count) __attribute__((always_inline)) {
#pragma GCC unroll 3
    for (int ky = 0; ky < 3; ++ky) {
      if (!(Rows >> ky & 1)) continue;
#pragma GCC unroll 3
      for (int j = 0; j < 3; ++j)
        d[ky][j] = j + count < 3 ? d[ky][j + count] : load(r.u[ky] + at + (j + count - 3) * L);
    }
    at += count * L;
  };
#pragma GCC unroll 3
  for (int ky = 0; ky < 3; ++ky)
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) d[ky][j] = Vec<C>{};
  next(2);
  pixel(1, 3);
  // Columns up to Stride * x + 1 are inside for x before the last, which has one less where the row ends there.
  const int64_t inside = (r.width - 2) / Stride;  // the last x with all columns
  for (int64_t x = 1; x <= inside; ++x) {
    next(Stride);
    pixel(0, 3);
  }
  if (inside + 1 < r.out_width) {
#pragma GCC unroll 3
    for (int ky = 0; ky < 3; ++ky) {
      if (!(Rows >> ky & 1)) continue;
      if (Stride == 1) {
        d[ky][0] = d[ky][1];
        d[ky][1] = d[ky][2];
      } else {
        d[ky][0] = d[ky][2];
        d[ky][1] = load(r.u[ky] + at);
      }
    }
    pixel(0, 2);
  }
  moments.sum += row.sum;
  moments.squares += row.squares;
}

template <class C, int Stride> LIGHTOPS_INLINE void walk(const Row<C>& r, int rows, Moments<C>& moments) {
  if (rows == 7) walk<C, Stride, 7>(r, moments);
  else if (rows == 6) walk<C, Stride, 6>(r, moments);
  else if (rows == 3) walk<C, Stride, 3>(r, moments);
  else walk<C, Stride, 2>(r, moments);
}

template <class C> int64_t together(const Depthwise<C>& d) {
  const int64_t bytes = kRing * kMost * d.width * kVecBytes;
  return bytes <= kRingBytes && d.channels % (kMost * kLanes<C>) == 0 ? kMost : 1;
}

// Of a finished first row: its mean is the shift, and its own sums.
template <class C> void begin(const C* row, int64_t pixel, int64_t count, Moments<C>& m) {
  Vec<C> total = {};
  for (int64_t x = 0; x < count; ++x) total += load(row + x * pixel);
  m.shift = total / splat(C(count));
  for (int64_t x = 0; x < count; ++x) m.add(load(row + x * pixel));
  m.wanted = true;
}

template <class C, int Stride>
__attribute__((noinline)) void chunk(const Depthwise<C>& d, const Prologue<C>& prologue, const C* x, int64_t x_pixel,
                                     int64_t y, int64_t rows, int64_t out_width, C* out, C* mean, C* deviation,
                                     C* scratch) {
  constexpr int64_t L = kLanes<C>;
  const int64_t line = d.width * L, side = together(d);
  const Clamp<C> clamp(prologue.act);
  scratch += kApart / int64_t(sizeof(C));
  for (int64_t c = 0; c < d.channels; c += side * L) {
    Vec<C> scale[kMost], shift[kMost];
    for (int64_t v = 0; v < side; ++v) {
      scale[v] = prologue.scale ? load(prologue.scale + c + v * L) : splat(C(1));
      shift[v] = prologue.scale ? load(prologue.shift + c + v * L) : Vec<C>{};
    }
    Moments<C> moments[kMost];
    int64_t made = -1;  // rows of u up to this one are in the ring
    for (int64_t i = 0; i < rows; ++i) {
      int mask = 0;
      for (int64_t ky = 0; ky < 3; ++ky) {
        const int64_t row = (y + i) * Stride - 1 + ky;
        if (row < 0 || row >= d.height) continue;
        mask |= 1 << ky;
        if (row <= made) continue;
        made = row;
        const C* from = x + row * d.width * x_pixel + c;
        C* to = scratch + row % kRing * side * line;
        if (side == kMost) {
          for (int64_t j = 0; j < d.width; ++j, from += x_pixel, to += L)
#pragma GCC unroll 2
            for (int64_t v = 0; v < kMost; ++v) store(to + v * line, clamp(load(from + v * L) * scale[v] + shift[v]));
        } else {
          for (int64_t j = 0; j < d.width; ++j, from += x_pixel, to += L)
            store(to, clamp(load(from) * scale[0] + shift[0]));
        }
      }
      for (int64_t v = 0; v < side; ++v) {
        const int64_t channel = c + v * L;
        Row<C> r;
        for (int64_t ky = 0; ky < 3; ++ky)
          r.u[ky] = scratch + (((y + i) * Stride - 1 + ky) & (kRing - 1)) * side * line + v * line;
        r.width = d.width;
        r.out_width = out_width;
        r.pixel = d.channels;
        r.weights = d.weights + channel / kGroup * 9 * kGroup + channel % kGroup;
        r.bias = d.bias ? load(d.bias + channel) : Vec<C>{};
        r.out = out + i * out_width * d.channels + channel;
        walk<C, Stride>(r, mask, moments[v]);
        if (i == 0 && mean) begin(r.out, d.channels, out_width, moments[v]);
      }
    }
    for (int64_t v = 0; v < side && mean; ++v) {
      const Vec<C> count = splat(C(rows * out_width)), off = moments[v].sum / count;
      store(mean + c + v * L, moments[v].shift + off);
      store(deviation + c + v * L, at_least(moments[v].squares - moments[v].sum * off, Vec<C>{}));
    }
  }
}

}  // namespace

template <class C> bool depthwise_forward_fits(const Depthwise<C>& d, Act act) {
  const Window& w = d.window;
  for (int axis = 0; axis < 2; ++axis)
    if (w.kernel[axis] != 3 || w.padding[axis] != 1 || w.dilation[axis] != 1) return false;
  return kWalks && is_clamp(act) && d.act == Act::none && w.stride[0] == w.stride[1] && w.stride[0] <= 2 &&
         d.width > 1 && d.channels % kLanes<C> == 0;
}

template <class C> int64_t depthwise_forward_scratch(const Depthwise<C>& d) {
  return kRing * together(d) * d.width * kLanes<C> + 2 * kApart / int64_t(sizeof(C));
}

template <class C>
void depthwise_forward(const Depthwise<C>& d, const Prologue<C>& prologue, const C* x, int64_t x_pixel, int64_t y,
                       int64_t rows, int64_t out_width, C* out, C* mean, C* deviation, C* scratch) {
  const auto run = d.window.stride[0] == 1 ? chunk<C, 1> : chunk<C, 2>;
  run(d, prologue, x, x_pixel, y, rows, out_width, out, mean, deviation, scratch);
}

#define LIGHTOPS_DEPTHWISE_FORWARD(C)                                                                              \
  template bool depthwise_forward_fits<C>(const Depthwise<C>&, Act);                                               \
  template int64_t depthwise_forward_scratch<C>(const Depthwise<C>&);                                              \
  template void depthwise_forward<C>(const Depthwise<C>&, const Prologue<C>&, const C*, int64_t, int64_t, int64_t, \
                                     int64_t, C*, C*, C*, C*);
LIGHTOPS_DEPTHWISE_FORWARD(float)
LIGHTOPS_DEPTHWISE_FORWARD(double)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
