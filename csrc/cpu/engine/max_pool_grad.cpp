#include "engine/max_pool_grad.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Vectors of channels side by side: their comparisons do not wait for each other.
constexpr int kVecs = 2;

// Where the maximum of each channel is: windows are numbered in row order, columns of the cut window wide.
template <int Vecs, class C>
LIGHTOPS_INLINE void window(const PoolGrad<C>& p, int64_t left, int64_t columns, int64_t channel, int64_t count,
                            const C* dy) {
  constexpr int L = kLanes<C>;
  const C* from = p.u + left * p.pixel + channel;
  Vec<C> best[Vecs];
  Lanes<C> place[Vecs], position = {};
  for (int v = 0; v < Vecs; ++v) {
    best[v] = load_upto(from + v * L, count - v * L);
    place[v] = Lanes<C>{};
  }
  for (int64_t y = 0; y < p.rows; ++y) {
    for (int64_t x = 0; x < columns; ++x, position += 1) {
#pragma GCC unroll 2
      for (int v = 0; v < Vecs; ++v) {
        const Vec<C> value = load_upto(from + y * p.row + x * p.pixel + v * L, count - v * L);
        const Lanes<C> wins = (value > best[v]) | (value != value);
        best[v] = wins ? value : best[v];
        place[v] = wins ? position : place[v];
      }
    }
  }
  Vec<C> gradient[Vecs];
  for (int v = 0; v < Vecs; ++v) gradient[v] = load_upto(dy + v * L, count - v * L);
  position = Lanes<C>{} + static_cast<decltype(position[0] + 0)>(p.first * columns);
  C* to = p.du + left * p.channels + channel;
  for (int64_t y = p.first; y < p.last; ++y, to += p.width * p.channels) {
    for (int64_t x = 0; x < columns; ++x, position += 1) {
      C* const at = to + x * p.channels;
#pragma GCC unroll 2
      for (int v = 0; v < Vecs; ++v) {
        const Vec<C> share = place[v] == position ? gradient[v] : Vec<C>{};
        store_upto(at + v * L, load_upto(at + v * L, count - v * L) + share, count - v * L);
      }
    }
  }
}

}  // namespace

template <class C> void max_pool_grad_row(const PoolGrad<C>& p) {
  constexpr int64_t L = kLanes<C>, wide = kVecs * L;
  const C* dy = p.dy;
  for (int64_t x = 0; x < p.out_width; ++x, dy += p.channels) {
    const int64_t start = x * p.stride - p.padding, end = start + p.columns;
    const int64_t left = start < 0 ? 0 : start, columns = (end < p.width ? end : p.width) - left;
    int64_t c = 0;
    for (; c + wide <= p.channels; c += wide) window<kVecs>(p, left, columns, c, wide, dy + c);
    for (; c < p.channels; c += L) window<1>(p, left, columns, c, p.channels - c, dy + c);
  }
}

template void max_pool_grad_row<float>(const PoolGrad<float>&);
template void max_pool_grad_row<double>(const PoolGrad<double>&);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
