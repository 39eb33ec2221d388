#include "lightops/inverted_residual.h"

#include "engine/depthwise.h"
#include "engine/entry.h"
#include "engine/pointwise.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Per strip of output rows: expand the input rows under it into padded hidden rows, run the depthwise over them, project
// the result. Hidden rows that the next strip needs again are kept, so each is computed once a task. By hidden channels,
// where one image is too small to share by rows: expand and depthwise need only their own channels, then one barrier,
// then the projection is shared.
template <class C> struct Body {
  const InvertedResidualParams& p;
  const Window& w = p.window;
  int64_t tasks = p.parallel.threads;
  int64_t panels = ceil_div(p.out.c, kPanel);
  int64_t padded_width = p.x.w + 2 * w.padding[1];
  bool by_channel;
  int64_t rows;

  explicit Body(const InvertedResidualParams& params) : p(params) {
    // A share of rows recomputes the kernel's overlap; 16 rows a task keep that under an eighth.
    by_channel = p.x.n < tasks && p.out.h < 16 * tasks && p.hidden >= tasks * kPanel;
    const int64_t in_row = padded_width * p.hidden, out_row = p.out.w * p.hidden;
    const int64_t fit = kScratchBytes / int64_t(sizeof(C));
    rows = (fit - (w.kernel[0] - w.stride[0]) * in_row) / (w.stride[0] * in_row + out_row);
    if (rows < 1) rows = 1;
    if (rows > p.out.h || by_channel) rows = p.out.h;
  }

  int64_t strip_rows(int64_t out_rows) const { return (out_rows - 1) * w.stride[0] + w.kernel[0]; }
  int64_t task_hidden() const { return by_channel ? round_up(ceil_div(p.hidden, tasks), kPanel) : p.hidden; }

  struct Scratch { C* strip; C* input; C* tile; };
  Scratch scratch(Arena& arena) const {
    Scratch s;
    s.strip = arena.take<C>(strip_rows(rows) * padded_width * task_hidden());
    s.input = arena.take<C>(pointwise_scratch<C>(p.x.c, p.x.w));
    s.tile = by_channel ? nullptr : arena.take<C>(rows * p.out.w * p.hidden);
    return s;
  }
  int64_t task_bytes() const {
    Arena arena;
    scratch(arena);
    return arena.used();
  }
  int64_t shared_bytes() const {
    Arena arena;
    if (by_channel) arena.take<C>(p.out.h * p.out.w * p.hidden);
    return arena.used();
  }
  int64_t workspace() const { return shared_bytes() + tasks * task_bytes(); }

  // Hidden rows [top, top + count) of image n (zeros outside the image) into padded rows, channels `part`.
  void expand(int64_t n, int64_t top, int64_t count, Share part, C* strip, C* input) const {
    const int64_t row = padded_width * part.size(), border = w.padding[1] * part.size();
    for (int64_t i = 0; i < count; ++i) {
      C* out = strip + i * row;
      if (top + i < 0 || top + i >= p.x.h) {
        memset(out, 0, size_t(row) * sizeof(C));
      } else {
        memset(out, 0, size_t(border) * sizeof(C));
        memset(out + row - border, 0, size_t(border) * sizeof(C));
      }
    }
    const int64_t first = top < 0 ? 0 : top, last = top + count < p.x.h ? top + count : p.x.h;
    if (first >= last) return;
    Pointwise<C> e;
    e.x = at(p.x.data, p.type, n * p.x.image + first * p.x.row());
    e.type = p.type;
    e.rows = last - first;
    e.width = p.x.w;
    e.x_row = p.x.row();
    e.x_pixel = p.x.pixel;
    e.channels = p.x.c;
    e.weights = static_cast<const C*>(p.ex) + part.first * p.x.c;
    e.bias = p.ex_bias ? static_cast<const C*>(p.ex_bias) + part.first : nullptr;
    e.outputs = part.size();
    e.act = p.ex_act;
    e.out = strip + (first - top) * row + border;
    e.out_type = compute_type<C>;
    e.out_row = row;
    e.out_pixel = part.size();
    e.scratch = input;
    lightops::LIGHTOPS_ISA::pointwise(e);
  }

  void depthwise(int64_t count, Share part, const C* strip, C* tile) const {
    const int64_t row = padded_width * part.size();
    Depthwise<C> d;
    d.window = w;
    d.channels = p.hidden;
    d.weights = static_cast<const C*>(p.dw) + part.first;
    d.bias = p.dw_bias ? static_cast<const C*>(p.dw_bias) + part.first : nullptr;
    d.act = p.dw_act;
    for (int64_t i = 0; i < count; ++i)
      depthwise_row<C>(d, strip + i * w.stride[0] * row, row, part.size(), p.out.w, 0, part.size(),
                       tile + i * p.out.w * p.hidden + part.first, p.hidden);
  }

  // Output pixels [first, last) counted from the start of row y.
  void project(int64_t n, int64_t y, Share pixels, const C* tile, Share panel) const {
    Gemm<C> g;
    g.inner = pixels.size();
    g.a = tile + pixels.first * p.hidden;
    g.a_inner = g.length = p.hidden;
    g.b = static_cast<const C*>(p.pw);
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

  void run_by_channel(char* base, C* shared) const {
    for (int64_t n = 0; n < p.x.n; ++n) {
      for_tasks(p.parallel, tasks, [&](int64_t task) {
        Arena arena(base + task * task_bytes());
        const Scratch s = scratch(arena);
        const Share part = share(p.hidden, task, tasks, kPanel);
        if (part.size() == 0) return;
        expand(n, -w.padding[0], strip_rows(p.out.h), part, s.strip, s.input);
        depthwise(p.out.h, part, s.strip, shared);
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
    const int64_t overlap = w.kernel[0] > w.stride[0] ? w.kernel[0] - w.stride[0] : 0;
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      Arena arena(base + task * task_bytes());
      const Scratch s = scratch(arena);
      const Share part = share(p.x.n * p.out.h, task, tasks);
      const int64_t row_elements = padded_width * p.hidden;
      int64_t kept = 0;  // strip rows carried over from the strip before
      for (int64_t row = part.first, step; row < part.last; row += step) {
        const int64_t n = row / p.out.h, y = row % p.out.h;
        step = rows < part.last - row ? rows : part.last - row;
        if (step > p.out.h - y) step = p.out.h - y;
        if (y == 0) kept = 0;
        const int64_t need = strip_rows(step);
        expand(n, y * w.stride[0] - w.padding[0] + kept, need - kept, {0, p.hidden}, s.strip + kept * row_elements, s.input);
        depthwise(step, {0, p.hidden}, s.strip, s.tile);
        project(n, y, {0, step * p.out.w}, s.tile, {0, panels});
        kept = overlap;
        memmove(s.strip, s.strip + (need - overlap) * row_elements, size_t(overlap * row_elements) * sizeof(C));
      }
    });
  }

  void run() const {
    char* base = static_cast<char*>(p.workspace);
    if (by_channel) run_by_channel(base + shared_bytes(), reinterpret_cast<C*>(base));
    else run_by_row(base);
  }
};

}  // namespace

LIGHTOPS_CPU_OP(inverted_residual, InvertedResidualParams)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
