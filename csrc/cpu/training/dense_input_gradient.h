// The gradient of u = act(norm(x)) under a convolution with groups == 1, chunk by chunk, and the norm's part of it.
//
// It is a product with the transposed weight (1x1 of stride 1; a pooled source spreads it over 2x2 pixels), the forward
// kernel with turned, transposed weights (3x3 of stride 1), or, for every other geometry, a product that gives all taps of
// an output pixel, which are then added up where they belong.
#pragma once

#include "engine/strip.h"
#include "training/bn_act_dense.h"

namespace lightops {
namespace LIGHTOPS_ISA {

template <class C> struct InputGradient {
  enum class Way { product, turned, scatter };

  const BnActConv2dBackwardParams& p;
  const Source<C>& source;
  const int64_t taps = p.window.kernel[0] * p.window.kernel[1], outputs = p.dy.c, channels = p.x.c,
                depth = taps * channels;
  const Way way = way_of();
  const Algo algo = way == Way::turned && p.type != DType::f64 && outputs >= 16 ? Algo::winograd2 : Algo::direct;
  const Cut cut = cut_of();  // of dx

  InputGradient(const BnActConv2dBackwardParams& params, const Source<C>& from) : p(params), source(from) {}

  Way way_of() const {
    const Window& w = p.window;
    if (source.pointwise || p.pool) return Way::product;
    const bool turns = w.kernel[0] == 3 && w.kernel[1] == 3 && w.stride[0] == 1 && w.stride[1] == 1 &&
                       w.dilation[0] == 1 && w.dilation[1] == 1 && w.padding[0] <= 2 && w.padding[1] <= 2;
    return turns ? Way::turned : Way::scatter;
  }
  int64_t pad(int axis) const { return 2 - p.window.padding[axis]; }
  int64_t turned_width() const { return p.dy.w + 2 * pad(1); }
  Cut cut_of() const {
    if (way == Way::product) return source.cut;
    if (way == Way::scatter) return Cut{p.x.n, p.x.h, p.x.w, p.x.h};
    int64_t step = kScratchBytes / 2 / int64_t(sizeof(C)) / (turned_width() * outputs) - 2;
    step = step / 2 * 2;
    if (step < 2) step = 2;
    if (step > p.x.h) step = p.x.h;
    return Cut{p.x.n, p.x.h, p.x.w, step};
  }
  int64_t panels() const { return ceil_div(channels, kPanel); }
  int64_t packed_elements() const {
    return way == Way::turned ? panels3x3_elements(channels, outputs, algo) : panels1x1_elements(depth, outputs);
  }
  // Weights for the products, from [outputs][taps][channels]; tasks share the depth, or the panels that each reads alone.
  void pack(const C* weight, int64_t task, int64_t tasks, bool by_panel, C* packed) const {
    WeightView<C> w;
    w.data = weight;
    w.outputs = way == Way::turned ? channels : depth;
    w.output_stride = 1;
    w.depth = outputs;
    w.depth_stride = depth;
    w.tap_stride[0] = 3 * channels;
    w.tap_stride[1] = channels;
    w.flip = true;
    const Share part = share(w.depth, task, tasks, 8), own = share(panels(), task, tasks);
    if (way == Way::product && by_panel) pack_whole_panels1x1(w, own.first, own.last, packed);
    else if (way == Way::turned) pack_panels3x3(w, algo, part.first, part.last, packed);
    else pack_panels1x1(w, part.first, part.last, packed);
  }

  // What a task works in: du, the rows of dy that are no chunk of the source, products or Winograd's transforms.
  struct Own { C *du, *rows, *extra; };
  Own own(Arena& arena) const {
    Own o;
    o.du = arena.take<C>((p.pool ? p.dy.w : cut.width) * cut.step * channels);
    o.rows = arena.take<C>(way == Way::turned    ? (cut.step + 2) * turned_width() * outputs
                           : way == Way::scatter ? p.dy.w * outputs
                                                 : 0);
    o.extra = arena.take<C>(way == Way::scatter  ? p.dy.w * depth
                            : way == Way::turned ? strip_scratch(turned_conv(cut.step))
                                                 : 0);
    return o;
  }

  StripConv<C> turned_conv(int64_t rows) const {
    StripConv<C> s;
    s.in_row = turned_width() * outputs;
    s.in_width = turned_width();
    s.in_rows = rows + 2;
    s.channels = outputs;
    s.window = Window{{3, 3}, {1, 1}, {0, 0}, {1, 1}};
    s.algo = algo;
    s.outputs = channels;
    s.rows = rows;
    s.width = p.x.w;
    s.out_type = compute_type<C>;
    s.out_row = p.x.w * channels;
    s.out_pixel = channels;
    return s;
  }

  void multiply(const Strip<C>& dy, int64_t outer, int64_t inner, const C* weights, int64_t columns, C* out,
                Share panel, int64_t task) const {
    Gemm<C> g;
    g.outer = outer;
    g.inner = inner;
    g.a = dy.data;
    g.a_outer = dy.row;
    g.a_inner = dy.pixel;
    g.length = outputs;
    g.b = weights;
    g.outputs = columns;
    g.out = out;
    g.out_type = compute_type<C>;
    g.out_outer = inner * columns;
    g.out_inner = columns;
    gemm_in_turn(g, panel, task, p.parallel.threads);
  }

  // du of a whole image from the taps of each output pixel.
  void scatter(int64_t n, const C* packed, const Own& o) const {
    const Window& w = p.window;
    memset(o.du, 0, size_t(p.x.h * p.x.w * channels) * sizeof(C));
    for (int64_t y = 0; y < p.dy.h; ++y) {
      Strip<C> dy{nullptr, 0, p.dy.pixel, false};
      const void* from = at(p.dy.data, p.type, n * p.dy.image + y * p.dy.row());
      if (source.in_place()) {
        dy.data = static_cast<const C*>(from);
      } else {
        load_pixels<C>(from, p.type, p.dy.pixel, p.dy.w, outputs, Prologue<C>{}, o.rows);
        dy = {o.rows, 0, outputs, true};
      }
      multiply(dy, 1, p.dy.w, packed, depth, o.extra, {0, ceil_div(depth, kPanel)}, 0);
      for (int64_t ky = 0; ky < w.kernel[0]; ++ky) {
        const int64_t row = y * w.stride[0] - w.padding[0] + ky * w.dilation[0];
        if (row < 0 || row >= p.x.h) continue;
        for (int64_t x = 0; x < p.dy.w; ++x)
          for (int64_t kx = 0; kx < w.kernel[1]; ++kx) {
            const int64_t column = x * w.stride[1] - w.padding[1] + kx * w.dilation[1];
            if (column < 0 || column >= p.x.w) continue;
            const C* tap = o.extra + x * depth + (ky * w.kernel[1] + kx) * channels;
            C* to = o.du + (row * p.x.w + column) * channels;
            for (int64_t c = 0; c < channels; c += kLanes<C>)
              store_upto(to + c, load_upto(to + c, channels - c) + load_upto(tap + c, channels - c), channels - c);
          }
      }
    }
  }

  // The norm's part of one chunk: dz to dx (or dx itself, frozen) and the sums, for channels [first, first + count).
  void mask(int64_t chunk, const NormBackward<C>& norm, const C* du, int64_t first, int64_t count, C* sums) const {
    const NormBackward<C> n = norm.from(first);
    const auto pixels = [&](int64_t x, int64_t dx, const C* gradient, int64_t step, int64_t stride, int64_t number) {
      const Pixels in{at(p.x.data, p.type, x + first), p.type, step * p.x.pixel};
      void* out = p.dx.data ? at(p.dx.data, p.type, dx + first) : nullptr;
      norm_backward<C>(n, in, {gradient + first, compute_type<C>, stride}, number, count, out, step * p.dx.pixel,
                       sums + first, channels);
    };
    if (!p.pool) {
      const bool points = source.pointwise;
      const int64_t image = cut.image(chunk), row = cut.row(chunk);
      pixels(image * p.x.image + row * (points ? p.x.pixel : p.x.row()),
             image * p.dx.image + row * (points ? p.dx.pixel : p.dx.row()), du, 1, channels, cut.pixels(chunk));
      return;
    }
    // Rows and columns behind the last whole window have no part in the average.
    const int64_t n_image = cut.image(chunk), top = 2 * cut.row(chunk), rows = 2 * cut.height(chunk);
    const int64_t last = cut.row(chunk) + cut.height(chunk) == p.dy.h ? p.x.h : top + rows;
    for (int64_t y = top; y < last; ++y) {
      const int64_t x = n_image * p.x.image + y * p.x.row(), dx = n_image * p.dx.image + y * p.dx.row();
      const bool inside = y < top + rows;
      const C* from = du + (y - top) / 2 * p.dy.w * channels;
      if (inside)
        for (int64_t i = 0; i < 2; ++i) pixels(x + i * p.x.pixel, dx + i * p.dx.pixel, from, 2, channels, p.dy.w);
      const int64_t behind = inside ? 2 * p.dy.w : 0;
      if (p.dx.data && behind < p.x.w)
        for (int64_t i = behind; i < p.x.w; ++i)
          memset(at(p.dx.data, p.type, dx + i * p.dx.pixel + first), 0, size_t(count * type_size(p.type)));
    }
  }

  // One chunk: du of panels [panel.first, panel.last), and the norm's part. `dy` is the chunk of a pointwise or pooled
  // source; the product begins at the task's own panel.
  void chunk(int64_t i, const Strip<C>& dy, const C* packed, const NormBackward<C>& norm, Share panel, const Own& o,
             C* sums, int64_t task) const {
    if (way == Way::product) {
      multiply(dy, source.outer(i), source.inner(i), packed, channels, o.du, panel, task);
      if (p.pool)
        for (int64_t k = 0; k < source.cut.pixels(i) * channels; ++k) o.du[k] *= C(0.25);
    } else if (way == Way::turned) {
      StripConv<C> c = turned_conv(cut.height(i));
      for (int64_t y = 0; y < c.in_rows; ++y)
        load_padded_row<C>(p.dy, p.type, cut.image(i), cut.row(i) - pad(0) + y, pad(1), Prologue<C>{},
                           o.rows + y * c.in_row);
      c.in = o.rows;
      c.weights = packed;
      c.out = o.du;
      c.scratch = o.extra;
      conv_strip(c, panel.first, panel.last);
    } else {
      scatter(i, packed, o);
    }
    const int64_t first = panel.first * kPanel;
    const int64_t count = (panel.last * kPanel < channels ? panel.last * kPanel : channels) - first;
    for (int k = 0; k < 2; ++k) memset(sums + k * channels + first, 0, size_t(count) * sizeof(C));
    mask(i, norm, o.du, first, count, sums);
  }
};

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
