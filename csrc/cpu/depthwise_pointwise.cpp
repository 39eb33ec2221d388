#include "lightops/depthwise_pointwise.h"

#include "engine/depthwise.h"
#include "engine/entry.h"
#include "engine/gemm.h"
#include "engine/rows.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Two cuts. By rows: every task takes output rows, a strip at a time; the depthwise rows of a strip are the A operand of
// the pointwise product and never leave L2. By channels, where one image is too small to share by rows and the weights
// outweigh it: tasks first share the depthwise channels, then the panels of outputs.
template <class C> struct Body {
  const DepthwisePointwiseParams& p;
  const Window& w = p.window;
  int64_t tasks = p.parallel.threads;
  int64_t panels = ceil_div(p.out.c, kPanel);
  int64_t padded_width = p.x.w + 2 * w.padding[1];
  int64_t span = w.dilation[0] * (w.kernel[0] - 1) + 1;
  bool by_channel;
  int64_t rows;  // output rows of a strip

  explicit Body(const DepthwisePointwiseParams& params) : p(params) {
    by_channel = p.x.n < tasks && share_panels(panels, tasks, p.x.c * p.out.c, p.x.h * p.x.w * p.x.c);
    const int64_t in_row = padded_width * p.x.c, out_row = p.out.w * p.x.c;
    const int64_t fit = kScratchBytes / int64_t(sizeof(C));
    rows = (fit - (span - w.stride[0]) * in_row) / (w.stride[0] * in_row + out_row);
    if (rows < 1) rows = 1;
    if (rows > p.out.h || by_channel) rows = p.out.h;
  }

  int64_t strip_rows(int64_t out_rows) const { return (out_rows - 1) * w.stride[0] + span; }
  int64_t task_channels() const { return by_channel ? round_up(ceil_div(p.x.c, tasks), kPanel) : p.x.c; }

  struct Scratch { C* strip; C* tile; };
  Scratch scratch(Arena& arena) const {
    C* strip = arena.take<C>(strip_rows(rows) * padded_width * task_channels());
    return {strip, by_channel ? nullptr : arena.take<C>(rows * p.out.w * p.x.c)};
  }
  int64_t task_bytes() const {
    Arena arena;
    scratch(arena);
    return arena.used();
  }
  int64_t shared_bytes() const {
    Arena arena;
    if (by_channel) arena.take<C>(p.out.h * p.out.w * p.x.c);
    return arena.used();
  }
  int64_t workspace() const { return shared_bytes() + tasks * task_bytes(); }

  // Depthwise output rows [y, y + count) of image n, channels `part`, into a tile whose pixels are all C channels wide.
  void depthwise(int64_t n, int64_t y, int64_t count, Share part, C* strip, C* tile) const {
    Nhwc x = p.x;
    x.c = part.size();
    x.data = at(p.x.data, p.type, part.first);
    const int64_t row = padded_width * x.c;
    const int64_t top = y * w.stride[0] - w.padding[0];
    for (int64_t i = 0; i < strip_rows(count); ++i)
      load_padded_row<C>(x, p.type, n, top + i, w.padding[1], Prologue<C>{}, strip + i * row);
    Depthwise<C> d;
    d.window = w;
    d.channels = p.x.c;
    d.weights = static_cast<const C*>(p.dw) + part.first;
    d.bias = p.dw_bias ? static_cast<const C*>(p.dw_bias) + part.first : nullptr;
    d.act = p.dw_act;
    for (int64_t i = 0; i < count; ++i)
      depthwise_row<C>(d, strip + i * w.stride[0] * row, w.dilation[0] * row, x.c, p.out.w, 0, x.c,
                       tile + i * p.out.w * p.x.c + part.first, p.x.c);
  }

  void pointwise(int64_t n, int64_t y, int64_t count, const C* tile, Share panel) const {
    Gemm<C> g;
    g.outer = count;
    g.inner = p.out.w;
    g.a = tile;
    g.a_outer = p.out.w * p.x.c;
    g.a_inner = g.length = p.x.c;
    g.b = static_cast<const C*>(p.pw);
    g.outputs = p.out.c;
    g.bias = static_cast<const C*>(p.pw_bias);
    g.act = p.pw_act;
    g.out = at(p.out.data, p.type, n * p.out.image + y * p.out.row());
    g.out_type = p.type;
    g.out_outer = p.out.row();
    g.out_inner = p.out.pixel;
    if (p.residual.data) {
      g.residual = at(p.residual.data, p.type, n * p.residual.image + y * p.residual.row());
      g.residual_outer = p.residual.row();
      g.residual_inner = p.residual.pixel;
    }
    gemm(g, panel.first, panel.last);
  }

  void run() {
    char* base = static_cast<char*>(p.workspace);
    C* shared = reinterpret_cast<C*>(base);
    base += shared_bytes();
    if (by_channel) {
      for (int64_t n = 0; n < p.x.n; ++n) {
        for_tasks(p.parallel, tasks, [&](int64_t task) {
          Arena arena(base + task * task_bytes());
          const Share part = share(p.x.c, task, tasks, kPanel);
          if (part.size() > 0) depthwise(n, 0, p.out.h, part, scratch(arena).strip, shared);
        });
        for_tasks(p.parallel, tasks, [&](int64_t task) { pointwise(n, 0, p.out.h, shared, share(panels, task, tasks)); });
      }
      return;
    }
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      Arena arena(base + task * task_bytes());
      const Scratch s = scratch(arena);
      const Share part = share(p.x.n * p.out.h, task, tasks);
      for (int64_t row = part.first, step; row < part.last; row += step) {
        const int64_t n = row / p.out.h, y = row % p.out.h;
        step = rows < part.last - row ? rows : part.last - row;
        if (step > p.out.h - y) step = p.out.h - y;
        depthwise(n, y, step, {0, p.x.c}, s.strip, s.tile);
        pointwise(n, y, step, s.tile, {0, panels});
      }
    });
  }
};

}  // namespace

LIGHTOPS_CPU_OP(depthwise_pointwise, DepthwisePointwiseParams)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
