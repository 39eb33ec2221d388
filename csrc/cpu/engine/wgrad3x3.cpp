#include "engine/wgrad3x3.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

template <class C>
void direct_strip(const Wgrad3x3<C>& w, const C* strip, const C* dy, int64_t dy_row, int64_t rows, int64_t width) {
  const int64_t padded = width + 2;
  Wgrad<C> g;
  g.outer = rows;
  g.inner = width;
  g.dy_outer = padded * w.channels;
  g.dy_inner = g.outputs = w.channels;
  g.u = dy;
  g.u_outer = dy_row;
  g.u_inner = g.channels = w.outputs;
  g.slack = true;
  g.dw_row = w.sum_row;
  for (int64_t tap = 0; tap < 9; ++tap) {
    g.dy = strip + (tap / 3 * padded + tap % 3) * w.channels;
    g.dw = w.sums + tap * w.sum_plane;
    wgrad(g);
  }
}

// A of the output transform: what a tile's 2 outputs owe to its 4 products.
template <class V> LIGHTOPS_INLINE void spread_1d(const V (&d)[2], V (&t)[4]) {
  t[0] = d[0];
  t[1] = d[0] + d[1];
  t[2] = d[0] - d[1];
  t[3] = V{} - d[1];
}

// G^T: from the domain's 4 to the kernel's 3.
template <class V> LIGHTOPS_INLINE void gather_1d(const V (&m)[4], V half, V (&w)[3]) {
  const V sum = (m[1] + m[2]) * half;
  w[0] = m[0] + sum;
  w[1] = (m[1] - m[2]) * half;
  w[2] = sum + m[3];
}

// One vector of outputs of one tile; Whole: all four pixels are there (`below`, `beside`), and the vector is full.
template <bool Whole, class C>
LIGHTOPS_INLINE void spread_tile(const C* dy, int64_t row_stride, int64_t pixel, bool below, bool beside, int64_t left,
                                 int64_t stride, C* out) {
  Vec<C> columns[2][4];
  for (int column = 0; column < 2; ++column) {
    Vec<C> d[2];
    for (int row = 0; row < 2; ++row) {
      const bool inside = (below || row == 0) && (beside || column == 0);
      d[row] = Whole || inside ? load_upto(dy + row * row_stride + column * pixel, left) : Vec<C>{};
    }
    spread_1d(d, columns[column]);
  }
  for (int row = 0; row < 4; ++row) {
    const Vec<C> d[2] = {columns[0][row], columns[1][row]};
    Vec<C> t[4];
    spread_1d(d, t);
    for (int column = 0; column < 4; ++column) store_upto(out + (row * 4 + column) * stride, t[column], left);
  }
}

template <class C>
void spread_gradients(const Wgrad3x3<C>& w, const C* dy, int64_t dy_row, int64_t rows, int64_t width, int64_t first,
                      int64_t count, C* out) {
  constexpr int L = kLanes<C>;
  const int64_t across = ceil_div(width, 2), stride = w.dy_stride();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t y = (first + i) / across * 2, x = (first + i) % across * 2;
    const C* from = dy + y * dy_row + x * w.outputs;
    const bool inside = y + 1 < rows && x + 1 < width;
    for (int64_t o = 0; o < w.outputs; o += L) {
      const int64_t left = w.outputs - o;
      C* to = out + i * w.outputs + o;
      if (inside && left >= L) spread_tile<true>(from + o, dy_row, w.outputs, true, true, L, stride, to);
      else spread_tile<false>(from + o, dy_row, w.outputs, y + 1 < rows, x + 1 < width, left, stride, to);
    }
  }
}

}  // namespace

template <class C>
void wgrad3x3_strip(Wgrad3x3<C>* w, const C* strip, const C* dy, int64_t dy_row, int64_t rows, int64_t width) {
  if (w->algo == Algo::direct) {
    direct_strip(*w, strip, dy, dy_row, rows, width);
    return;
  }
  StripConv<C> s;
  s.in = strip;
  s.in_row = (width + 2) * w->channels;
  s.in_width = width + 2;
  s.in_rows = rows + 2;
  s.channels = w->channels;
  s.rows = rows;
  s.width = width;
  C* gradients = w->scratch + 16 * w->x_stride();
  const int64_t tiles = ceil_div(rows, 2) * ceil_div(width, 2), most = w->tiles;
  for (int64_t tile = 0, count; tile < tiles; tile += count) {
    count = most - w->filled < tiles - tile ? most - w->filled : tiles - tile;
    winograd2_inputs(s, tile, count, w->x_stride(), w->scratch + w->filled * w->channels);
    spread_gradients(*w, dy, dy_row, rows, width, tile, count, gradients + w->filled * w->outputs);
    w->filled += count;
    if (w->filled == most) wgrad3x3_flush(w);
  }
}

template <class C> void wgrad3x3_flush(Wgrad3x3<C>* w) {
  if (w->filled == 0) return;
  Wgrad<C> g;
  g.inner = w->filled;
  g.dy_inner = g.outputs = w->channels;
  g.u_inner = g.channels = w->outputs;
  g.slack = true;
  g.dw_row = w->sum_row;
  for (int64_t position = 0; position < 16; ++position) {
    g.dy = w->scratch + position * w->x_stride();
    g.u = w->scratch + 16 * w->x_stride() + position * w->dy_stride();
    g.dw = w->sums + position * w->sum_plane;
    wgrad(g);
  }
  w->filled = 0;
}

template <class C> void wgrad3x3_store(const Wgrad3x3<C>& w, int64_t first, int64_t last, C* dw) {
  constexpr int L = kLanes<C>;
  const Vec<C> half = splat(C(0.5));
  C taps[9][L];
  for (int64_t c = first; c < last; ++c) {
    for (int64_t o = 0; o < w.outputs; o += L) {
      const int64_t left = w.outputs - o < L ? w.outputs - o : L;
      const C* from = w.sums + c * w.sum_row + o;
      if (w.algo == Algo::direct) {
        for (int tap = 0; tap < 9; ++tap) store(taps[tap], load_upto(from + tap * w.sum_plane, left));
      } else {
        Vec<C> columns[4][3];
        for (int column = 0; column < 4; ++column) {
          Vec<C> m[4];
          for (int row = 0; row < 4; ++row) m[row] = load_upto(from + (row * 4 + column) * w.sum_plane, left);
          gather_1d(m, half, columns[column]);
        }
        for (int row = 0; row < 3; ++row) {
          const Vec<C> m[4] = {columns[0][row], columns[1][row], columns[2][row], columns[3][row]};
          Vec<C> t[3];
          gather_1d(m, half, t);
          for (int column = 0; column < 3; ++column) store(taps[row * 3 + column], t[column]);
        }
      }
      for (int64_t i = 0; i < left; ++i)
        for (int tap = 0; tap < 9; ++tap) dw[((o + i) * w.channels + c) * 9 + tap] = taps[tap][i];
    }
  }
}

#define LIGHTOPS_WGRAD3X3(C)                                                                    \
  template void wgrad3x3_strip<C>(Wgrad3x3<C>*, const C*, const C*, int64_t, int64_t, int64_t); \
  template void wgrad3x3_flush<C>(Wgrad3x3<C>*);                                                \
  template void wgrad3x3_store<C>(const Wgrad3x3<C>&, int64_t, int64_t, C*);
LIGHTOPS_WGRAD3X3(float)
LIGHTOPS_WGRAD3X3(double)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
