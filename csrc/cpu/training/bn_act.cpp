#include "lightops/training/bn_act.h"

#include "engine/entry.h"
#include "training/norm_pass.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

template <class C> struct Forward {
  const BnActParams& p;
  Cut cut = cut_pixels<C>(p.x);

  explicit Forward(const BnActParams& params) : p(params) {
    if (!one_line(p.x) || !one_line(p.out) || (p.residual.data && !one_line(p.residual)))
      cut = Cut{p.x.n, p.x.h * p.x.w, 1, cut.step};
  }

  int64_t workspace() const {
    Arena arena;
    arena.take<C>(p.x.c);
    arena.take<C>(p.x.c);
    return arena.used();
  }

  void run() const {
    Arena arena(p.workspace);
    C *scale = arena.take<C>(p.x.c), *shift = arena.take<C>(p.x.c);
    affine_of<C>(p.norm, p.x.c, scale, shift);
    const int64_t tasks = p.parallel.threads;
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share part = share(cut.count(), task, tasks);
      for (int64_t i = part.first; i < part.last; ++i) {
        const auto pixels = [&](const Nhwc& t) {
          return at(t.data, p.type, cut.image(i) * t.image + cut.row(i) * t.pixel);
        };
        const Pixels residual{p.residual.data ? pixels(p.residual) : nullptr, p.type, p.residual.pixel};
        norm_forward<C>({scale, shift, p.act}, {pixels(p.x), p.type, p.x.pixel}, residual, cut.pixels(i), p.x.c,
                        pixels(p.out), p.out.pixel);
      }
    });
  }
};

template <class C> struct Backward {
  const BnActBackwardParams& p;
  NormPass<C> pass{p};

  explicit Backward(const BnActBackwardParams& params) : p(params) {
    pass.cut = cut_pixels<C>(p.x);
    if (!one_line(p.x) || !one_line(p.dy) || !one_line(p.dx)) pass.cut = Cut{p.x.n, p.x.h * p.x.w, 1, pass.cut.step};
  }

  int64_t workspace() const {
    Arena arena;
    pass.vectors(arena);
    return arena.used();
  }

  void run() const {
    Arena arena(p.workspace);
    const Cut& cut = pass.cut;
    pass.run(arena, [&](int64_t i, int64_t, const Prologue<C>&) {
      return Pixels{at(p.dy.data, p.type, cut.image(i) * p.dy.image + cut.row(i) * p.dy.pixel), p.type, p.dy.pixel};
    });
  }
};

}  // namespace

LIGHTOPS_CPU_OP_AS(bn_act, BnActParams, Forward)
LIGHTOPS_CPU_OP_AS(bn_act_backward, BnActBackwardParams, Backward)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
