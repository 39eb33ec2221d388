// Pool windows over a map: the pixels of a window, and the windows over a pixel.
#pragma once

#include "places.cuh"
#include "plan.h"
#include "training/channel_pass.cuh"

namespace lightops::cuda {

struct Windows {
  View x, y;  // the map; what is of the windows' size: the pool's output, or its gradient
  Geometry window;
  float by_stride_h, by_stride_w;
  PlaceMap places;  // of the windows
};

inline Windows windows_of(const View& x, const View& y, const Window& window) {
  Windows w{};
  w.x = x;
  w.y = y;
  w.window = geometry_of(window);
  w.by_stride_h = 1.f / static_cast<float>(w.window.stride_h);
  w.by_stride_w = 1.f / static_cast<float>(w.window.stride_w);
  return w;
}

// number / divisor for numbers below 2^20 and by = 1 / divisor: half a step away from the next integer, rounding does not reach it.
constexpr int kQuotientLimit = 1 << 20;
LIGHTOPS_DEVICE int quotient(int number, float by) {
  return static_cast<int>((static_cast<float>(number) + 0.5f) * by);
}

// Why passes over windows cannot be planned, or null.
inline const char* window_refusal(const Nhwc& x, const Window& w, DType type) {
  if (const char* refusal = pass_refusal(x, type)) return refusal;
  if (x.h >= kQuotientLimit || x.w >= kQuotientLimit) return "a map of 2^20 rows or columns";
  if (w.kernel[0] * w.kernel[1] > 256) return "a window of more than 256 pixels";
  return nullptr;
}

// body(place, chunk at it) for the pixels of a window that lie inside the map.
template <class Math, class Body>
LIGHTOPS_DEVICE void each_in_window(const Windows& a, Pixel p, int channel, const Body& body) {
  const Geometry& g = a.window;
  const int y0 = p.row * g.stride_h - g.pad_h, x0 = p.column * g.stride_w - g.pad_w;
  for (int ky = 0; ky < g.kernel_h; ++ky) {
    const int y = y0 + ky;
    if (y < 0 || y >= a.x.height) continue;
#pragma unroll 3
    for (int kx = 0; kx < g.kernel_w; ++kx) {
      const int x = x0 + kx;
      if (x < 0 || x >= a.x.width) continue;
      body(ky * g.kernel_w + kx, load_chunk<Math>(a.x, pixel_offset(a.x, p.image, y * a.x.width + x), channel, true));
    }
  }
}

LIGHTOPS_DEVICE int64_t window_number(const Windows& a, Pixel p) {
  return (static_cast<int64_t>(p.image) * a.y.height + p.row) * a.y.width + p.column;
}

// body(window, place in it of pixel p): the windows over a pixel are those that start at most kernel - 1 before it.
template <class Body>
LIGHTOPS_DEVICE void each_window_over(const Windows& a, Pixel p, const Body& body) {
  const Geometry& g = a.window;
  const int y = p.row + g.pad_h, x = p.column + g.pad_w;
  const int last_y = quotient(y, a.by_stride_h), last_x = quotient(x, a.by_stride_w);
  for (int oy = last_y; oy >= 0 && y - oy * g.stride_h < g.kernel_h; --oy) {
    if (oy >= a.y.height) continue;
#pragma unroll 2
    for (int ox = last_x; ox >= 0 && x - ox * g.stride_w < g.kernel_w; --ox) {
      if (ox >= a.y.width) continue;
      body(Pixel{p.image, oy, ox, true}, (y - oy * g.stride_h) * g.kernel_w + x - ox * g.stride_w);
    }
  }
}

// Adds to `sum` what those windows hold whose maximum is pixel p: value(window, floats) gives what a window holds.
template <class Math, class Value>
LIGHTOPS_DEVICE void gather_windows(const Windows& a, Pixel p, int channel, float (&sum)[kChunkElements<Math>],
                                    const Value& value) {
  each_window_over(a, p, [&](Pixel at, int place) {
    const Places<Math> chosen = load_places<Math>(a.places, window_number(a, at), channel, a.x.channels);
    float v[kChunkElements<Math>];
    value(at, v);
#pragma unroll
    for (int e = 0; e < kChunkElements<Math>; ++e)
      sum[e] += (chosen.w[e / 4] >> (e % 4 * 8) & 255u) == static_cast<uint32_t>(place) ? v[e] : 0.f;
  });
}

}  // namespace lightops::cuda
