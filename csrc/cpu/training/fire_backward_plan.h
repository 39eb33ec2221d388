// Sizes and memory of a Fire module's backward pass: how rows are cut, what all tasks share, what each works in.
#pragma once

#include "engine/panels.h"
#include "engine/pointwise.h"
#include "engine/strip.h"
#include "engine/wgrad3x3.h"
#include "lightops/training/fire.h"

namespace lightops {
namespace LIGHTOPS_ISA {

template <class C> struct FireBackwardPlan {
  const FireTrainBackwardParams& p;
  int64_t tasks = p.parallel.threads;
  int64_t squeeze = p.squeeze_channels, expand1 = p.expand1, expand3 = p.out.c - p.expand1;
  int64_t height = p.x.h, width = p.x.w, pixels = p.x.n * height * width;
  int64_t padded_width = width + 2;
  int64_t grain = p.algo == Algo::direct ? 1 : int64_t(p.algo);
  Nhwc kept{p.squeeze, p.x.n, height, width, squeeze, squeeze, height * width * squeeze};  // the squeezed tensor
  int64_t slices = 1;
  int64_t rows;  // of a strip
  bool together;

  static constexpr int64_t kGroup = 2 * kPanel;  // channels whose sums stay in L2 for all of the 3x3's positions
  static constexpr int64_t kStripBytes = 256 << 10;
  static constexpr int64_t kSumBytes = 320 << 10;
  static constexpr int64_t kRows = 8;            // image rows that the 1x1s' gradients load at a time

  explicit FireBackwardPlan(const FireTrainBackwardParams& params) : p(params) {
    while (slices < 16 && 2 * slices * 392 <= pixels) slices *= 2;  // a power of two comes out even on most machines
    const int64_t fit = kStripBytes / (padded_width * (expand3 > squeeze ? expand3 : squeeze) * int64_t(sizeof(C))) - 2;
    rows = fit < grain ? grain : fit / grain * grain;
    if (rows > round_up(height, grain)) rows = round_up(height, grain);
    together = slices > 1 && 16 * squeeze * expand3 * int64_t(sizeof(C)) <= kSumBytes;
  }

  StripConv<C> dgrad3() const {
    StripConv<C> c;
    c.channels = expand3;
    c.in_row = padded_width * expand3;
    c.in_width = padded_width;
    c.window.kernel[0] = c.window.kernel[1] = 3;
    c.algo = p.algo;
    c.outputs = squeeze;
    c.rows = rows;
    c.width = width;
    c.out_type = compute_type<C>;
    c.out_row = width * squeeze;
    c.out_pixel = squeeze;
    return c;
  }
  Wgrad3x3<C> wgrad3(int64_t outputs) const {
    Wgrad3x3<C> w;
    w.channels = squeeze;
    w.outputs = outputs;
    w.algo = p.algo;
    w.sum_row = expand3;
    w.sum_plane = squeeze * expand3;
    const int64_t total = ceil_div(p.x.n * ceil_div(height, 2), slices) * ceil_div(width, 2);
    w.tiles = wgrad3x3_tiles<C>(squeeze, group3(), total);
    return w;
  }
  // Outputs of the 3x3 whose weight gradient is taken at once.
  int64_t group3() const { return together || expand3 < kGroup ? expand3 : kGroup; }

  // A weight's gradient: sums [slice][size] behind each other, and the bias's [slice][outputs].
  struct Sums {
    C *weight, *bias;
    int64_t size, outputs;
  };
  struct Common {
    C *again, *ws, *w1, *w3;
    Sums first, one, three;
    int64_t bytes;
  };
  Common common() const {
    Arena arena(p.workspace);
    const auto sums = [&](int64_t size, int64_t outputs) {
      Sums s{nullptr, nullptr, round_up(size, kLanes<C>), round_up(outputs, kLanes<C>)};
      s.weight = arena.take<C>(slices * s.size);
      s.bias = arena.take<C>(slices * s.outputs);
      return s;
    };
    Common s;
    s.again = arena.take<C>(panels1x1_elements(squeeze, p.x.c));
    s.ws = arena.take<C>(panels1x1_elements(p.x.c, squeeze));
    s.w1 = arena.take<C>(panels1x1_elements(squeeze, expand1));
    s.w3 = arena.take<C>(panels3x3_elements(squeeze, expand3, p.algo));
    s.first = sums(squeeze * p.x.c, squeeze);
    s.one = sums(squeeze * expand1, expand1);
    s.three = sums(wgrad3(kGroup).planes() * squeeze * expand3, expand3);
    s.bytes = arena.used();
    return s;
  }
  struct Own {
    C *d3, *d1, *ds, *s, *input, *winograd, *domain;
    int64_t bytes;
  };
  Own own(char* base) const {
    Arena arena(base);
    const int64_t most = rows > kRows ? rows : kRows, inner = most * width;
    const int64_t wide = expand1 > p.x.c ? expand1 : p.x.c;
    Own s;
    s.d3 = arena.take<C>((rows + 2) * padded_width * expand3);
    s.d1 = arena.take<C>(inner * wide);
    s.ds = arena.take<C>(inner * squeeze);
    s.s = arena.take<C>((most + 2) * padded_width * squeeze);
    s.input = arena.take<C>(pointwise_scratch<C>(p.x.c, width));
    s.winograd = arena.take<C>(strip_scratch(dgrad3()));
    s.domain = arena.take<C>(wgrad3(group3()).scratch_elements());
    s.bytes = arena.used();
    return s;
  }
};

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
