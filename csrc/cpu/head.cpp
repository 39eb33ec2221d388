#include "lightops/head.h"

#include "engine/entry.h"
#include "engine/gemm.h"
#include "engine/rows.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Means first (tasks share images and vectors of channels), then one product over all images (tasks share panels).
template <class E> struct Body {
  using C = Compute<E>;

  const HeadParams& p;
  int64_t tasks = p.parallel.threads;
  int64_t groups = ceil_div(p.x.c, kPanel);  // of channels, whole cache lines

  explicit Body(const HeadParams& params) : p(params) {}

  struct Scratch {
    C* sums;
    E* means;
    int64_t bytes;
  };
  Scratch scratch(void* base) const {
    Arena arena(base);
    Scratch s;
    s.sums = arena.take<C>(p.x.n * p.x.c);
    s.means = sizeof(E) == sizeof(C) ? reinterpret_cast<E*>(s.sums) : arena.take<E>(p.x.n * p.x.c);
    s.bytes = arena.used();
    return s;
  }
  int64_t workspace() const { return scratch(nullptr).bytes; }

  void mean(int64_t n, int64_t first, int64_t channels, C* sums) const {
    const Prologue<C> prologue{p.scale ? static_cast<const C*>(p.scale) + first : nullptr,
                               p.shift ? static_cast<const C*>(p.shift) + first : nullptr, p.act};
    C* sum = sums + n * p.x.c + first;
    memset(sum, 0, size_t(channels) * sizeof(C));
    // Rows are summed apart: one running sum over a 112 x 112 map would lose a dozen bits.
    for (int64_t y = 0; y < p.x.h; ++y) {
      C row[kPanel] = {};
      accumulate_pixels<C>(at(p.x.data, p.type, n * p.x.image + y * p.x.row() + first), p.type, p.x.pixel, p.x.w,
                           channels, prologue, row);
      for (int64_t c = 0; c < channels; ++c) sum[c] += row[c];
    }
    const C pixels = C(p.x.h * p.x.w);
    for (int64_t c = 0; c < channels; ++c) sum[c] /= pixels;
  }

  void run() const {
    const Scratch s = scratch(p.workspace);
    C* sums = s.sums;
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share part = share(p.x.n * groups, task, tasks);
      for (int64_t i = part.first; i < part.last; ++i) {
        const int64_t first = i % groups * kPanel;
        mean(i / groups, first, p.x.c - first < kPanel ? p.x.c - first : kPanel, sums);
      }
    });
    Gemm<E> g;
    g.inner = p.x.n;
    g.a = s.means;
    g.a_inner = g.length = p.x.c;
    g.b = static_cast<const E*>(p.weight);
    g.outputs = p.out_features;
    g.bias = static_cast<const C*>(p.bias);
    g.out = p.out;
    g.out_type = p.type;
    g.out_inner = p.out_features;
    if (p.weight) {
      if (sizeof(E) != sizeof(C)) store_values<C>(sums, p.x.n * p.x.c, compute_type<E>, s.means);
      for_tasks(p.parallel, tasks, [&](int64_t task) {
        const Share panel = share(g.panels(), task, tasks);
        gemm(g, panel.first, panel.last);
      });
    } else {
      store_values<C>(sums, p.x.n * p.x.c, p.type, p.out);
    }
  }
};

}  // namespace

LIGHTOPS_CPU_OP_PAIRS(head, HeadParams)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
