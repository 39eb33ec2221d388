#include "engine/wgrad.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

constexpr int kVecs = 2;

template <class C> struct Strip {
  int64_t outer, inner;
  const C* dy;
  const C* u;
  C* dw;
  int64_t columns;  // valid ones, from 1 to Vecs * lanes
};

// Rows x Vecs accumulators in registers over all pixels of the strip; dy by broadcast, u by vector. `Whole`: u may be
// read in whole vectors.
template <class C, int Rows, int Vecs, bool Whole> void micro_kernel(const Wgrad<C>& g, const Strip<C>& t) {
  constexpr int L = kLanes<C>;
  Vec<C> sum[Rows][Vecs];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < Vecs; ++v) sum[r][v] = Vec<C>{};
  for (int64_t y = 0; y < t.outer; ++y) {
    const C* dy = t.dy + y * g.dy_outer;
    const C* u = t.u + y * g.u_outer;
    for (int64_t x = 0; x < t.inner; ++x, dy += g.dy_inner, u += g.u_inner) {
      Vec<C> value[Vecs];
#pragma GCC unroll 2
      for (int v = 0; v < Vecs; ++v) {
        value[v] = Whole ? load(u + v * L) : load_upto(u + v * L, t.columns - v * L);
        hold_vector(value[v]);
      }
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const Vec<C> gradient = splat(dy[r]);
#pragma GCC unroll 2
        for (int v = 0; v < Vecs; ++v) sum[r][v] += gradient * value[v];
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < Vecs; ++v) {
      C* to = t.dw + r * g.dw_row + v * L;
      const int64_t count = t.columns - v * L;
      store_upto(to, load_upto(to, count) + sum[r][v], count);
    }
  }
}

template <class C> using Kernel = void (*)(const Wgrad<C>&, const Strip<C>&);

template <class C, int Rows> struct Table {
  static void fill(Kernel<C> (*table)[kVecs][2]) {
    table[Rows][0][0] = micro_kernel<C, Rows, 1, false>;
    table[Rows][0][1] = micro_kernel<C, Rows, 1, true>;
    table[Rows][1][0] = micro_kernel<C, Rows, 2, false>;
    table[Rows][1][1] = micro_kernel<C, Rows, 2, true>;
    Table<C, Rows - 1>::fill(table);
  }
};
template <class C> struct Table<C, 0> {
  static void fill(Kernel<C> (*)[kVecs][2]) {}
};

template <class C> struct Kernels {
  Kernel<C> table[kMaxRows + 1][kVecs][2] = {};
  Kernels() { Table<C, kMaxRows>::fill(table); }
};

// One run of pixels: a panel of u stays in L1 while the tiles of dy pass.
template <class C> void run(const Wgrad<C>& g, int64_t y, int64_t outer, int64_t x, int64_t inner) {
  static const Kernels<C> kernels;
  constexpr int L = kLanes<C>;
  constexpr int64_t kColumns = kVecs * L;
  const int64_t height = ceil_div(g.outputs, ceil_div(g.outputs, kMaxRows));  // tiles of equal height
  for (int64_t column = 0; column < g.channels; column += kColumns) {
    const int64_t left = g.channels - column;
    const int64_t columns = left < kColumns ? left : kColumns;
    const int vecs = columns > L ? 2 : 1;
    const bool whole = g.slack || columns == vecs * L;
    Strip<C> t;
    t.outer = outer;
    t.inner = inner;
    t.columns = columns;
    t.u = g.u + column + y * g.u_outer + x * g.u_inner;
    for (int64_t o = 0; o < g.outputs; o += height) {
      const int64_t rows = g.outputs - o < height ? g.outputs - o : height;
      t.dy = g.dy + o + y * g.dy_outer + x * g.dy_inner;
      t.dw = g.dw + o * g.dw_row + column;
      kernels.table[rows][vecs - 1][whole](g, t);
    }
  }
}

// Rows that follow each other without a gap in both operands are one long row.
template <class C> Wgrad<C> joined(Wgrad<C> g) {
  if (g.dy_outer == g.inner * g.dy_inner && g.u_outer == g.inner * g.u_inner) {
    g.inner *= g.outer;
    g.outer = 1;
  }
  return g;
}

}  // namespace

template <class C> void wgrad(const Wgrad<C>& given) {
  const Wgrad<C> g = joined(given);
  if (g.inner == 0) return;
  if (g.outer == 1) {
    for (int64_t x = 0; x < g.inner; x += kWgradPixels)
      run(g, 0, 1, x, g.inner - x < kWgradPixels ? g.inner - x : kWgradPixels);
    return;
  }
  const int64_t rows = kWgradPixels / g.inner > 1 ? kWgradPixels / g.inner : 1;
  for (int64_t y = 0; y < g.outer; y += rows) run(g, y, g.outer - y < rows ? g.outer - y : rows, 0, g.inner);
}

template <class C> void merge_parts(C* parts, int64_t count, int64_t stride, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; i += kLanes<C>) {
    const int64_t left = last - i;
    Vec<C> sum = load_upto(parts + i, left);
    for (int64_t k = 1; k < count; ++k) sum += load_upto(parts + k * stride + i, left);
    store_upto(parts + i, sum, left);
  }
}

template void wgrad<float>(const Wgrad<float>&);
template void wgrad<double>(const Wgrad<double>&);
template void merge_parts<float>(float*, int64_t, int64_t, int64_t, int64_t);
template void merge_parts<double>(double*, int64_t, int64_t, int64_t, int64_t);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
