#include "training/bn_act_depthwise.h"
#include "engine/depthwise_forward.h"
#include "engine/entry.h"
#include "engine/moments.h"
#include "training/depthwise_chunks.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

template <class C> struct Forward {
  const BnActConv2dParams& p;
  const Window& w = p.window;
  int64_t tasks = p.parallel.threads;
  bool in_place = p.type == compute_type<C> && !p.norm.mean && p.act == Act::none;  // x is u
  bool direct = p.type == compute_type<C>;                                          // y is written where it lies
  Cut cut = cut_rows(p.y, w.stride[0] * p.x.w * p.x.c * int64_t(sizeof(C)));
  Depthwise<C> d;
  bool walks = false;

  explicit Forward(const BnActConv2dParams& params) : p(params) {
    d.window = w;
    d.height = p.x.h;
    d.width = p.x.w;
    d.channels = p.x.c;
    walks = direct && p.y.pixel == p.y.c && depthwise_forward_fits(d, p.act);
  }

  int64_t taps() const { return w.kernel[0] * w.kernel[1]; }
  struct Frame {
    DepthwiseShared<C> shared;
    C* bias;
    C* parts;         // [chunks][2][C]: mean and deviation of each
    int64_t* counts;  // pixels of each
  };
  Frame frame(Arena& arena) const {
    const DepthwiseShared<C> shared(arena, p.norm, p.x.c, taps());
    Frame f{shared, nullptr, nullptr, nullptr};
    if (p.bias) f.bias = arena.take<C>(p.y.c);
    if (p.mean) {
      f.parts = arena.take<C>(cut.count() * 2 * p.y.c);
      f.counts = arena.take<int64_t>(cut.count());
    }
    return f;
  }
  struct Scratch {
    C* u;
    C* y;
  };
  Scratch scratch(Arena& arena) const {
    if (walks) return {arena.take<C>(depthwise_forward_scratch(d)), nullptr};
    const int64_t rows = (cut.step - 1) * w.stride[0] + w.dilation[0] * (w.kernel[0] - 1) + 1;
    C* const u = in_place ? nullptr : arena.take<C>((rows < p.x.h ? rows : p.x.h) * p.x.w * p.x.c);
    return {u, direct ? nullptr : arena.take<C>(p.y.w * p.y.c)};
  }
  int64_t frame_bytes() const {
    Arena arena;
    frame(arena);
    return arena.used();
  }
  int64_t task_bytes() const {
    Arena arena;
    scratch(arena);
    return arena.used();
  }
  int64_t workspace() const { return frame_bytes() + tasks * task_bytes(); }

  void chunk(const Prologue<C>& prologue, int64_t i, const Scratch& s, C* part) const {
    const int64_t n = cut.image(i), y = cut.row(i), rows = cut.height(i);
    if (part) take_back(part, 2 * p.y.c);
    if (walks) {
      C* const to = reinterpret_cast<C*>(at(p.y.data, p.type, n * p.y.image + y * p.y.row()));
      depthwise_forward<C>(d, prologue, static_cast<const C*>(p.x.data) + n * p.x.image, p.x.pixel, y, rows, p.y.w, to,
                           part, part ? part + p.y.c : nullptr, s.u);
      return;
    }
    const int64_t first = d.first_row(y), last = d.last_row(y + rows - 1);
    const char* x = at(p.x.data, p.type, n * p.x.image + first * p.x.row());
    const C* in = reinterpret_cast<const C*>(x);
    if (!in_place) {
      load_pixels<C>(x, p.type, p.x.pixel, last > first ? (last - first) * p.x.w : 0, p.x.c, prologue, s.u);
      in = s.u;
    }
    const int64_t pixel = in_place ? p.x.pixel : p.x.c;
    char* const out = at(p.y.data, p.type, n * p.y.image + y * p.y.row());
    for (int64_t r = 0; r < rows; ++r) {
      char* const row = at(out, p.type, r * p.y.row());
      depthwise_rows<C>(d, in, first, p.x.w * pixel, pixel, y + r, 1, p.y.w, direct ? reinterpret_cast<C*>(row) : s.y,
                        0, p.y.c);
      if (!direct) store_values<C>(s.y, p.y.w * p.y.c, p.type, row);
    }
    if (part) moments<C>(out, p.type, p.y.pixel, rows * p.y.w, p.y.c, part, part + p.y.c);
  }

  void run() {
    Arena arena(p.workspace);
    const Frame f = frame(arena);
    f.shared.fill(p, taps());
    if (p.bias) load_pixels<C>(p.bias, p.type, 0, 1, p.y.c, Prologue<C>{}, f.bias);
    d.weights = f.shared.packed;
    d.bias = f.bias;
    const Prologue<C> prologue = f.shared.prologue(p.act);
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      Arena own(static_cast<char*>(p.workspace) + frame_bytes() + task * task_bytes());
      const Scratch s = scratch(own);
      const Share part = share(cut.count(), task, tasks);
      // A dense convolution before and behind it goes from the beginning.
      for (int64_t k = part.first; k < part.last; ++k) {
        const int64_t i = from_end(part, k);
        chunk(prologue, i, s, p.mean ? f.parts + i * 2 * p.y.c : nullptr);
      }
    });
    if (!p.mean) return;
    cut.counts(f.counts);
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share part = share(p.y.c, task, tasks, kGroup);
      merge_moments<C>(f.parts + part.first, f.counts, cut.count(), p.y.c, part.size(),
                       static_cast<C*>(p.mean) + part.first, static_cast<C*>(p.var) + part.first);
    });
  }
};

}  // namespace

LIGHTOPS_CPU_OP_AS(bn_act_depthwise, BnActConv2dParams, Forward)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
