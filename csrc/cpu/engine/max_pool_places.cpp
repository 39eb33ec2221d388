#include "engine/max_pool_places.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Vectors of channels side by side: their comparisons do not wait for each other.
constexpr int kVecs = 4;

template <class C> struct Bytes { typedef uint8_t type __attribute__((vector_size(kLanes<C>))); };

template <class C> LIGHTOPS_INLINE Lanes<C> load_places(const uint8_t* p, int64_t count) {
  typename Bytes<C>::type b = {};
  memcpy(&b, p, size_t(count < kLanes<C> ? count : kLanes<C>));
  return __builtin_convertvector(b, Lanes<C>);
}
template <class C> LIGHTOPS_INLINE void store_places(uint8_t* p, Lanes<C> v, int64_t count) {
  const auto b = __builtin_convertvector(v, typename Bytes<C>::type);
  memcpy(p, &b, size_t(count < kLanes<C> ? count : kLanes<C>));
}
template <class C> LIGHTOPS_INLINE Lanes<C> lanes_of(int64_t value) {
  return Lanes<C>{} + static_cast<decltype(Lanes<C>{}[0] + 0)>(value);
}

// The columns of a window that lie inside the map, and the place of the first pixel that does.
struct Columns {
  int64_t left, count, skipped;
  Columns(const PoolRow& p, int64_t x) {
    const int64_t start = x * p.stride - p.padding, end = start + p.kernel[1];
    left = start < 0 ? 0 : start;
    count = (end < p.width ? end : p.width) - left;
    skipped = left - start;
  }
};

template <int Vecs, class C>
LIGHTOPS_INLINE void find(const PoolRow& p, const Columns& columns, const C* from, int64_t count, C* out,
                          uint8_t* places) {
  constexpr int L = kLanes<C>;
  Vec<C> best[Vecs];
  Lanes<C> place[Vecs];
  const int64_t top = (p.first_row() - p.top) * p.kernel[1] + columns.skipped, rows = p.last_row() - p.first_row();
  for (int v = 0; v < Vecs; ++v) {
    best[v] = load_upto(from + v * L, count - v * L);
    place[v] = lanes_of<C>(top);
  }
  for (int64_t y = 0; y < rows; ++y) {
    Lanes<C> position = lanes_of<C>(top + y * p.kernel[1]);
    for (int64_t x = 0; x < columns.count; ++x, position += 1) {
#pragma GCC unroll 4
      for (int v = 0; v < Vecs; ++v) {
        const Vec<C> value = load_upto(from + (y * p.width + x) * p.channels + v * L, count - v * L);
        const Lanes<C> wins = (value > best[v]) | (value != value);
        best[v] = wins ? value : best[v];
        place[v] = wins ? position : place[v];
      }
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < Vecs; ++v) {
    store_upto(out + v * L, best[v], count - v * L);
    store_places<C>(places + v * L, place[v], count - v * L);
  }
}

template <int Vecs, class C>
LIGHTOPS_INLINE void bring(const PoolRow& p, const Columns& columns, const C* dout, const C* out, const uint8_t* places,
                           int64_t count, int64_t first, int64_t last, C* du) {
  constexpr int L = kLanes<C>;
  Vec<C> gradient[Vecs];
  Lanes<C> place[Vecs];
#pragma GCC unroll 4
  for (int v = 0; v < Vecs; ++v) {
    const int64_t left = count - v * L;
    gradient[v] = load_upto(dout + v * L, left);
    if (out) gradient[v] = load_upto(out + v * L, left) <= Vec<C>{} ? Vec<C>{} : gradient[v];
    place[v] = load_places<C>(places + v * L, left);
  }
  for (int64_t y = first; y < last; ++y) {
    Lanes<C> position = lanes_of<C>((y - p.top) * p.kernel[1] + columns.skipped);
    for (int64_t x = 0; x < columns.count; ++x, position += 1) {
      C* const at = du + ((y - first) * p.width + x) * p.channels;
#pragma GCC unroll 4
      for (int v = 0; v < Vecs; ++v) {
        const Vec<C> share = place[v] == position ? gradient[v] : Vec<C>{};
        store_upto(at + v * L, load_upto(at + v * L, count - v * L) + share, count - v * L);
      }
    }
  }
}

}  // namespace

template <class C> void max_pool_places(const PoolRow& p, const C* in, C* out, uint8_t* places) {
  constexpr int64_t L = kLanes<C>, wide = kVecs * L;
  for (int64_t x = 0; x < p.out_width; ++x, out += p.channels, places += p.channels) {
    const Columns columns(p, x);
    const C* from = in + columns.left * p.channels;
    int64_t c = 0;
    for (; c + wide <= p.channels; c += wide) find<kVecs>(p, columns, from + c, wide, out + c, places + c);
    for (; c < p.channels; c += L) find<1>(p, columns, from + c, p.channels - c, out + c, places + c);
  }
}

template <class C>
void unpool_places(const PoolRow& p, const C* dout, int64_t dout_pixel, const C* out, int64_t out_pixel,
                   const uint8_t* places, int64_t first, int64_t last, C* du) {
  constexpr int64_t L = kLanes<C>, wide = kVecs * L;
  const int64_t from = first > p.first_row() ? first : p.first_row(), to = last < p.last_row() ? last : p.last_row();
  du += (from - first) * p.width * p.channels;
  for (int64_t x = 0; x < p.out_width; ++x, dout += dout_pixel, out += out ? out_pixel : 0, places += p.channels) {
    const Columns columns(p, x);
    C* const at = du + columns.left * p.channels;
    int64_t c = 0;
    for (; c + wide <= p.channels; c += wide)
      bring<kVecs>(p, columns, dout + c, out ? out + c : out, places + c, wide, from, to, at + c);
    for (; c < p.channels; c += L)
      bring<1>(p, columns, dout + c, out ? out + c : out, places + c, p.channels - c, from, to, at + c);
  }
}

#define LIGHTOPS_POOL_PLACES(C)                                                                                 \
  template void max_pool_places<C>(const PoolRow&, const C*, C*, uint8_t*);                                     \
  template void unpool_places<C>(const PoolRow&, const C*, int64_t, const C*, int64_t, const uint8_t*, int64_t, \
                                 int64_t, C*);
LIGHTOPS_POOL_PLACES(float)
LIGHTOPS_POOL_PLACES(double)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
