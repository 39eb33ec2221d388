#include "lightops/training/bn_act_max_pool2d.h"

#include "engine/entry.h"
#include "engine/max_pool.h"
#include "engine/max_pool_grad.h"
#include "training/norm_pass.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Rows of x in a chunk of the backward pass: with their gradient and normalised form they stay in L2.
constexpr int64_t kChunkBytes = 128 << 10;

template <class C> struct Forward {
  const BnActMaxPool2dParams& p;
  bool raw = !p.norm.mean && p.act == Act::none;

  explicit Forward(const BnActMaxPool2dParams& params) : p(params) {}

  // Rounding u to 16 bits keeps the order of values, so the maximum may be taken first.
  MaxPool<C, BnActMaxPool2dParams> pool(Arena& arena) const {
    Prologue<C> u;
    u.act = p.act;
    if (p.norm.mean) {
      C *scale = arena.take<C>(p.x.c), *shift = arena.take<C>(p.x.c);
      if (scale) affine_of<C>(p.norm, p.x.c, scale, shift);
      u.scale = scale;
      u.shift = shift;
    }
    return {p, u, raw};
  }
  int64_t workspace() const {
    Arena arena;
    const int64_t pooling = pool(arena).workspace();
    return arena.used() + pooling;
  }
  void run() const {
    Arena arena(p.workspace);
    const auto body = pool(arena);
    body.run(static_cast<char*>(p.workspace) + arena.used());
  }
};

template <class C> struct Backward {
  const BnActMaxPool2dBackwardParams& p;
  const Window& w = p.window;
  NormPass<C> pass{p};
  int64_t row = p.x.w * p.x.c;
  // u is rounded to 16 bits before its maximum is taken, as if it had been stored: that can make values equal.
  bool computed = p.type == compute_type<C>;
  bool exact = computed || (!p.norm.mean && is_clamp());
  bool in_place = computed && !p.norm.mean && p.act == Act::none;

  explicit Backward(const BnActMaxPool2dBackwardParams& params) : p(params) {
    int64_t step = kChunkBytes / int64_t(sizeof(C)) / row, least = 2 * w.kernel[0];
    if (step < least) step = least;
    pass.cut = Cut{p.x.n, p.x.h, p.x.w, step < p.x.h ? step : p.x.h};
  }
  bool is_clamp() const { return p.act == Act::none || p.act == Act::relu || p.act == Act::relu6; }

  // Rows of windows that cover row y of x: [first, last).
  int64_t first_window(int64_t y) const {
    const int64_t reach = y + w.padding[0] - w.kernel[0] + 1;
    return reach <= 0 ? 0 : ceil_div(reach, w.stride[0]);
  }
  int64_t last_window(int64_t y) const {
    const int64_t last = (y + w.padding[0]) / w.stride[0] + 1;
    return last < p.dy.h ? last : p.dy.h;
  }
  // Rows of x under window row y.
  Share window_rows(int64_t y) const {
    const int64_t top = y * w.stride[0] - w.padding[0], end = top + w.kernel[0];
    return {top < 0 ? 0 : top, end < p.x.h ? end : p.x.h};
  }

  struct Scratch {
    C *u, *du, *dy;
    char* narrow;
  };
  Scratch scratch(Arena& arena) const {
    Scratch s;
    s.u = in_place ? nullptr : arena.take<C>((pass.cut.step + 2 * w.kernel[0]) * row);
    s.du = arena.take<C>(pass.cut.step * row);
    s.dy = arena.take<C>(p.dy.w * p.dy.c);
    s.narrow = exact ? nullptr : reinterpret_cast<char*>(arena.take<int16_t>(row));
    return s;
  }
  int64_t task_bytes() const {
    Arena arena;
    scratch(arena);
    return arena.used();
  }
  int64_t frame_bytes() const {
    Arena arena;
    pass.vectors(arena);
    return arena.used();
  }
  int64_t workspace() const { return frame_bytes() + p.parallel.threads * task_bytes(); }

  const C* load(int64_t n, Share rows, const Prologue<C>& u, const Scratch& s) const {
    const char* x = at(p.x.data, p.type, n * p.x.image + rows.first * p.x.row());
    if (in_place) return reinterpret_cast<const C*>(x);
    // Row by row: the last vector of one spills into the next.
    for (int64_t y = 0; y < rows.size(); ++y) {
      C* const to = s.u + y * row;
      load_pixels<C>(at(x, p.type, y * p.x.row()), p.type, p.x.pixel, p.x.w, p.x.c, u, to);
      if (exact) continue;
      store_values<C>(to, row, p.type, s.narrow);
      load_pixels<C>(s.narrow, p.type, 0, 1, row, Prologue<C>{}, to);
    }
    return s.u;
  }

  Pixels gradient(int64_t chunk, const Prologue<C>& u, const Scratch& s) const {
    const Cut& cut = pass.cut;
    const int64_t n = cut.image(chunk), top = cut.row(chunk), bottom = top + cut.height(chunk);
    const int64_t first = first_window(top), last = last_window(bottom - 1);
    memset(s.du, 0, size_t(cut.height(chunk) * row) * sizeof(C));
    if (first >= last) return {s.du, compute_type<C>, p.x.c};
    const Share rows = {window_rows(first).first, window_rows(last - 1).last};
    PoolGrad<C> g;
    const C* in = load(n, rows, u, s);
    g.pixel = in_place ? p.x.pixel : p.x.c;
    g.row = p.x.w * g.pixel;
    g.width = p.x.w;
    g.channels = p.x.c;
    g.columns = w.kernel[1];
    g.stride = w.stride[1];
    g.padding = w.padding[1];
    g.dy = s.dy;
    g.out_width = p.dy.w;
    for (int64_t y = first; y < last; ++y) {
      const Share under = window_rows(y);
      g.u = in + (under.first - rows.first) * g.row;
      g.rows = under.size();
      g.first = top > under.first ? top - under.first : 0;
      g.last = (bottom < under.last ? bottom : under.last) - under.first;
      g.du = s.du + (under.first + g.first - top) * row;
      load_pixels<C>(at(p.dy.data, p.type, n * p.dy.image + y * p.dy.row()), p.type, p.dy.pixel, p.dy.w, p.dy.c,
                     Prologue<C>{}, s.dy);
      max_pool_grad_row(g);
    }
    return {s.du, compute_type<C>, p.x.c};
  }

  void run() const {
    Arena arena(p.workspace);
    pass.run(arena, [&](int64_t chunk, int64_t task, const Prologue<C>& u) {
      Arena own(static_cast<char*>(p.workspace) + frame_bytes() + task * task_bytes());
      return gradient(chunk, u, scratch(own));
    });
  }
};

}  // namespace

LIGHTOPS_CPU_OP_AS(bn_act_max_pool2d, BnActMaxPool2dParams, Forward)
LIGHTOPS_CPU_OP_AS(bn_act_max_pool2d_backward, BnActMaxPool2dBackwardParams, Backward)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
