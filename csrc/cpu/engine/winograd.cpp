#include "engine/activation.h"
#include "engine/parallel.h"
#include "engine/strip.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// One-dimensional transforms, applied to columns and then rows. `d` are the tile's inputs, `t` the transformed ones;
// `m` the products, `y` the outputs.
template <class V> LIGHTOPS_INLINE void input_1d(const V (&d)[4], V (&t)[4]) {
  t[0] = d[0] - d[2];
  t[1] = d[1] + d[2];
  t[2] = d[2] - d[1];
  t[3] = d[1] - d[3];
}
template <class V> LIGHTOPS_INLINE void output_1d(const V (&m)[4], V (&y)[2]) {
  y[0] = m[0] + m[1] + m[2];
  y[1] = m[1] - m[2] - m[3];
}
template <class V> LIGHTOPS_INLINE void input_1d(const V (&d)[6], V (&t)[6]) {
  const V even = d[4] - 4 * d[2], odd = d[3] - 4 * d[1];
  const V even2 = d[4] - d[2], odd2 = 2 * (d[3] - d[1]);
  t[0] = 4 * d[0] - 5 * d[2] + d[4];
  t[1] = even + odd;
  t[2] = even - odd;
  t[3] = even2 + odd2;
  t[4] = even2 - odd2;
  t[5] = 4 * d[1] - 5 * d[3] + d[5];
}
template <class V> LIGHTOPS_INLINE void output_1d(const V (&m)[6], V (&y)[4]) {
  const V sum1 = m[1] + m[2], difference1 = m[1] - m[2];
  const V sum2 = m[3] + m[4], difference2 = m[3] - m[4];
  y[0] = m[0] + sum1 + sum2;
  y[1] = difference1 + 2 * difference2;
  y[2] = sum1 + 4 * sum2;
  y[3] = difference1 + 8 * difference2 + m[5];
}

template <bool Value> struct Flag { static constexpr bool value = Value; };

template <class C, int M> struct Plan {
  static constexpr int kIn = M + 2;
  static constexpr int kPositions = kIn * kIn;
  static constexpr int64_t kProduct = kMaxRows * kPanel;  // of a group of tiles, one position

  const StripConv<C>& s;
  int64_t tiles_across = ceil_div(s.width, M);
  int64_t tiles = ceil_div(s.rows, M) * tiles_across;
  int64_t whole_tiles = s.rows / M * tiles_across;  // those with all their rows
  int64_t chunk;         // tiles whose transformed inputs are alive at once
  int64_t input_stride;  // between positions of the transformed input

  explicit Plan(const StripConv<C>& strip) : s(strip) {
    // The transformed inputs of a chunk stay in L2 beside the weights that stream past; whole multiples of the product's
    // rows leave no ragged group.
    const int64_t fit = kScratchBytes / int64_t(sizeof(C)) / (kPositions * s.channels);
    chunk = fit / kMaxRows * kMaxRows;
    if (chunk < kMaxRows) chunk = kMaxRows;
    if (chunk > tiles) chunk = tiles;
    // One vector more than needed: power-of-two strides would put all positions into the same cache sets.
    input_stride = round_up(chunk * s.channels, kLanes<C>) + kLanes<C>;
  }

  int64_t scratch() const { return kPositions * (input_stride + kProduct) + kLanes<C>; }
};

// One vector of channels of one tile. Whole: all of it lies in the strip, and no value needs a test of its own.
template <class C, int M, bool Whole>
LIGHTOPS_INLINE void input_tile(const C* in, const StripConv<C>& s, int64_t rows, int64_t columns, int64_t left,
                                int64_t stride, C* out) {
  constexpr int kIn = Plan<C, M>::kIn;
  Vec<C> half[kIn][kIn];  // columns transformed: half[i][column]
  for (int column = 0; column < kIn; ++column) {
    Vec<C> d[kIn], t[kIn];
    for (int row = 0; row < kIn; ++row) {
      const C* from = in + row * s.in_row + column * s.channels;
      d[row] = Whole ? load(from) : row < rows && column < columns ? load_upto(from, left) : Vec<C>{};
    }
    input_1d(d, t);
    for (int row = 0; row < kIn; ++row) half[row][column] = t[row];
  }
  for (int row = 0; row < kIn; ++row) {
    Vec<C> t[kIn];
    input_1d(half[row], t);
    for (int column = 0; column < kIn; ++column) {
      C* to = out + (row * kIn + column) * stride;
      if (Whole) store(to, t[column]);
      else store_upto(to, t[column], left);
    }
  }
}

template <class C, int M>
void transform_inputs(const StripConv<C>& s, int64_t first, int64_t count, int64_t stride, C* out) {
  constexpr int kIn = Plan<C, M>::kIn, L = kLanes<C>;
  const int64_t tiles_across = ceil_div(s.width, M);
  int64_t y = first / tiles_across * M, x = first % tiles_across * M;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t rows = s.in_rows - y < kIn ? s.in_rows - y : kIn;
    const int64_t columns = s.in_width - x < kIn ? s.in_width - x : kIn;
    const C* in = s.in + y * s.in_row + x * s.channels;
    const bool inside = rows == kIn && columns == kIn;
    for (int64_t c = 0; c < s.channels; c += L) {
      const int64_t left = s.channels - c;
      if (inside && left >= L) input_tile<C, M, true>(in + c, s, rows, columns, L, stride, out + i * s.channels + c);
      else input_tile<C, M, false>(in + c, s, rows, columns, left, stride, out + i * s.channels + c);
    }
    x += M;
    if (x >= s.width) {
      x = 0;
      y += M;
    }
  }
}

// One vector of outputs of one tile, rows x columns of them. Plain: a whole vector, at most clamped from below, without a
// residual. `doubt` stays 0 while every output is finite (it also turns where finite ones overflow, which costs time only).
template <class C, int M, bool Plain, class T>
LIGHTOPS_INLINE void output_tile(const C* products, int64_t stride, const StripConv<C>& s, Vec<C> bias,
                                 const Clamp<C>& clamp, int64_t rows, int64_t columns, int64_t left, T* out,
                                 const T* residual, Vec<C>* doubt) {
  constexpr int kIn = Plan<C, M>::kIn;
  Vec<C> half[M][kIn];
  for (int column = 0; column < kIn; ++column) {
    Vec<C> m[kIn], y[M];
    for (int row = 0; row < kIn; ++row) m[row] = load(products + (row * kIn + column) * stride);
    output_1d(m, y);
    for (int row = 0; row < M; ++row) half[row][column] = y[row];
  }
  Vec<C> sum = {};
  for (int row = 0; row < rows; ++row) {
    Vec<C> y[M];
    output_1d(half[row], y);
    for (int column = 0; column < columns; ++column) {
      Vec<C> v = y[column] + bias;
      sum += v;
      T* to = out + row * s.out_row + column * s.out_pixel;
      if (Plain) {
        store(to, at_least(v, clamp.low));
        continue;
      }
      v = is_clamp(s.act) ? clamp(v) : smooth<C>(v, s.act);
      if (residual) v += load_upto(residual + row * s.residual_row + column * s.residual_pixel, left);
      store_upto(to, v, left);
    }
  }
  *doubt += sum * splat(C(0));
}

// Turns the products of a group of tiles and one panel into outputs; false when a value is not finite.
template <class C, int M, class T>
bool transform_outputs(const Plan<C, M>& p, int64_t first, int64_t count, int64_t panel, const C* products) {
  constexpr int L = kLanes<C>;
  const StripConv<C>& s = p.s;
  const Clamp<C> clamp(s.act);
  const bool plain = !s.residual && (s.act == Act::none || s.act == Act::relu);
  const int64_t base = panel * kPanel;
  Vec<C> doubt = {};
  int64_t y0 = first / p.tiles_across * M, x0 = first % p.tiles_across * M;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t rows = s.rows - y0 < M ? s.rows - y0 : M;
    const int64_t columns = s.width - x0 < M ? s.width - x0 : M;
    T* out = static_cast<T*>(s.out) + y0 * s.out_row + x0 * s.out_pixel + base;
    const T* residual =
        s.residual ? static_cast<const T*>(s.residual) + y0 * s.residual_row + x0 * s.residual_pixel + base : nullptr;
    for (int64_t c = 0; c < kPanel && base + c < s.outputs; c += L) {
      const int64_t left = s.outputs - base - c;
      const C* from = products + i * kPanel + c;
      const Vec<C> bias = s.bias ? load_upto(s.bias + base + c, left) : Vec<C>{};
      const auto tile = [&](auto is_plain, int64_t tile_rows, int64_t tile_columns) __attribute__((always_inline)) {
        output_tile<C, M, decltype(is_plain)::value>(from, p.kProduct, s, bias, clamp, tile_rows, tile_columns, left,
                                                     out + c, residual ? residual + c : nullptr, &doubt);
      };
      // Numbers of rows and columns that the compiler knows. An odd map has an unfinished tile at the end of every row, and
      // one at 13 x 13 has a quarter of them; asked for at every value, sizes cost SqueezeNet's kernels 0.8%.
      if (!plain || left < L) tile(Flag<false>(), rows, columns);
      else if (rows == M && columns == M) tile(Flag<true>(), M, M);
      else if (rows == M && columns == M - 1) tile(Flag<true>(), M, M - 1);
      else if (rows == M - 1 && columns == M) tile(Flag<true>(), M - 1, M);
      else tile(Flag<true>(), rows, columns);
    }
    x0 += M;
    if (x0 >= s.width) {
      x0 = 0;
      y0 += M;
    }
  }
  return !any_nonzero<C>(doubt);
}

template <class C, int M>
bool finish(const Plan<C, M>& p, int64_t first, int64_t count, int64_t panel, const C* products) {
  if (p.s.out_type == DType::bf16) return transform_outputs<C, M, bf16>(p, first, count, panel, products);
  if (p.s.out_type == DType::f16) return transform_outputs<C, M, f16>(p, first, count, panel, products);
  return transform_outputs<C, M, C>(p, first, count, panel, products);
}
template <int M>
bool finish(const Plan<double, M>& p, int64_t first, int64_t count, int64_t panel, const double* products) {
  return transform_outputs<double, M, double>(p, first, count, panel, products);
}

// The products of a group of tiles at all positions with one or two vectors of outputs: [position][tile][32]. The output
// transform follows at once and finds them in L1 (SqueezeNet's 16 -> 64 channels at 55 x 55, products and outputs: 143 us
// when a chunk's products went through L2, 130 so). Weights come from L2 for every group, which costs nothing measurable.
template <class C> struct Product {
  const C* inputs;
  int64_t input_stride;
  const C* weights;
  int64_t weight_stride;
  int64_t channels;
  int64_t positions;
  C* out;
  int64_t out_stride;
};

constexpr int kVecs = 2;

template <class C, int Rows, int Vecs> void product(const Product<C>& p) {
  constexpr int L = kLanes<C>;
  const int64_t channels = p.channels;
  for (int64_t position = 0; position < p.positions; ++position) {
    const C* const a = p.inputs + position * p.input_stride;
    const C* b = p.weights + position * p.weight_stride;
    const C* next = position + 1 < p.positions ? b + p.weight_stride : b;
    C* const out = p.out + position * p.out_stride;
    for (int64_t first = 0; first < channels; first += kRun<C>) {
      const int64_t last = channels - first < kRun<C> ? channels : first + kRun<C>;
      Vec<C> sum[Rows][Vecs];
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < Vecs; ++v) sum[r][v] = Vec<C>{};
      for (int64_t k = first; k < last; ++k) {
        Vec<C> weight[Vecs];
#pragma GCC unroll 2
        for (int v = 0; v < Vecs; ++v) {
          weight[v] = load(b + v * L);
          __builtin_prefetch(next + v * L);
        }
        b += kPanel;
        next += kPanel;
        const C* row = a + k;
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
          const Vec<C> x = splat(*row);
          row += channels;
          hold_pointer(row);
#pragma GCC unroll 2
          for (int v = 0; v < Vecs; ++v) sum[r][v] += x * weight[v];
        }
      }
      if (first > 0) {
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
          for (int v = 0; v < Vecs; ++v) sum[r][v] += load(out + r * kPanel + v * L);
      }
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < Vecs; ++v) store(out + r * kPanel + v * L, sum[r][v]);
    }
  }
}

template <class C> using ProductOf = void (*)(const Product<C>&);
template <class C, int Rows> struct Products {
  static void fill(ProductOf<C> (*table)[kVecs]) {
    table[Rows][0] = product<C, Rows, 1>;
    table[Rows][1] = product<C, Rows, 2>;
    Products<C, Rows - 1>::fill(table);
  }
};
template <class C> struct Products<C, 0> {
  static void fill(ProductOf<C> (*)[kVecs]) {}
};
template <class C> struct ProductTable {
  ProductOf<C> of[kMaxRows + 1][kVecs] = {};
  ProductTable() { Products<C, kMaxRows>::fill(of); }
};

template <class C, int M> void run(const StripConv<C>& s, int64_t first, int64_t last) {
  static const ProductTable<C> table;
  constexpr int kPositions = Plan<C, M>::kPositions;
  const Plan<C, M> p(s);
  const int64_t matrix = round_up(s.outputs, kPanel) * s.channels;
  C* inputs = s.scratch;
  C* products = s.scratch + kPositions * p.input_stride;

  Product<C> g;
  g.input_stride = p.input_stride;
  g.weight_stride = matrix;
  g.channels = s.channels;
  g.out_stride = p.kProduct;

  bool finite = true;
  for (int64_t tile = 0; tile < p.tiles; tile += p.chunk) {
    const int64_t count = p.tiles - tile < p.chunk ? p.tiles - tile : p.chunk;
    transform_inputs<C, M>(s, tile, count, p.input_stride, inputs);
    // Tiles of an unfinished last row are groups of their own: no output of theirs reads the last row of positions
    // (SqueezeNet's maps are all odd: 0.7% of its kernels' time).
    const int64_t to_whole = p.whole_tiles > tile ? p.whole_tiles - tile : 0,
                  whole = to_whole < count ? to_whole : count;
    const int64_t groups = ceil_div(whole, kMaxRows), all_groups = groups + ceil_div(count - whole, kMaxRows);
    for (int64_t panel = first; panel < last; ++panel) {
      const int64_t left = s.outputs - panel * kPanel < kPanel ? s.outputs - panel * kPanel : kPanel;
      for (int64_t group = 0; group < all_groups; ++group) {
        const bool last_row = group >= groups;
        Share tiles =
            last_row ? share(count - whole, group - groups, all_groups - groups) : share(whole, group, groups);
        if (last_row) tiles = {whole + tiles.first, whole + tiles.last};
        g.positions = last_row ? kPositions - Plan<C, M>::kIn : kPositions;
        g.inputs = inputs + tiles.first * s.channels;
        for (int64_t column = 0; column < left; column += kVecs * kLanes<C>) {
          g.weights = s.weights + panel * s.channels * kPanel + column;
          g.out = products + column;
          table.of[tiles.size()][left - column > kLanes<C> ? 1 : 0](g);
        }
        finite &= finish(p, tile + tiles.first, tiles.size(), panel, products);
      }
    }
  }
  if (!finite) {
    StripConv<C> again = s;
    again.weights = s.weights + kPositions * matrix;
    gemm(direct_product(again), first, last);
  }
}

}  // namespace

template <class C> int64_t winograd_scratch(Algo algo, int64_t channels, int64_t rows, int64_t width) {
  StripConv<C> s;
  s.channels = channels;
  s.rows = rows;
  s.width = width;
  return algo == Algo::winograd4 ? Plan<C, 4>(s).scratch() : Plan<C, 2>(s).scratch();
}

template <class C> void winograd_strip(const StripConv<C>& s, int64_t first, int64_t last) {
  if (s.algo == Algo::winograd4) run<C, 4>(s, first, last);
  else run<C, 2>(s, first, last);
}

template <class C>
void winograd2_inputs(const StripConv<C>& s, int64_t first, int64_t count, int64_t stride, C* out) {
  transform_inputs<C, 2>(s, first, count, stride, out);
}

template void winograd2_inputs<float>(const StripConv<float>&, int64_t, int64_t, int64_t, float*);
template void winograd2_inputs<double>(const StripConv<double>&, int64_t, int64_t, int64_t, double*);
template int64_t winograd_scratch<float>(Algo, int64_t, int64_t, int64_t);
template int64_t winograd_scratch<double>(Algo, int64_t, int64_t, int64_t);
template void winograd_strip<float>(const StripConv<float>&, int64_t, int64_t);
template void winograd_strip<double>(const StripConv<double>&, int64_t, int64_t);

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
