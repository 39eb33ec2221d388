#include "engine/gemm.h"

#include "engine/activation.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

constexpr int kVecs = 2;

// One step along k: what of A a lane of every column is multiplied with, and that many values of k.
template <class E> struct Step {
  using Operand = Vec<E>;
  static constexpr int kValues = 1;
  static LIGHTOPS_INLINE Operand columns(const E* b) { return load(b); }
  static LIGHTOPS_INLINE Operand broadcast(const E* a) { return splat(*a); }
  static LIGHTOPS_INLINE Vec<E> multiply_add(Vec<E> sum, Operand x, Operand weight) { return sum + x * weight; }
};
#if LIGHTOPS_PAIRS
template <> struct Step<bf16> {
  using Operand = VecI;
  static constexpr int kValues = 2;
  static LIGHTOPS_INLINE Operand columns(const bf16* b) {
    Operand pairs;
    memcpy(&pairs, b, sizeof pairs);
    return pairs;
  }
  static LIGHTOPS_INLINE Operand broadcast(const bf16* a) {
    int32_t pair;
    memcpy(&pair, a, sizeof pair);
    return Operand{} + pair;
  }
  static LIGHTOPS_INLINE VecF multiply_add(VecF sum, Operand x, Operand weight) {
    return VecF(_mm512_dpbf16_ps(__m512(sum), __m512bh(x), __m512bh(weight)));
  }
};
#endif

// A vector and a half of columns: the halves of two rows are one vector, 21 multiply-adds a step for 14 rows instead of 28
// (MobileNetV2's projections to 24 channels: 118 to 88 us). Columns of the half are there twice.
constexpr int kHalf = 3;  // in place of a number of vectors
template <class E, class T> constexpr bool kHalves = false;
template <> constexpr bool kHalves<float, float> = kVecBytes == 64;

// Quarters of a vector: those of two rows by turns, so that the two are blended, which any unit does; halves side by side
// are a shuffle to GCC, for which only units are free that multiply.
template <class C> constexpr int kQuarter = kLanes<C> / 4;
template <class C, int... J> LIGHTOPS_INLINE Vec<C> by_turns(Vec<C> a, Vec<C> b, Sequence<J...>) {
  return shuffle<C, (J / kQuarter<C> % 2 ? kLanes<C> + J : J)...>(a, b);
}
template <class C, int... J> LIGHTOPS_INLINE Vec<C> twice(Vec<C> a, Sequence<J...>) {
  constexpr int Q = kQuarter<C>;
  return shuffle<C, (J / Q / 2 * Q + J % Q)...>(a, a);
}
template <class C, int Row, int... J> LIGHTOPS_INLINE Vec<C> row_of(Vec<C> a, Sequence<J...>) {
  constexpr int Q = kQuarter<C>;
  return shuffle<C, ((J / Q * 2 + Row) * Q + J % Q) % kLanes<C>...>(a, a);
}

// One tile: up to kMaxRows rows of A against kVecs vectors of output channels; one vector where no more are left.
template <class E> struct Tile {
  using C = Compute<E>;

  const E* a;
  const E* b;         // first column of the tile inside its panel
  Vec<C> bias[kVecs];
  Clamp<C> clamp;
  bool biased, low, high;  // what of bias and clamp does anything
  void* out;               // of the kernel's storage type, like residual
  int64_t out_stride;
  const void* residual;    // null: none
  int64_t residual_stride;
  // A line a step is brought into L2 from here on: the next panel's weights. In a whole network they come from L3 or
  // memory every time, and the hardware's streams stop at each 4 KiB page.
  const char* ahead;
  int64_t ahead_step;
  int64_t columns;    // valid columns, from 1 to kVecs * lanes
};

// The sums of a tile: how many, of how many vectors of columns, and which of these sum i belongs to.
template <int Rows, int Vecs> struct SumsOf {
  static constexpr int count = Rows * Vecs, vectors = Vecs;
  static constexpr int column(int i) { return i % Vecs; }
};
template <int Rows> struct SumsOf<Rows, kHalf> {
  static constexpr int count = Rows + (Rows + 1) / 2, vectors = 2;
  static constexpr int column(int i) { return i < Rows ? 0 : 1; }
};

// A is read by broadcast straight from its rows, B streams from the packed panel; the accumulators never leave
// registers. Rows is a compile-time number so that the loops over the tile unroll completely. T is what is stored.
template <class E, class T, int Rows, int Vecs> void micro_kernel(const Gemm<E>& g, const Tile<E>& t) {
  using C = Compute<E>;
  using K = Step<E>;
  constexpr int L = kLanes<C>;
  using Sums = SumsOf<Rows, Vecs>;
  constexpr int N = Sums::count;
  Vec<C> sum[N];
#pragma GCC unroll 28
  for (int i = 0; i < N; ++i) sum[i] = Vec<C>{};

  Vec<C> earlier[N];  // the sums of the runs before this one, in memory
  bool flushed = false;
  const E* b = t.b;
  const char* ahead = t.ahead;
  int64_t run = 0;
  for (int64_t s = 0; s < g.segments; ++s) {
    for (int64_t tap = 0; tap < g.taps; ++tap) {
      const E* a = t.a + s * g.segment_stride + tap * g.tap_stride;
      for (int64_t first = 0, steps; first < g.length; first += steps, a += steps) {
        if (run >= kRun<E>) {
#pragma GCC unroll 28
          for (int i = 0; i < N; ++i) {
            earlier[i] = flushed ? earlier[i] + sum[i] : sum[i];
            sum[i] = Vec<C>{};
          }
          flushed = true;
          run = 0;
        }
        steps = g.length - first < kRun<E> ? g.length - first : kRun<E>;
        run += steps;
        for (int64_t k = 0; k < steps; k += K::kValues) {
          typename K::Operand weight[Sums::vectors];
#pragma GCC unroll 2
          for (int v = 0; v < Sums::vectors; ++v) weight[v] = K::columns(b + v * L * K::kValues);
          b += kPanel * K::kValues;
          __builtin_prefetch(ahead, 0, 2);
          ahead += t.ahead_step;
          if constexpr (Vecs == kHalf) {
            const auto both = twice<C>(weight[1], EachLane<C>{});
#pragma GCC unroll 8
            for (int r = 0; r < Rows; r += 2) {
              Vec<C> x = K::broadcast(a + r * g.a_inner + k);
              hold_vector(x);
              Vec<C> y = r + 1 < Rows ? K::broadcast(a + (r + 1) * g.a_inner + k) : x;
              hold_vector(y);
              sum[r] = K::multiply_add(sum[r], x, weight[0]);
              if (r + 1 < Rows) sum[r + 1] = K::multiply_add(sum[r + 1], y, weight[0]);
              sum[Rows + r / 2] = K::multiply_add(sum[Rows + r / 2], by_turns<C>(x, y, EachLane<C>{}), both);
            }
          } else {
#pragma GCC unroll 16
            for (int r = 0; r < Rows; ++r) {
              const typename K::Operand x = K::broadcast(a + r * g.a_inner + k);
#pragma GCC unroll 2
              for (int v = 0; v < Vecs; ++v) sum[r * Vecs + v] = K::multiply_add(sum[r * Vecs + v], x, weight[v]);
            }
          }
        }
      }
    }
  }
  if (flushed) {
#pragma GCC unroll 28
    for (int i = 0; i < N; ++i) sum[i] += earlier[i];
  }

  // The bias comes last: started from it, every partial sum would be rounded at its size (49 u instead of 2 u of the
  // sum's own size where a folded batch norm has a large mean).
  if (t.biased) {
#pragma GCC unroll 28
    for (int i = 0; i < N; ++i) sum[i] += t.bias[Sums::column(i)];
  }
  // The clamp's sides are skipped where they do nothing: at K = 16 (SqueezeNet) both together took a tenth of the tile.
  if (t.low) {
#pragma GCC unroll 28
    for (int i = 0; i < N; ++i) sum[i] = at_least(sum[i], t.clamp.low);
  }
  if (t.high) {
#pragma GCC unroll 28
    for (int i = 0; i < N; ++i) sum[i] = at_most(sum[i], t.clamp.high);
  }

  T* out = static_cast<T*>(t.out);
  const T* residual = static_cast<const T*>(t.residual);
  const int64_t out_stride = t.out_stride, residual_stride = t.residual_stride;
  if constexpr (Vecs == kHalf) {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Vec<C> pair = sum[Rows + r / 2];
      Vec<C> half = r % 2 ? row_of<C, 1>(pair, EachLane<C>{}) : row_of<C, 0>(pair, EachLane<C>{});
      if (residual) {
        sum[r] += load(residual + r * residual_stride);
        half += load_upto(residual + r * residual_stride + L, L / 2);
      }
      store(out + r * out_stride, sum[r]);
      store_upto(out + r * out_stride + L, half, L / 2);
    }
    return;
  } else {
    // Apart from the general case, so that none of its questions is asked for every vector of a whole tile.
    if (t.columns == Vecs * L) {
      if (residual) {
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
          for (int v = 0; v < Vecs; ++v) sum[r * Vecs + v] += load(residual + r * residual_stride + v * L);
      }
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < Vecs; ++v) store(out + r * out_stride + v * L, sum[r * Vecs + v]);
      return;
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < Vecs; ++v) {
        const int64_t count = t.columns - v * L;
        if (count <= 0) continue;
        Vec<C> y = sum[r * Vecs + v];
        if (residual) y += load_upto(residual + r * residual_stride + v * L, count);
        store_upto(out + r * out_stride + v * L, y, count);
      }
    }
  }
}

template <class E> using Kernel = void (*)(const Gemm<E>&, const Tile<E>&);

template <class E, class T, int Rows> struct Table {
  static void fill(Kernel<E> (*table)[kHalf]) {
    table[Rows][0] = micro_kernel<E, T, Rows, 1>;
    table[Rows][1] = micro_kernel<E, T, Rows, 2>;
    if constexpr (kHalves<E, T>) table[Rows][2] = micro_kernel<E, T, Rows, kHalf>;
    Table<E, T, Rows - 1>::fill(table);
  }
};
template <class E, class T> struct Table<E, T, 0> {
  static void fill(Kernel<E> (*)[kHalf]) {}
};

template <class E, class T> struct Kernels {
  Kernel<E> table[kMaxRows + 1][kHalf] = {};
  Kernels() { Table<E, T, kMaxRows>::fill(table); }
};

// What a sum still needs when the output is not the compute type, or the activation is not a clamp.
template <class C, class T>
void finish_rows(const C* sums, int64_t sum_stride, int64_t rows, int64_t columns, Act act, T* out, int64_t out_stride,
                 const T* residual, int64_t residual_stride) {
  constexpr int L = kLanes<C>;
  const Clamp<C> clamp(act);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; c += L) {
      Vec<C> y = load(sums + r * sum_stride + c);
      y = is_clamp(act) ? clamp(y) : smooth<C>(y, act);
      if (residual) y += load_upto(residual + r * residual_stride + c, columns - c);
      store_upto(out + r * out_stride + c, y, columns - c);
    }
  }
}

template <bool First, class A, class B> struct Chosen { using type = A; };
template <class A, class B> struct Chosen<false, A, B> { using type = B; };
template <bool First, class A, class B> using Choose = typename Chosen<First, A, B>::type;

template <class E, class T>
void run_panels(const Gemm<E>& g, int64_t first, int64_t last) {
  using C = Compute<E>;
  // What the micro-kernel stores itself: the compute type, and bfloat16 where the product reads it.
  constexpr bool kStores = sizeof(T) == sizeof(C) || sizeof(T) == sizeof(E);
  using Stored = Choose<kStores, T, C>;
  static const Kernels<E, Stored> storing;
  static const Kernels<E, C> summing;
  constexpr int L = kLanes<C>;
  constexpr int kColumns = kVecs * L;
  const bool direct = kStores && is_clamp(g.act);
  const Act act = direct ? g.act : Act::none;
  const auto& table = direct ? storing.table : summing.table;
  const int64_t depth = g.depth(), steps = depth / Step<E>::kValues;
  // Tiles of equal height (13 + 12 + 12 + 12 rather than 14 + 14 + 14 + 7): a short tile waits on its own sums.
  const int64_t tiles = ceil_div(g.inner, kMaxRows);
  const int64_t height = tiles ? g.inner / tiles : 0, taller = g.inner - tiles * height;
  C sums[kMaxRows * kColumns];

  for (int64_t panel = first; panel < last; ++panel) {
    for (int64_t column = panel * kPanel; column < panel * kPanel + kPanel && column < g.outputs; column += kColumns) {
      const int64_t left = g.outputs - column;
      const int64_t columns = left < kColumns ? left : kColumns;
      const bool half = direct && kHalves<E, T> && columns == L + L / 2;
      const int vecs = columns > L ? 2 : 1;
      const E* weights = g.b + panel * depth * kPanel + column % kPanel * Step<E>::kValues;
      Tile<E> tile{nullptr,
                   weights,
                   {},
                   Clamp<C>(act),
                   g.bias != nullptr,
                   act != Act::none,
                   act == Act::relu6,
                   sums,
                   kColumns,
                   nullptr,
                   0,
                   reinterpret_cast<const char*>(weights),
                   0,
                   columns};
      for (int v = 0; v < kVecs; ++v) {
        const int64_t count = columns - v * L;
        if (g.bias && count > 0) tile.bias[v] = load_upto(g.bias + column + v * L, count);
      }
      if constexpr (kHalves<E, T>)
        if (half) tile.bias[1] = twice<C>(tile.bias[1], EachLane<C>{});
      for (int64_t i = 0; i < g.outer; ++i) {
        tile.b = weights + i * g.b_outer;
        for (int64_t done = 0, k = 0; k < tiles; ++k) {
          const int64_t rows = height + (k < taller ? 1 : 0);
          tile.a = g.a + i * g.a_outer + done * g.a_inner;
          // The next matrix or panel is 128 bytes a step: two tiles fetch all of it.
          const E* next = g.b_outer ? (i + 1 < g.outer ? tile.b + g.b_outer : nullptr)
                                    : (panel + 1 < last ? tile.b + depth * kPanel : g.ahead);
          const int64_t index = (g.b_outer ? 0 : i * tiles) + k;
          tile.ahead =
              reinterpret_cast<const char*>(next ? next : tile.b) + (index < 2 ? index * steps * kCacheLine : 0);
          tile.ahead_step = next && index < 2 ? kCacheLine : 0;
          T* out = static_cast<T*>(g.out) + i * g.out_outer + done * g.out_inner + column;
          const T* residual =
              g.residual ? static_cast<const T*>(g.residual) + i * g.residual_outer + done * g.residual_inner + column
                         : nullptr;
          if (direct) {
            tile.out = out;
            tile.out_stride = g.out_inner;
            tile.residual = residual;
            tile.residual_stride = g.residual_inner;
            table[rows][half ? kHalf - 1 : vecs - 1](g, tile);
          } else {
            tile.columns = vecs * L;  // the packed panel is zero filled, so whole vectors are safe
            table[rows][vecs - 1](g, tile);
            finish_rows<C, T>(sums, kColumns, rows, columns, g.act, out, g.out_inner, residual, g.residual_inner);
          }
          done += rows;
        }
      }
    }
  }
}

// Outer rows that follow each other without a gap are one long row: no short tile at the end of each.
template <class E> Gemm<E> joined(Gemm<E> g) {
  if (g.b_outer == 0 && g.a_outer == g.inner * g.a_inner && g.out_outer == g.inner * g.out_inner &&
      (!g.residual || g.residual_outer == g.inner * g.residual_inner)) {
    g.inner *= g.outer;
    g.outer = 1;
  }
  return g;
}

}  // namespace

template <> void gemm<float>(const Gemm<float>& given, int64_t first, int64_t last) {
  const Gemm<float> g = joined(given);
  if (g.out_type == DType::bf16) run_panels<float, bf16>(g, first, last);
  else if (g.out_type == DType::f16) run_panels<float, f16>(g, first, last);
  else run_panels<float, float>(g, first, last);
}

#if LIGHTOPS_PAIRS
template <> void gemm<bf16>(const Gemm<bf16>& given, int64_t first, int64_t last) {
  const Gemm<bf16> g = joined(given);
  if (g.out_type == DType::bf16) run_panels<bf16, bf16>(g, first, last);
  else run_panels<bf16, float>(g, first, last);
}
#endif

template <> void gemm<double>(const Gemm<double>& g, int64_t first, int64_t last) {
  run_panels<double, double>(joined(g), first, last);
}

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
