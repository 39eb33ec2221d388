// Plain loops in double: the specification that the self-test holds the kernels to.
#pragma once

#include <algorithm>
#include <limits>

#include "harness.h"

namespace selftest {

using lightops::Act;
using lightops::Window;

inline double activate(Act act, double v) {
  switch (act) {
    case Act::none: return v;
    case Act::relu: return std::max(v, 0.0);
    case Act::relu6: return std::min(std::max(v, 0.0), 6.0);
    case Act::hardswish: return v * std::min(std::max(v + 3, 0.0), 6.0) / 6;
    case Act::silu: return v / (1 + std::exp(-v));
  }
  return v;
}

inline Map affine(Map m, const std::vector<double>& scale, const std::vector<double>& shift, Act act) {
  for (size_t i = 0; i < m.values.size(); ++i) {
    const size_t k = i % size_t(m.c);
    m.values[i] = activate(act, m.values[i] * (scale.empty() ? 1 : scale[k]) + (shift.empty() ? 0 : shift[k]));
  }
  return m;
}

inline Window window(int64_t kernel, int64_t stride, int64_t padding, int64_t dilation = 1) {
  Window w;
  for (int axis = 0; axis < 2; ++axis)
    w.kernel[axis] = kernel, w.stride[axis] = stride, w.padding[axis] = padding, w.dilation[axis] = dilation;
  return w;
}

// Sum over the window of weight * x; depthwise when the weights have one input channel for many of x.
inline Map conv(const Map& x, const Weights& w, const Window& g = {}) {
  Map out(x.n, g.out(0, x.h), g.out(1, x.w), w.o);
  const bool depthwise = w.i == 1 && w.o == x.c && x.c > 1;
  for (int64_t n = 0; n < out.n; ++n)
    for (int64_t y = 0; y < out.h; ++y)
      for (int64_t xx = 0; xx < out.w; ++xx)
        for (int64_t o = 0; o < w.o; ++o)
          for (int64_t ky = 0; ky < w.kh; ++ky)
            for (int64_t kx = 0; kx < w.kw; ++kx) {
              const int64_t iy = y * g.stride[0] - g.padding[0] + ky * g.dilation[0];
              const int64_t ix = xx * g.stride[1] - g.padding[1] + kx * g.dilation[1];
              if (iy < 0 || iy >= x.h || ix < 0 || ix >= x.w) continue;
              if (depthwise) {
                out.at(n, y, xx, o) += x.at(n, iy, ix, o) * w.at(o, 0, ky, kx);
                continue;
              }
              for (int64_t i = 0; i < w.i; ++i) out.at(n, y, xx, o) += x.at(n, iy, ix, i) * w.at(o, i, ky, kx);
            }
  return out;
}

inline Map average_pool2(const Map& x) {
  Map out(x.n, x.h / 2, x.w / 2, x.c);
  for (int64_t n = 0; n < out.n; ++n)
    for (int64_t y = 0; y < out.h; ++y)
      for (int64_t xx = 0; xx < out.w; ++xx)
        for (int64_t k = 0; k < out.c; ++k)
          out.at(n, y, xx, k) = (x.at(n, 2 * y, 2 * xx, k) + x.at(n, 2 * y, 2 * xx + 1, k) +
                                 x.at(n, 2 * y + 1, 2 * xx, k) + x.at(n, 2 * y + 1, 2 * xx + 1, k)) /
                                4;
  return out;
}

inline Map max_pool(const Map& x, const Window& g) {
  Map out(x.n, g.out(0, x.h), g.out(1, x.w), x.c);
  for (int64_t n = 0; n < out.n; ++n)
    for (int64_t y = 0; y < out.h; ++y)
      for (int64_t xx = 0; xx < out.w; ++xx)
        for (int64_t k = 0; k < out.c; ++k) {
          double best = -std::numeric_limits<double>::infinity();
          for (int64_t ky = 0; ky < g.kernel[0]; ++ky)
            for (int64_t kx = 0; kx < g.kernel[1]; ++kx) {
              const int64_t iy = y * g.stride[0] - g.padding[0] + ky, ix = xx * g.stride[1] - g.padding[1] + kx;
              if (iy >= 0 && iy < x.h && ix >= 0 && ix < x.w) best = std::max(best, x.at(n, iy, ix, k));
            }
          out.at(n, y, xx, k) = best;
        }
  return out;
}

inline Map mean_of_pixels(const Map& x) {
  Map out(x.n, 1, 1, x.c);
  for (int64_t n = 0; n < x.n; ++n)
    for (int64_t k = 0; k < x.c; ++k) {
      double sum = 0;
      for (int64_t p = 0; p < x.h * x.w; ++p) sum += x.values[size_t((n * x.h * x.w + p) * x.c + k)];
      out.at(n, 0, 0, k) = sum / double(x.h * x.w);
    }
  return out;
}

inline Map concat(const Map& a, const Map& b) {
  Map out(a.n, a.h, a.w, a.c + b.c);
  for (int64_t p = 0; p < a.n * a.h * a.w; ++p) {
    std::copy_n(&a.values[size_t(p * a.c)], a.c, &out.values[size_t(p * out.c)]);
    std::copy_n(&b.values[size_t(p * b.c)], b.c, &out.values[size_t(p * out.c + a.c)]);
  }
  return out;
}

inline Map add(Map a, const Map& b) {
  for (size_t i = 0; i < a.values.size(); ++i) a.values[i] += b.values[i];
  return a;
}

}  // namespace selftest
