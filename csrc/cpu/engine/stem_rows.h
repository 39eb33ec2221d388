// The walk over a stem's rows: a plain strip convolution, or one with a pool behind it, strip by strip, so that the
// full-size activation never exists.
#pragma once

#include "engine/parallel.h"
#include "engine/rows.h"
#include "engine/strip.h"
#include "lightops/stem.h"

namespace lightops {
namespace LIGHTOPS_ISA {

// E: what the convolution reads, see Gemm.
template <class E> struct StemRows {
  using C = Compute<E>;

  const StemParams& p;
  const Window& w = p.window;
  int64_t tasks = p.parallel.threads;
  int64_t padded_width = p.x.w + 2 * w.padding[1];
  int64_t channels = pitch<E>(p.x.c);
  int64_t in_row = padded_width * channels;
  int64_t span = w.dilation[0] * (w.kernel[0] - 1) + 1;
  int64_t conv_height = w.out(0, p.x.h), conv_width = w.out(1, p.x.w);
  int64_t conv_row = conv_width * p.out.c;
  int64_t rows;  // final rows of a strip

  explicit StemRows(const StemParams& params) : p(params) {
    const int64_t fit = kScratchBytes / int64_t(sizeof(C));
    if (p.pooled) {
      const int64_t conv_rows = fit / (conv_row + w.stride[0] * in_row);
      rows = (conv_rows - p.pool.kernel[0]) / p.pool.stride[0] + 1;
    } else {
      rows = (fit / in_row - span) / w.stride[0] + 1;
    }
    if (rows < 1) rows = 1;
    if (rows > p.out.h) rows = p.out.h;
  }

  int64_t conv_rows(int64_t out_rows) const {
    return p.pooled ? (out_rows - 1) * p.pool.stride[0] + p.pool.kernel[0] : out_rows;
  }
  int64_t input_rows(int64_t conv_rows) const { return (conv_rows - 1) * w.stride[0] + span; }

  struct Scratch {
    E* input;
    C* conv;
  };
  Scratch scratch(Arena& arena) const {
    Scratch s;
    s.input = arena.take<E>(input_rows(conv_rows(rows)) * in_row);
    s.conv = p.pooled ? arena.take<C>(conv_rows(rows) * conv_row) : nullptr;
    return s;
  }
  int64_t task_bytes() const {
    Arena arena;
    scratch(arena);
    return apart(arena.used(), tasks);
  }

  // Convolution rows [y, y + count) of image n to `out`.
  void convolve(int64_t n, int64_t y, int64_t count, E* input, void* out, DType out_type, int64_t out_row,
                int64_t out_pixel) const {
    const int64_t top = y * w.stride[0] - w.padding[0];
    for (int64_t i = 0; i < input_rows(count); ++i) {
      if (p.planar)
        load_planar_row<E>(at(p.x.data, p.type, n * p.x.c * p.x.h * p.x.w), p.type, p.x.c, p.x.h, p.x.w, top + i,
                           w.padding[1], input + i * in_row);
      else load_padded_row<E>(p.x, p.type, n, top + i, w.padding[1], Prologue<C>{}, input + i * in_row);
    }
    StripConv<E> s;
    s.in = input;
    s.in_row = in_row;
    s.in_width = padded_width;
    s.in_rows = input_rows(count);
    s.channels = channels;
    s.window = w;
    s.weights = static_cast<const E*>(p.weight);
    s.bias = static_cast<const C*>(p.bias);
    s.outputs = p.out.c;
    s.act = p.act;
    s.rows = count;
    s.width = conv_width;
    s.out = out;
    s.out_type = out_type;
    s.out_row = out_row;
    s.out_pixel = out_pixel;
    conv_strip(s);
  }

  // Final rows [first, last) of image n: calls pool(first convolution row of the window row, before it is cut to the map;
  // the first of those that are inside; final row). Rows that the next strip needs again are kept.
  template <class F> void pooled_rows(int64_t n, int64_t first, int64_t last, const Scratch& s, const F& pool) const {
    int64_t have = 0, start = 0;  // convolution rows [start, have) are in s.conv
    for (int64_t y = first; y < last; y += rows) {
      const int64_t count = rows < last - y ? rows : last - y;
      const int64_t top = y * p.pool.stride[0] - p.pool.padding[0];
      const int64_t from = top < 0 ? 0 : top;
      const int64_t end = top + conv_rows(count) < conv_height ? top + conv_rows(count) : conv_height;
      const bool reuse = have > from;
      if (reuse) memmove(s.conv, s.conv + (from - start) * conv_row, size_t((have - from) * conv_row) * sizeof(C));
      const int64_t next = reuse ? have : from;
      if (end > next)
        convolve(n, next, end - next, s.input, s.conv + (next - from) * conv_row, compute_type<C>, conv_row, p.out.c);
      start = from;
      have = end;
      for (int64_t i = 0; i < count; ++i) {
        const int64_t window = top + i * p.pool.stride[0];
        pool(window, s.conv + ((window < 0 ? 0 : window) - start) * conv_row, y + i);
      }
    }
  }
};

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
