#include "lightops/inverted_residual.h"

#include "engine/depthwise.h"
#include "engine/entry.h"
#include "engine/gemm.h"
#include "engine/parallel.h"
#include "engine/rows.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Per strip of output rows and panel of 32 hidden channels: expand the input rows under the strip into hidden rows, run the
// depthwise over them; then project all panels. A panel's hidden rows lie by themselves, so that the depthwise walks along
// rows of neighbouring lines (depthwise_line.h; with it MobileNetV2 on one thread takes 2.96 ms instead of 3.05, at batch 16
// 2.82 an image instead of 2.90). Hidden rows that the next strip needs again are kept, so each is computed once a task. By
// hidden channels, where one image is too small to share by rows: expand and depthwise need only their own channels, then
// one barrier, then the projection is shared.
template <class E> struct Body {
  using C = Compute<E>;

  const InvertedResidualParams& p;
  const Window& w = p.window;
  int64_t tasks = p.parallel.threads;
  int64_t panels = ceil_div(p.out.c, kPanel);
  bool in_place = p.type == compute_type<E>;  // the expansion reads x where it lies
  bool by_channel;
  int64_t rows;

  explicit Body(const InvertedResidualParams& params) : p(params) {
    by_channel = too_few_rows(p.x.n, p.out.h, tasks) && p.hidden >= tasks * kPanel;
    const int64_t in_row = p.x.w * p.hidden, out_row = p.out.w * p.hidden;
    const int64_t fit = kScratchBytes / int64_t(sizeof(C));
    rows = (fit - (w.kernel[0] - w.stride[0]) * in_row) / (w.stride[0] * in_row + out_row);
    if (rows < 1) rows = 1;
    // Strips of equal height; the hidden rows of a whole image are no more than the image has.
    const bool whole = by_channel || p.x.h * in_row + p.out.h * out_row <= fit;
    const int64_t shared = ceil_div(p.x.n * p.out.h, tasks), most = whole || shared > p.out.h ? p.out.h : shared;
    rows = whole || rows > most ? most : ceil_div(most, ceil_div(most, rows));
  }

  int64_t strip_rows() const {
    const int64_t need = (rows - 1) * w.stride[0] + w.kernel[0];
    return need < p.x.h ? need : p.x.h;
  }
  int64_t panel_elements() const { return strip_rows() * p.x.w * kPanel; }
  int64_t task_hidden() const { return round_up(by_channel ? ceil_div(p.hidden, tasks) : p.hidden, kPanel); }

  struct Scratch {
    C* strip;  // panel after panel
    E* input;
    E* tile;
  };
  Scratch scratch(Arena& arena) const {
    Scratch s;
    s.strip = arena.take<C>(strip_rows() * p.x.w * task_hidden());
    s.input = in_place ? nullptr : arena.take<E>(strip_rows() * p.x.w * p.x.c);
    s.tile = by_channel ? nullptr : arena.take<E>(rows * p.out.w * p.hidden);
    return s;
  }
  int64_t task_bytes() const {
    Arena arena;
    scratch(arena);
    return apart(arena.used(), tasks);
  }
  int64_t shared_bytes() const {
    Arena arena;
    if (by_channel) arena.take<E>(p.out.h * p.out.w * p.hidden);
    return arena.used();
  }
  int64_t workspace() const { return tasks * task_bytes() + shared_bytes(); }

  // The input rows [first, last) of image n as the expansion reads them.
  Gemm<E> expansion(int64_t n, int64_t first, int64_t last, E* input) const {
    const char* x = at(p.x.data, p.type, n * p.x.image + first * p.x.row());
    Gemm<E> g;
    g.inner = (last > first ? last - first : 0) * p.x.w;
    g.a = reinterpret_cast<const E*>(x);
    g.a_inner = p.x.pixel;
    if (!in_place) {
      load_pixels<E>(x, p.type, p.x.pixel, g.inner, p.x.c, Prologue<C>{}, input);
      g.a = input;
      g.a_inner = p.x.c;
    }
    g.length = p.x.c;
    g.act = p.ex_act;
    g.out_type = compute_type<C>;
    return g;
  }

  // The hidden channels `part` of output rows [y, y + count) of image n: tile[pixel][hidden] from channel part.first on.
  // `strip` holds the image's hidden rows [start, have), or none; on return those under the output rows.
  void hidden(int64_t n, int64_t y, int64_t count, Share part, int64_t& start, int64_t& have, const Scratch& s,
              E* tile) const {
    Depthwise<C> d;
    d.window = w;
    d.height = p.x.h;
    d.width = p.x.w;
    d.act = p.dw_act;
    const int64_t first = d.first_row(y), last = d.last_row(y + count - 1);
    const int64_t kept = have > first ? have - first : 0, row = p.x.w * kPanel;
    Gemm<E> g = expansion(n, first + kept, last, s.input);
    C* strip = s.strip;
    for (int64_t c = part.first; c < part.last; c += kPanel, strip += panel_elements()) {
      d.channels = part.last - c < kPanel ? part.last - c : kPanel;
      if (kept) memmove(strip, strip + (first - start) * row, size_t(kept * row) * sizeof(C));
      g.b = static_cast<const E*>(p.ex) + c * p.x.c;
      g.bias = p.ex_bias ? static_cast<const C*>(p.ex_bias) + c : nullptr;
      g.outputs = d.channels;
      g.ahead = c + kPanel < part.last ? g.b + kPanel * p.x.c : nullptr;
      g.out = strip + kept * row;
      g.out_inner = kPanel;
      gemm(g, 0, 1);
      d.weights = static_cast<const C*>(p.dw) + c * d.taps();  // whole groups
      d.bias = p.dw_bias ? static_cast<const C*>(p.dw_bias) + c : nullptr;
      depthwise_rows(d, strip, first, row, kPanel, y, count, p.out.w, tile + c, p.out.w * p.hidden, p.hidden);
    }
    start = first;
    have = last > first + kept ? last : first + kept;
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
        int64_t start = 0, have = 0;
        hidden(n, 0, p.out.h, part, start, have, s, shared);
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
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      Arena arena(base + task * task_bytes());
      const Scratch s = scratch(arena);
      const Share part = share(p.x.n * p.out.h, task, tasks);
      int64_t start = 0, have = 0;
      for (int64_t row = part.first, step; row < part.last; row += step) {
        const int64_t n = row / p.out.h, y = row % p.out.h;
        step = rows < part.last - row ? rows : part.last - row;
        if (step > p.out.h - y) step = p.out.h - y;
        if (y == 0) have = 0;
        hidden(n, y, step, {0, p.hidden}, start, have, s, s.tile);
        project(n, y, {0, step * p.out.w}, s.tile, {0, panels});
      }
    });
  }

  void run() const {
    char* base = static_cast<char*>(p.workspace);
    if (by_channel) run_by_channel(base, reinterpret_cast<E*>(base + tasks * task_bytes()));
    else run_by_row(base);
  }
};

}  // namespace

LIGHTOPS_CPU_OP_PAIRS(inverted_residual, InvertedResidualParams)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
