#include "lightops/training/batch_stats.h"

#include "engine/entry.h"
#include "engine/moments.h"
#include "engine/norm.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

template <class C> struct Body {
  const BatchStatsParams& p;
  Cut cut = cut_pixels<C>(p.x);

  explicit Body(const BatchStatsParams& params) : p(params) {}

  int64_t workspace() const {
    Arena arena;
    arena.take<C>(cut.count() * 2 * p.x.c);
    arena.take<int64_t>(cut.count());
    return arena.used();
  }

  void run() const {
    Arena arena(p.workspace);
    C* parts = arena.take<C>(cut.count() * 2 * p.x.c);
    int64_t* counts = arena.take<int64_t>(cut.count());
    cut.counts(counts);
    const int64_t tasks = p.parallel.threads;
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share part = share(cut.count(), task, tasks);
      for (int64_t i = part.first; i < part.last; ++i) {
        C* mean = parts + i * 2 * p.x.c;
        moments<C>(at(p.x.data, p.type, cut.image(i) * p.x.image + cut.row(i) * p.x.pixel), p.type, p.x.pixel,
                   counts[i], p.x.c, mean, mean + p.x.c);
      }
    });
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share part = share(p.x.c, task, tasks, kPanel);
      merge_moments(parts + part.first, counts, cut.count(), p.x.c, part.size(), static_cast<C*>(p.mean) + part.first,
                    static_cast<C*>(p.var) + part.first);
    });
  }
};

}  // namespace

LIGHTOPS_CPU_OP(batch_stats, BatchStatsParams)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
