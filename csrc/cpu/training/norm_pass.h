// The whole backward of act(norm(x)) where the gradient of its result lies in memory: a pass that sums, a pass that
// writes dx; one pass for a frozen norm.
#pragma once

#include "engine/norm.h"

namespace lightops {
namespace LIGHTOPS_ISA {

template <class C> struct NormPass {
  Nhwc x, dx;
  DType type;
  Norm norm;
  Act act;
  C *dgamma, *dbeta;
  Parallel parallel;
  Cut cut;

  // P: the parameters of one of the operators that end so.
  template <class P>
  explicit NormPass(const P& p)
      : x(p.x),
        dx(p.dx),
        type(p.type),
        norm(p.norm),
        act(p.act),
        dgamma(static_cast<C*>(p.dgamma)),
        dbeta(static_cast<C*>(p.dbeta)),
        parallel(p.parallel) {}

  struct Vectors { C *scale, *shift, *sum, *sum_x, *a, *b, *d, *parts; };
  Vectors vectors(Arena& arena) const {
    Vectors v;
    C** const all[] = {&v.scale, &v.shift, &v.sum, &v.sum_x, &v.a, &v.b, &v.d};
    for (C** p : all) *p = arena.take<C>(x.c);
    v.parts = arena.take<C>(cut.count() * 2 * x.c);
    return v;
  }

  // du(chunk, task, prologue of u) gives the gradient's pixels of a chunk; it may compute them, and is asked in both passes.
  template <class F> void run(Arena& arena, const F& du) const {
    const Vectors v = vectors(arena);
    const int64_t tasks = parallel.threads, c = x.c;
    affine_of<C>(norm, c, v.scale, v.shift);
    NormBackward<C> n;
    n.scale = v.scale;
    n.shift = v.shift;
    n.mean = static_cast<const C*>(norm.mean);
    n.act = act;
    if (!norm.batch) n.a = v.scale;
    Prologue<C> u;
    u.act = act;
    if (norm.mean) {
      u.scale = v.scale;
      u.shift = v.shift;
    }
    const auto pass = [&](bool sum) {
      for_tasks(parallel, tasks, [&](int64_t task) {
        const Share part = share(cut.count(), task, tasks);
        for (int64_t k = part.first; k < part.last; ++k) {
          const int64_t i = sum ? k : from_end(part, k);
          const int64_t row = cut.row(i) * cut.width;
          const Pixels in{at(x.data, type, cut.image(i) * x.image + row * x.pixel), type, x.pixel};
          void* out = n.a ? at(dx.data, type, cut.image(i) * dx.image + row * dx.pixel) : nullptr;
          C* sums = sum ? v.parts + i * 2 * c : nullptr;
          if (sums) memset(sums, 0, size_t(2 * c) * sizeof(C));
          norm_backward<C>(n, in, du(i, task, u), cut.pixels(i), c, out, dx.pixel, sums, c);
        }
      });
    };
    pass(true);
    for_tasks(parallel, tasks, [&](int64_t task) {
      const Share part = share(c, task, tasks, kPanel);
      merge_sums(cut.count(), v.parts + part.first, 2 * c, part.size(), v.sum + part.first);
      merge_sums(cut.count(), v.parts + c + part.first, 2 * c, part.size(), v.sum_x + part.first);
      norm_gradients(norm, cut.total(), v.sum, v.sum_x, part.first, part.last, dgamma, dbeta, v.a, v.b, v.d);
    });
    if (!norm.batch) return;
    n.a = v.a;
    n.b = v.b;
    n.d = v.d;
    pass(false);
  }
};

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
