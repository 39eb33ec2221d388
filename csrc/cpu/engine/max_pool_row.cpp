#include "engine/max_pool_row.h"

#include "engine/storage.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Vectors of channels pooled side by side: a window's maxima follow from each other, those of neighbours do not.
// SqueezeNet's 128 x 55 x 55 map (AVX-512): 41 us one by one, 28 us by four.
constexpr int kPoolVecs = 4;

// One window of `rows` x `columns` pixels. The maximum is taken by the hardware's own instruction, which loses a NaN that
// a number follows; `odd` turns non-zero when any value was NaN or Inf, and only then the window is taken again by the
// exact rule.
template <int Vecs, class C, class T>
LIGHTOPS_INLINE void pool_window(const C* in, int64_t in_row, int64_t in_pixel, int64_t rows, int64_t columns,
                                 int64_t count, T* out) {
  constexpr int L = kLanes<C>;
  const Vec<C> lowest = splat(-C(__builtin_inff()));
  Vec<C> best[Vecs], odd[Vecs];
  for (int v = 0; v < Vecs; ++v) {
    best[v] = lowest;
    odd[v] = Vec<C>{};
  }
  for (int64_t y = 0; y < rows; ++y) {
    for (int64_t i = 0; i < columns; ++i) {
      const C* from = in + y * in_row + i * in_pixel;
#pragma GCC unroll 4
      for (int v = 0; v < Vecs; ++v) {
        const Vec<C> x = load_upto(from + v * L, count - v * L);
        best[v] = at_least(x, best[v]);
        odd[v] += x * splat(C(0));
      }
    }
  }
  for (int v = 1; v < Vecs; ++v) odd[0] += odd[v];
  const bool exact = any_nonzero<C>(odd[0]);
#pragma GCC unroll 4
  for (int v = 0; v < Vecs; ++v) {
    const int64_t left = count - v * L;
    if (exact) {
      best[v] = lowest;
      for (int64_t y = 0; y < rows; ++y)
        for (int64_t i = 0; i < columns; ++i)
          best[v] = pool_max(best[v], load_upto(in + y * in_row + i * in_pixel + v * L, left));
    }
    store_upto(out + v * L, best[v], left);
  }
}

// The maximum of each vector of a column of Rows pixels; `total` adds up all that was read: not finite when any value is
// not (or when finite values overflow, which costs only the exact rule).
template <int Vecs, int Rows, class C>
LIGHTOPS_INLINE void pool_column(const C* in, int64_t in_row, Vec<C> (&best)[Vecs], Vec<C> (&total)[Vecs]) {
#pragma GCC unroll 4
  for (int v = 0; v < Vecs; ++v) {
    best[v] = load(in + v * kLanes<C>);
    total[v] += best[v];
#pragma GCC unroll 3
    for (int y = 1; y < Rows; ++y) {
      const Vec<C> x = load(in + y * in_row + v * kLanes<C>);
      best[v] = at_least(x, best[v]);
      total[v] += x;
    }
  }
}

// The usual window, 3 x 3 at stride 2, all of it inside the map: neighbours share a column, so six values are read for
// an output instead of nine. False: a value was not finite, and the exact rule is to be asked.
template <int Vecs, class C, class T>
bool pool_windows3x3(const C* in, int64_t in_row, int64_t in_pixel, int64_t windows, T* out, int64_t out_pixel) {
  Vec<C> left[Vecs], total[Vecs] = {};
  pool_column<Vecs, 3>(in, in_row, left, total);
  for (int64_t x = 0; x < windows; ++x, in += 2 * in_pixel, out += out_pixel) {
    Vec<C> middle[Vecs], right[Vecs];
    pool_column<Vecs, 3>(in + in_pixel, in_row, middle, total);
    pool_column<Vecs, 3>(in + 2 * in_pixel, in_row, right, total);
#pragma GCC unroll 4
    for (int v = 0; v < Vecs; ++v) {
      store(out + v * kLanes<C>, at_least(right[v], at_least(middle[v], left[v])));
      left[v] = right[v];
    }
  }
  for (int v = 1; v < Vecs; ++v) total[0] += total[v];
  return !any_nonzero<C>(total[0] * splat(C(0)));
}

// Where the windows of a row lie; in: its first row, out: its first output.
template <class C, class T> struct PoolWindows {
  const C* in;
  int64_t in_row, in_pixel, rows, in_width;
  int64_t kernel, stride, pad;
  T* out;
  int64_t out_pixel;

  // Outputs [first, last), channels [c, end).
  void windows(int64_t first, int64_t last, int64_t c, int64_t end) const {
    constexpr int64_t L = kLanes<C>, wide = kPoolVecs * L;
    for (int64_t x = first; x < last; ++x) {
      const int64_t left = x * stride - pad;
      const int64_t start = left < 0 ? 0 : left, stop = left + kernel < in_width ? left + kernel : in_width;
      const C* from = in + start * in_pixel;
      T* to = out + x * out_pixel;
      int64_t i = c;
      for (; i + wide <= end; i += wide)
        pool_window<kPoolVecs>(from + i, in_row, in_pixel, rows, stop - start, wide, to + i);
      for (; i < end; i += L) pool_window<1>(from + i, in_row, in_pixel, rows, stop - start, end - i, to + i);
    }
  }

  template <int Vecs> void windows3x3(int64_t first, int64_t last, int64_t c) const {
    if (!pool_windows3x3<Vecs>(in + (first * stride - pad) * in_pixel + c, in_row, in_pixel, last - first,
                               out + first * out_pixel + c, out_pixel))
      windows(first, last, c, c + Vecs * kLanes<C>);
  }
};

template <class C, class T>
void pool_row(const C* in, int64_t in_row, int64_t in_pixel, int64_t rows, int64_t in_width, int64_t channels,
              int64_t kernel, int64_t stride, int64_t pad, int64_t out_width, T* out, int64_t out_pixel) {
  constexpr int64_t L = kLanes<C>, wide = kPoolVecs * L;
  const PoolWindows<C, T> r{in, in_row, in_pixel, rows, in_width, kernel, stride, pad, out, out_pixel};
  if (kernel != 3 || rows != 3 || stride != 2 || in_width + pad < 3) return r.windows(0, out_width, 0, channels);
  const int64_t inside = (in_width + pad - 3) / 2 + 1;  // windows whose right edge is on the map
  const int64_t first = ceil_div(pad, 2), last = inside < out_width ? inside : out_width;
  if (first >= last) return r.windows(0, out_width, 0, channels);
  int64_t c = 0;
  for (; c + wide <= channels; c += wide) r.template windows3x3<kPoolVecs>(first, last, c);
  for (; c + L <= channels; c += L) r.template windows3x3<1>(first, last, c);
  if (c < channels) r.windows(first, last, c, channels);
  r.windows(0, first, 0, channels);
  r.windows(last, out_width, 0, channels);
}

}  // namespace

template <class C>
void max_pool_row(const C* in, int64_t in_row, int64_t in_pixel, int64_t rows, int64_t in_width, int64_t channels,
                  int64_t kernel, int64_t stride, int64_t pad, int64_t out_width, void* out, DType type,
                  int64_t out_pixel) {
  Storage<C>::with(type, [&](auto* tag) {
    pool_row<C>(in, in_row, in_pixel, rows, in_width, channels, kernel, stride, pad, out_width,
                static_cast<decltype(tag)>(out), out_pixel);
  });
}

template void max_pool_row<float>(const float*, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                                  int64_t, void*, DType, int64_t);
template void max_pool_row<double>(const double*, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                                   int64_t, int64_t, void*, DType, int64_t);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
