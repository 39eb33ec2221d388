// The weight gradient of a convolution with groups == 1: dw[o][tap][c] = sum over pixels of dy[o] * u[c] at the tap.
#pragma once

#include "engine/wgrad.h"
#include "training/bn_act_dense.h"

namespace lightops {
namespace LIGHTOPS_ISA {

template <class C> struct WeightGradient {
  const BnActConv2dBackwardParams& p;
  const int64_t taps = p.window.kernel[0] * p.window.kernel[1], outputs = p.dy.c, channels = p.x.c, depth = taps * channels;
  const int64_t size = outputs * depth;
  // Few input channels (stems) would leave the vectors of the product empty: then the outputs lie along them, and dw is
  // [depth][outputs].
  const bool exchanged = channels < 16 && outputs >= 16;
  Source<C> source;
  int64_t parts;  // of the pixels, each with a dw of its own
  int64_t block;  // channels of dw that are summed up at a time, when there is one part: what stays in L2

  WeightGradient(const BnActConv2dBackwardParams& params, const Source<C>& from) : p(params), source(from) {
    const int64_t panels = ceil_div(channels, kPanel), most = wgrad_parts(source.cut.total(), size);
    parts = most >= 8 || panels < 4 ? most : 1;
    if (parts > source.cut.count()) parts = source.cut.count();
    block = channels;
    if (parts > 1 || exchanged) return;
    block = kScratchBytes / 2 / int64_t(sizeof(C)) / (outputs * taps) / kPanel * kPanel;
    if (block < kPanel) block = kPanel;
    // A block's strip is narrow: longer chunks, so that dw is not updated more often than the product itself does.
    if (source.pointwise && source.cut.step < kWgradPixels) source.cut.step = kWgradPixels;
  }

  bool by_block() const { return parts == 1 && !exchanged; }
  int64_t blocks() const { return ceil_div(channels, block); }

  struct Own { C *u, *dy; };
  Own own(Arena& arena) const {
    Own o;
    o.u = arena.take<C>(source.elements(block));
    o.dy = arena.take<C>(source.in_place() ? 0 : source.cut.step * source.cut.width * outputs);
    return o;
  }

  void clear(int64_t first, int64_t count, C* dw) const {
    if (exchanged || count == channels) memset(dw, 0, size_t(size) * sizeof(C));
    else
      for (int64_t k = 0; k < outputs * taps; ++k) memset(dw + k * channels + first, 0, size_t(count) * sizeof(C));
  }

  // Adds a chunk's part of channels [first, first + count) to dw.
  void chunk(int64_t i, const Prologue<C>& prologue, const Strip<C>& dy, int64_t first, int64_t count, C* scratch, C* dw) const {
    const Strip<C> u = source.load(i, prologue, first, count, scratch);
    const Window& w = p.window;
    Wgrad<C> g;
    g.outer = source.outer(i);
    g.inner = source.inner(i);
    for (int64_t t = 0; t < taps; ++t) {
      const int64_t ky = t / w.kernel[1], kx = t % w.kernel[1];
      const C* from = u.data + ky * w.dilation[0] * u.row + kx * w.dilation[1] * u.pixel;
      const int64_t outer = w.stride[0] * u.row, inner = w.stride[1] * u.pixel;
      if (exchanged) {
        const bool run = w.dilation[1] == 1;  // the taps of a kernel row are neighbours
        if (run && kx) continue;
        g.dy = from, g.dy_outer = outer, g.dy_inner = inner, g.outputs = run ? w.kernel[1] * channels : channels;
        g.u = dy.data, g.u_outer = dy.row, g.u_inner = dy.pixel, g.channels = outputs, g.slack = dy.slack;
        g.dw = dw + t * channels * outputs;
        g.dw_row = outputs;
      } else {
        g.dy = dy.data, g.dy_outer = dy.row, g.dy_inner = dy.pixel, g.outputs = outputs;
        g.u = from, g.u_outer = outer, g.u_inner = inner, g.channels = count, g.slack = u.slack;
        g.dw = dw + t * channels + first;
        g.dw_row = depth;
      }
      wgrad(g);
    }
  }

  // dw as it is summed up is the result already.
  bool direct() const { return parts == 1 && !exchanged && taps == 1 && p.type == compute_type<C>; }

  // Merges the parts and writes outputs [first, last) as [outputs][channels][taps] in the storage type.
  void store(C* dw, int64_t first, int64_t last) const {
    Storage<C>::with(p.type, [&](auto* tag) {
      auto* out = static_cast<decltype(tag)>(p.dweight);
      for (int64_t o = first; o < last; ++o)
        for (int64_t t = 0; t < taps; ++t)
          for (int64_t c = 0; c < channels; ++c)
            set_value(out + (o * channels + c) * taps + t,
                      dw[exchanged ? (t * channels + c) * outputs + o : (o * taps + t) * channels + c]);
    });
  }
};

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
