// The weight gradient of a convolution with groups == 1: dw[o][tap][c] = sum over pixels of dy[o] * u[c] at the tap.
#pragma once

#include "engine/wgrad.h"
#include "training/bn_act_dense.h"

namespace lightops {
namespace LIGHTOPS_ISA {

template <class C> struct WeightGradient {
  const BnActConv2dBackwardParams& p;
  const int64_t taps = p.window.kernel[0] * p.window.kernel[1], outputs = p.dy.c, channels = p.x.c,
                depth = taps * channels;
  const int64_t size = outputs * depth;
  // Few input channels (stems) would leave the vectors of the product empty: then the outputs lie along them, and dw is
  // [depth][outputs].
  const bool exchanged = channels < 16 && outputs >= 16;
  Source<C> source;
  int64_t parts;  // of the pixels, each with a dw of its own
  // dw is summed up a block of outputs x channels at a time: with one part, what stays in L2, else all of it.
  int64_t block_outputs = outputs, block_channels = channels;

  WeightGradient(const BnActConv2dBackwardParams& params, const Source<C>& from) : p(params), source(from) {
    parts = wgrad_parts(source.cut.total(), size);
    while (parts > source.cut.count()) parts /= 2;
    if (parts >= 8 || exchanged || channels < 4 * kPanel) return;
    // Some eight blocks at least, to share; a value of u is read for every block of outputs, one of dy for every block of
    // channels.
    parts = 1;
    if (block_outputs > kBlock) block_outputs = kBlock;
    block_channels = round_up(ceil_div(channels * ceil_div(outputs, block_outputs), 8), kPanel);
    const int64_t most = taps == 1 ? kBlock : kPanel;
    if (block_channels > most) block_channels = most;
    if (block_channels > channels) block_channels = channels;
    // Chunks so long that dw is not updated more often than the product itself does.
    if (source.pointwise) source.cut.step = kWgradPixels;
  }

  static constexpr int64_t kBlock = 256;
  bool by_block() const { return block_outputs < outputs || block_channels < channels; }
  int64_t across() const { return ceil_div(channels, block_channels); }
  int64_t blocks() const { return ceil_div(outputs, block_outputs) * across(); }

  struct Block { int64_t output, outputs, channel, channels; };
  Block block(int64_t i) const {
    const int64_t o = i / across() * block_outputs, c = i % across() * block_channels;
    return {o, outputs - o < block_outputs ? outputs - o : block_outputs, c,
            channels - c < block_channels ? channels - c : block_channels};
  }

  // Block k of a task's share in the task's own order: tasks have different outputs and go through the same channels of u,
  // so each starts at others.
  int64_t turned(int64_t k, Share mine, int64_t task, int64_t tasks) const {
    if (mine.first % across() || mine.last % across()) return k;
    const int64_t row = k / across() * across();
    return in_turn({row, row + across()}, k, task, tasks);
  }

  struct Own { C *u, *dy; };
  Own own(Arena& arena) const {
    Own o;
    o.u = arena.take<C>(source.elements(block_channels));
    o.dy = arena.take<C>(source.in_place() ? 0 : source.cut.step * source.cut.width * block_outputs);
    return o;
  }

  void clear(const Block& b, C* dw) const {
    if (!by_block()) memset(dw, 0, size_t(size) * sizeof(C));
    else
      for (int64_t k = b.output * taps; k < (b.output + b.outputs) * taps; ++k)
        memset(dw + k * channels + b.channel, 0, size_t(b.channels) * sizeof(C));
  }

  // Adds a chunk's part of a block to dw; dy holds the block's outputs.
  void chunk(int64_t i, const Prologue<C>& prologue, const Strip<C>& dy, const Block& b, C* scratch, C* dw) const {
    const Strip<C> u = source.load(i, prologue, b.channel, b.channels, scratch);
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
        g.dy = dy.data, g.dy_outer = dy.row, g.dy_inner = dy.pixel, g.outputs = b.outputs;
        g.u = from, g.u_outer = outer, g.u_inner = inner, g.channels = b.channels, g.slack = u.slack;
        g.dw = dw + (b.output * taps + t) * channels + b.channel;
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
