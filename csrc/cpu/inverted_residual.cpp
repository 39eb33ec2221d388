#include "lightops/inverted_residual.h"

#include "engine/depthwise.h"
#include "engine/entry.h"
#include "engine/pointwise.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Per strip of output rows: expand the input rows under it into hidden rows, run the depthwise over them, project
// the result. Hidden rows that the next strip needs again are kept, so each is computed once a task. By hidden channels,
// where one image is too small to share by rows: expand and depthwise need only their own channels, then one barrier,
// then the projection is shared.
template <class E> struct Body {
  using C = Compute<E>;

  const InvertedResidualParams& p;
  const Window& w = p.window;
  int64_t tasks = p.parallel.threads;
  int64_t panels = ceil_div(p.out.c, kPanel);
  bool by_channel;
  int64_t rows;

  explicit Body(const InvertedResidualParams& params) : p(params) {
    by_channel = too_few_rows(p.x.n, p.out.h, tasks) && p.hidden >= tasks * kPanel;
    const int64_t in_row = p.x.w * p.hidden, out_row = p.out.w * p.hidden;
    const int64_t fit = kScratchBytes / int64_t(sizeof(C));
    rows = (fit - (w.kernel[0] - w.stride[0]) * in_row) / (w.stride[0] * in_row + out_row);
    if (rows < 1) rows = 1;
    if (rows > p.out.h || by_channel) rows = p.out.h;
  }

  int64_t strip_rows() const {
    const int64_t need = (rows - 1) * w.stride[0] + w.kernel[0];
    return need < p.x.h ? need : p.x.h;
  }
  int64_t task_hidden() const { return by_channel ? round_up(ceil_div(p.hidden, tasks), kPanel) : p.hidden; }

  struct Scratch {
    C* strip;
    E* input;
    E* tile;
  };
  Scratch scratch(Arena& arena) const {
    Scratch s;
    s.strip = arena.take<C>(strip_rows() * p.x.w * task_hidden());
    s.input = arena.take<E>(pointwise_scratch<E>(p.x.c, p.x.w));
    s.tile = by_channel ? nullptr : arena.take<E>(rows * p.out.w * p.hidden);
    return s;
  }
  int64_t task_bytes() const {
    Arena arena;
    scratch(arena);
    return arena.used();
  }
  int64_t shared_bytes() const {
    Arena arena;
    if (by_channel) arena.take<E>(p.out.h * p.out.w * p.hidden);
    return arena.used();
  }
  int64_t workspace() const { return shared_bytes() + tasks * task_bytes(); }

  // Hidden rows [first, last) of image n, channels `part`, dense.
  void expand(int64_t n, int64_t first, int64_t last, Share part, C* strip, E* input) const {
    if (first >= last) return;
    Pointwise<E> e;
    e.x = at(p.x.data, p.type, n * p.x.image + first * p.x.row());
    e.type = p.type;
    e.rows = last - first;
    e.width = p.x.w;
    e.x_row = p.x.row();
    e.x_pixel = p.x.pixel;
    e.channels = p.x.c;
    e.weights = static_cast<const E*>(p.ex) + part.first * p.x.c;
    e.bias = p.ex_bias ? static_cast<const C*>(p.ex_bias) + part.first : nullptr;
    e.outputs = part.size();
    e.act = p.ex_act;
    e.out = strip;
    e.out_type = compute_type<C>;
    e.out_row = p.x.w * part.size();
    e.out_pixel = part.size();
    e.scratch = input;
    pointwise(e);
  }

  Depthwise<C> depthwise(Share part) const {
    Depthwise<C> d;
    d.window = w;
    d.height = p.x.h;
    d.width = p.x.w;
    d.channels = part.size();
    d.weights = static_cast<const C*>(p.dw) + part.first * d.taps();  // whole groups
    d.bias = p.dw_bias ? static_cast<const C*>(p.dw_bias) + part.first : nullptr;
    d.act = p.dw_act;
    return d;
  }

  // Depthwise rows [y, y + count) of the hidden rows in `strip`, which starts at image row `first`.
  void filter(const Depthwise<C>& d, int64_t first, int64_t y, int64_t count, const C* strip, E* tile) const {
    for (int64_t i = 0; i < count; ++i)
      depthwise_row(d, strip, first, p.x.w * d.channels, d.channels, y + i, p.out.w, tile + i * p.out.w * p.hidden,
                    p.hidden);
  }

  // Output pixels [first, last) counted from the start of row y.
  void project(int64_t n, int64_t y, Share pixels, const E* tile, Share panel) const {
    Gemm<E> g;
    g.inner = pixels.size();
    g.a = tile + pixels.first * p.hidden;
    g.a_inner = g.length = p.hidden;
    g.b = static_cast<const E*>(p.pw);
    g.outputs = p.out.c;
    g.bias = static_cast<const C*>(p.pw_bias);
    g.out = at(p.out.data, p.type, n * p.out.image + y * p.out.row() + pixels.first * p.out.pixel);
    g.out_type = p.type;
    g.out_inner = p.out.pixel;
    if (p.residual) {
      g.residual = at(p.x.data, p.type, n * p.x.image + y * p.x.row() + pixels.first * p.x.pixel);
      g.residual_inner = p.x.pixel;
    }
    gemm(g, panel.first, panel.last);
  }

  void run_by_channel(char* base, E* shared) const {
    for (int64_t n = 0; n < p.x.n; ++n) {
      for_tasks(p.parallel, tasks, [&](int64_t task) {
        Arena arena(base + task * task_bytes());
        const Scratch s = scratch(arena);
        const Share part = share(p.hidden, task, tasks, kPanel);
        if (part.size() == 0) return;
        expand(n, 0, p.x.h, part, s.strip, s.input);
        filter(depthwise(part), 0, 0, p.out.h, s.strip, shared + part.first);
      });
      const int64_t pixels = p.out.h * p.out.w;
      const bool by_panel = panels % tasks == 0;
      for_tasks(p.parallel, tasks, [&](int64_t task) {
        project(n, 0, share(pixels, by_panel ? 0 : task, by_panel ? 1 : tasks), shared,
                share(panels, by_panel ? task : 0, by_panel ? tasks : 1));
      });
    }
  }

  void run_by_row(char* base) const {
    const Share all{0, p.hidden};
    const Depthwise<C> d = depthwise(all);
    const int64_t row_elements = p.x.w * p.hidden;
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      Arena arena(base + task * task_bytes());
      const Scratch s = scratch(arena);
      const Share part = share(p.x.n * p.out.h, task, tasks);
      int64_t start = 0, have = 0;  // hidden rows [start, have) of this image are in the strip
      for (int64_t row = part.first, step; row < part.last; row += step) {
        const int64_t n = row / p.out.h, y = row % p.out.h;
        step = rows < part.last - row ? rows : part.last - row;
        if (step > p.out.h - y) step = p.out.h - y;
        const int64_t first = d.first_row(y), last = d.last_row(y + step - 1);
        if (y == 0) have = 0;
        if (have > first)
          memmove(s.strip, s.strip + (first - start) * row_elements, size_t((have - first) * row_elements) * sizeof(C));
        else have = first;
        start = first;
        expand(n, have, last, all, s.strip + (have - start) * row_elements, s.input);
        have = last > have ? last : have;
        filter(d, start, y, step, s.strip, s.tile);
        project(n, y, {0, step * p.out.w}, s.tile, {0, panels});
      }
    });
  }

  void run() const {
    char* base = static_cast<char*>(p.workspace);
    if (by_channel) run_by_channel(base + shared_bytes(), reinterpret_cast<E*>(base));
    else run_by_row(base);
  }
};

}  // namespace

LIGHTOPS_CPU_OP_PAIRS(inverted_residual, InvertedResidualParams)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
