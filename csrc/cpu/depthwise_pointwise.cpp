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
template <class E> struct Body {
  using C = Compute<E>;

  const DepthwisePointwiseParams& p;
  const Window& w = p.window;
  int64_t tasks = p.parallel.threads;
  int64_t panels = ceil_div(p.out.c, kPanel);
  bool in_place = p.type == compute_type<E>;  // the depthwise reads x where it lies
  bool by_channel;
  int64_t rows;  // output rows of a strip

  explicit Body(const DepthwisePointwiseParams& params) : p(params) {
    by_channel = too_few_rows(p.x.n, p.out.h, tasks) && panels >= tasks;
    const int64_t row_elements = p.out.w * p.x.c + (in_place ? 0 : w.stride[0] * p.x.w * p.x.c);
    rows = kScratchBytes / int64_t(sizeof(E)) / row_elements;
    if (rows < 1) rows = 1;
    if (rows > p.out.h || by_channel) rows = p.out.h;
  }

  // Input rows under `out_rows` output rows, those outside the image included.
  int64_t strip_rows(int64_t out_rows) const {
    return (out_rows - 1) * w.stride[0] + w.dilation[0] * (w.kernel[0] - 1) + 1;
  }
  int64_t task_channels() const { return by_channel ? round_up(ceil_div(p.x.c, tasks), kPanel) : p.x.c; }

  struct Scratch {
    E* strip;
    E* tile;
  };
  Scratch scratch(Arena& arena) const {
    E* strip = in_place ? nullptr : arena.take<E>(strip_rows(rows) * p.x.w * task_channels());
    return {strip, by_channel ? nullptr : arena.take<E>(rows * p.out.w * p.x.c)};
  }
  int64_t task_bytes() const {
    Arena arena;
    scratch(arena);
    return apart(arena.used(), tasks);
  }
  int64_t shared_bytes() const {
    Arena arena;
    if (by_channel) arena.take<E>(p.out.h * p.out.w * p.x.c);
    return arena.used();
  }
  int64_t workspace() const { return tasks * task_bytes() + shared_bytes(); }

  // Depthwise output rows [y, y + count) of image n, channels `part`, into a tile whose pixels are all C channels wide.
  void depthwise(int64_t n, int64_t y, int64_t count, Share part, E* strip, E* tile) const {
    Depthwise<C> d;
    d.window = w;
    d.height = p.x.h;
    d.width = p.x.w;
    d.channels = part.size();
    d.weights = static_cast<const C*>(p.dw) + part.first * d.taps();  // whole groups
    d.bias = p.dw_bias ? static_cast<const C*>(p.dw_bias) + part.first : nullptr;
    d.act = p.dw_act;
    const int64_t first = d.first_row(y), last = d.last_row(y + count - 1);
    const char* x = at(p.x.data, p.type, n * p.x.image + first * p.x.row() + part.first);
    int64_t pixel = p.x.pixel;
    const E* in = reinterpret_cast<const E*>(x);
    if (!in_place) {
      load_pixels<E>(x, p.type, p.x.pixel, last > first ? (last - first) * p.x.w : 0, part.size(), Prologue<C>{},
                     strip);
      pixel = part.size();
      in = strip;
    }
    depthwise_rows(d, in, first, p.x.w * pixel, pixel, y, count, p.out.w, tile + part.first, p.out.w * p.x.c, p.x.c);
  }

  void pointwise(int64_t n, int64_t y, int64_t count, const E* tile, Share panel) const {
    Gemm<E> g;
    g.outer = count;
    g.inner = p.out.w;
    g.a = tile;
    g.a_outer = p.out.w * p.x.c;
    g.a_inner = g.length = p.x.c;
    g.b = static_cast<const E*>(p.pw);
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
    E* shared = reinterpret_cast<E*>(base + tasks * task_bytes());
    if (by_channel) {
      for (int64_t n = 0; n < p.x.n; ++n) {
        for_tasks(p.parallel, tasks, [&](int64_t task) {
          Arena arena(base + task * task_bytes());
          const Share part = share(p.x.c, task, tasks, kPanel);
          if (part.size() > 0) depthwise(n, 0, p.out.h, part, scratch(arena).strip, shared);
        });
        for_tasks(p.parallel, tasks,
                  [&](int64_t task) { pointwise(n, 0, p.out.h, shared, share(panels, task, tasks)); });
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

LIGHTOPS_CPU_OP_PAIRS(depthwise_pointwise, DepthwisePointwiseParams)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
