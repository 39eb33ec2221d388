// Sizes and memory of a dense block's backward pass: how pixels are cut, what all tasks share, what each works in.
#pragma once

#include "engine/strip.h"
#include "engine/wgrad3x3.h"
#include "training/dense_layers.h"

namespace lightops {
namespace LIGHTOPS_ISA {

template <class C> struct DenseBackwardPlan {
  using Params = DenseBlockTrainBackwardParams;
  const Params& p;
  const DenseBlockTrainParams& f = p.block;
  const Nhwc& b = f.buffer;
  int64_t tasks = p.parallel.threads;
  int64_t pixels = b.n * b.h * b.w;
  int64_t widest = f.in_channels + (f.layers > 0 ? f.layers - 1 : 0) * f.growth;
  int64_t inputs3 = f.bottleneck ? f.bottleneck : widest;  // most channels that a 3x3 reads
  int64_t padded_width = b.w + 2;
  Chunks chunks{pixels, kChunkPixels};
  // A slice holds enough pixels to outweigh its own copy of the weight's gradient.
  int64_t slices1 = slices(784);
  C* gradient = static_cast<C*>(p.gradient);
  C* dmiddle = static_cast<C*>(p.dmiddle);

  static constexpr int64_t kMostSlices = 16;
  static constexpr int64_t kStripBytes = 256 << 10;  // of activations: dy, its transforms and sums want room in L2 too

  explicit DenseBackwardPlan(const Params& params) : p(params) {}

  int64_t prefix(int64_t layer) const { return f.in_channels + layer * f.growth; }
  int64_t channels3(int64_t layer) const { return f.bottleneck ? f.bottleneck : prefix(layer); }
  Strips strips(int64_t layer) const {
    const int64_t grain = f.algo == Algo::direct ? 1 : int64_t(f.algo);
    const int64_t rows = kStripBytes / (padded_width * channels3(layer) * int64_t(sizeof(C))) - 2;
    return Strips(b.n, b.h, rows < grain ? grain : rows / grain * grain, grain);
  }
  int64_t slices(int64_t least) const {
    const int64_t count = pixels / least;
    return count < 1 ? 1 : count > kMostSlices ? kMostSlices : count;
  }
  int64_t slices3(int64_t layer) const {
    const int64_t count = slices(392), most = strips(layer).count();
    return count < most ? count : most;
  }
  // Where there are fewer slices than threads, panels of channels are shared out too.
  int64_t groups(int64_t slices, int64_t channels) const {
    const int64_t wanted = ceil_div(tasks, slices), panels = ceil_div(channels, kPanel);
    return wanted < panels ? wanted : panels;
  }

  Wgrad3x3<C> wgrad3(int64_t layer, int64_t channels) const {
    Wgrad3x3<C> w;
    w.channels = channels;
    w.outputs = w.sum_row = f.growth;
    w.algo = f.algo;
    w.sum_plane = channels3(layer) * f.growth;
    const Strips all = strips(layer);
    const int64_t each = ceil_div(all.rows, 2) * ceil_div(b.w, 2);
    w.tiles = wgrad3x3_tiles<C>(channels3(layer), f.growth, ceil_div(all.count(), slices3(layer)) * each);
    return w;
  }
  int64_t part3(int64_t layer) const {
    const Wgrad3x3<C> w = wgrad3(layer, channels3(layer));
    return round_up(w.planes() * w.sum_plane, kLanes<C>);
  }

  StripConv<C> dgrad3(int64_t layer) const {
    StripConv<C> c;
    c.channels = f.growth;
    c.in_row = padded_width * f.growth;
    c.in_width = padded_width;
    c.window.kernel[0] = c.window.kernel[1] = 3;
    c.algo = f.algo;
    c.outputs = channels3(layer);
    c.rows = strips(layer).rows;
    c.width = b.w;
    c.out_type = compute_type<C>;
    c.out_row = b.w * c.outputs;
    c.out_pixel = c.outputs;
    return c;
  }

  // A channel's affine form, and what its batch norm's gradient needs of the batch.
  struct Vectors { C *scale, *shift, *b, *d; };
  Vectors vectors(Arena& arena, int64_t channels) const {
    return {arena.take<C>(channels), arena.take<C>(channels), arena.take<C>(channels), arena.take<C>(channels)};
  }
  struct Common {
    C *weight1, *weight2;
    Vectors norm1, norm2;
    double *b, *d;  // summed over the layers that read a channel
    C *own_b, *own_d;  // of the channels that are consumed now
    C *sums1, *sums3;  // [slice or strip][2][channels]
    C *dweight1, *dweight3;
    int64_t bytes;
  };
  Common common() const {
    Arena arena(p.workspace);
    int64_t sums3 = 0, dweight3 = 0;
    for (int64_t layer = 0; layer < f.layers; ++layer) {
      const int64_t sums = 2 * strips(layer).count() * channels3(layer);
      const int64_t part = slices3(layer) * part3(layer);
      if (sums > sums3) sums3 = sums;
      if (part > dweight3) dweight3 = part;
    }
    Common s;
    s.weight1 = arena.take<C>(f.bottleneck ? panels1x1_elements(widest, f.bottleneck) : 0);
    s.weight2 = arena.take<C>(panels3x3_elements(inputs3, f.growth, f.algo));
    s.norm1 = vectors(arena, widest);
    s.norm2 = vectors(arena, f.bottleneck);
    s.b = arena.take<double>(b.c);
    s.d = arena.take<double>(b.c);
    s.own_b = arena.take<C>(b.c);
    s.own_d = arena.take<C>(b.c);
    s.sums1 = arena.take<C>(2 * slices1 * widest);
    s.sums3 = arena.take<C>(sums3);
    s.dweight1 = arena.take<C>(f.bottleneck && slices1 > 1 ? slices1 * f.bottleneck * widest : 0);
    s.dweight3 = arena.take<C>(dweight3);
    s.bytes = arena.used();
    return s;
  }
  struct Own {
    C *dy, *strip, *du, *winograd, *domain, *dy1, *u;
    int64_t bytes;
  };
  Own own(char* base) const {
    Arena arena(base);
    int64_t dy = 0, strip = 0, du = 0, winograd = 0, domain = 0;
    for (int64_t layer = 0; layer < f.layers; ++layer) {
      const int64_t padded = (strips(layer).rows + 2) * padded_width, three = strip_scratch(dgrad3(layer));
      const int64_t own = wgrad3(layer, channels3(layer)).scratch_elements();
      const int64_t inner = f.bottleneck ? 0 : strips(layer).rows * b.w * prefix(layer);
      if (padded * f.growth > dy) dy = padded * f.growth;
      if (padded * channels3(layer) > strip) strip = padded * channels3(layer);
      if (inner > du) du = inner;
      if (three > winograd) winograd = three;
      if (own > domain) domain = own;
    }
    if (f.bottleneck) du = kChunkPixels * kPanel;
    Own s;
    s.dy = arena.take<C>(dy);
    s.strip = arena.take<C>(strip);
    s.du = arena.take<C>(du);
    s.winograd = arena.take<C>(winograd);
    s.domain = arena.take<C>(domain);
    s.dy1 = arena.take<C>(kChunkPixels * f.bottleneck);
    s.u = arena.take<C>(kChunkPixels * kPanel);
    s.bytes = arena.used();
    return s;
  }
};

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
