#include "lightops/training/bn_act_mean.h"

#include "engine/entry.h"
#include "training/norm_pass.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Tasks share images and groups of channels, as in head.cpp.
template <class C> struct Forward {
  const BnActMeanParams& p;
  int64_t groups = ceil_div(p.x.c, kPanel);

  explicit Forward(const BnActMeanParams& params) : p(params) {}

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
      const Share part = share(p.x.n * groups, task, tasks);
      for (int64_t i = part.first; i < part.last; ++i) {
        const int64_t n = i / groups, first = i % groups * kPanel;
        const int64_t count = p.x.c - first < kPanel ? p.x.c - first : kPanel;
        const Prologue<C> prologue{scale + first, shift + first, p.act};
        C sum[kPanel] = {};
        for (int64_t y = 0; y < p.x.h; ++y) {
          C row[kPanel] = {};
          accumulate_pixels<C>(at(p.x.data, p.type, n * p.x.image + y * p.x.row() + first), p.type, p.x.pixel, p.x.w,
                               count, prologue, row);
          for (int64_t c = 0; c < count; ++c) sum[c] += row[c];
        }
        for (int64_t c = 0; c < count; ++c) sum[c] /= C(p.x.h * p.x.w);
        store_values<C>(sum, count, p.type, at(p.out, p.type, n * p.x.c + first));
      }
    });
  }
};

// The gradient of an image is one pixel, divided by their number, that stands everywhere.
template <class C> struct Backward {
  const BnActMeanBackwardParams& p;
  NormPass<C> pass{p};

  explicit Backward(const BnActMeanBackwardParams& params) : p(params) {
    pass.cut = Cut{p.x.n, p.x.h * p.x.w, 1, cut_pixels<C>(p.x).step};
  }

  int64_t workspace() const {
    Arena arena;
    pass.vectors(arena);
    arena.take<C>(p.x.n * p.x.c);
    return arena.used();
  }

  void run() const {
    Arena arena(p.workspace);
    C* gradient = arena.take<C>(p.x.n * p.x.c);
    load_pixels<C>(p.dy, p.type, p.x.n * p.x.c, 1, p.x.n * p.x.c, Prologue<C>{}, gradient);
    for (int64_t i = 0; i < p.x.n * p.x.c; ++i) gradient[i] /= C(p.x.h * p.x.w);
    pass.run(arena, [&](int64_t i, int64_t, const Prologue<C>&) {
      return Pixels{gradient + pass.cut.image(i) * p.x.c, compute_type<C>, 0};
    });
  }
};

}  // namespace

LIGHTOPS_CPU_OP_AS(bn_act_mean, BnActMeanParams, Forward)
LIGHTOPS_CPU_OP_AS(bn_act_mean_backward, BnActMeanBackwardParams, Backward)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
