// A row of a 3x3 depthwise convolution, one vector of channels, its weights in registers: where few channels lie together,
// blocks of outputs that go along the channels (depthwise.cpp) end before they have paid for their beginning. MobileNetV1's
// first block, of 32 channels, 285 to 276 us on one thread. Pixels that lie further apart share few sets of L1: with 128
// channels and more the blocks are faster (128 x 56 x 56: 461 us, by lines 473).
#pragma once

#include "engine/activation.h"
#include "engine/depthwise.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// The address of pixel j of a row: every multiple of the pixel up to 8 in x86's addressing modes from four registers.
struct Pixels {
  int64_t one, three, five, seven;  // bytes

  explicit Pixels(int64_t bytes) : one(bytes), three(3 * bytes), five(5 * bytes), seven(7 * bytes) {}
  LIGHTOPS_INLINE void hold() {
    hold_integer(one);
    hold_integer(three);
    hold_integer(five);
    hold_integer(seven);
  }
  LIGHTOPS_INLINE int64_t times(int j) const {
    return j == 0 ? 0 : j == 3 ? three : j == 5 ? five : j == 6 ? 2 * three : j == 7 ? seven : j * one;
  }
};

template <int N> struct Number { static constexpr int value = N; };

// One output row: `in` is the first kernel row that lies inside the image, at column 0.
template <class C, class T, class E> struct Line {
  const T* in;
  int64_t step, pixel;  // between kernel rows, between pixels
  const C* weights;  // of that kernel row
  Vec<C> shift;
  Clamp<C> clamp;
  E* out;
  int64_t out_pixel, columns;  // more than four
  bool cut;  // the last output's third column is outside
};

template <class C, class T, class E, int Stride, int Rows> void line_3(const Line<C, T, E>& l) {
  constexpr int kColumns = 4;
  Pixels pixels(l.pixel * int64_t(sizeof(T)));
  Vec<C> weight[Rows * 3];
#pragma GCC unroll 9
  for (int k = 0; k < Rows * 3; ++k) weight[k] = load(l.weights + k * kGroup);
  const char* row[Rows];
#pragma GCC unroll 3
  for (int y = 0; y < Rows; ++y) row[y] = reinterpret_cast<const char*>(l.in + y * l.step);
  E* out = l.out;
  // Copies: what is stored may be part of *l for all the compiler knows, and was loaded again for every output (a fifth of
  // the time).
  const int64_t out_pixel = l.out_pixel;
  const Vec<C> shift = l.shift;
  const Clamp<C> clamp = l.clamp;

  // `count` outputs. Of their columns those from `skip` to `end` are inside; row[] points at column `skip`.
  const auto outputs = [&](auto count, auto skip, auto end) __attribute__((always_inline)) {
    constexpr int kCount = decltype(count)::value, kSkip = decltype(skip)::value, kEnd = decltype(end)::value;
    pixels.hold();
    Vec<C> sum[kCount];
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) sum[i] = Vec<C>{};
#pragma GCC unroll 3
    for (int y = 0; y < Rows; ++y) {
#pragma GCC unroll 9
      for (int j = kSkip; j < kEnd; ++j) {
        Vec<C> v = load(reinterpret_cast<const T*>(row[y] + pixels.times(j - kSkip)));
        hold_vector(v);
#pragma GCC unroll 4
        for (int i = 0; i < kCount; ++i) {
          const int kx = j - i * Stride;
          if (kx >= 0 && kx < 3) sum[i] += v * weight[y * 3 + kx];
        }
      }
      row[y] += pixels.times(kCount * Stride - kSkip);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) store(out + i * out_pixel, clamp(sum[i] + shift));
    out += kCount * out_pixel;
  };
  const auto last = [&](auto count) __attribute__((always_inline)) {
    constexpr int kSpan = (decltype(count)::value - 1) * Stride + 3;
    if (l.cut) outputs(count, Number<0>{}, Number<kSpan - 1>{});
    else outputs(count, Number<0>{}, Number<kSpan>{});
  };
  constexpr int kSpan = (kColumns - 1) * Stride + 3;
  outputs(Number<kColumns>{}, Number<1>{}, Number<kSpan>{});
  int64_t left = l.columns - kColumns;
  for (; left > kColumns; left -= kColumns) outputs(Number<kColumns>{}, Number<0>{}, Number<kSpan>{});
  if (left == 4) last(Number<4>{});
  else if (left == 3) last(Number<3>{});
  else if (left == 2) last(Number<2>{});
  else last(Number<1>{});
}

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
