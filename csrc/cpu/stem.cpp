#include "engine/entry.h"
#include "engine/max_pool_row.h"
#include "engine/stem_rows.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// Every task takes a share of the final rows.
template <class E> struct Body {
  using C = Compute<E>;

  const StemParams& p;
  StemRows<E> stem{p};

  explicit Body(const StemParams& params) : p(params) {}

  int64_t workspace() const { return stem.tasks * stem.task_bytes(); }

  void pooled(int64_t n, int64_t first, int64_t last, const typename StemRows<E>::Scratch& s) const {
    stem.pooled_rows(n, first, last, s, [&](int64_t top, const C* in, int64_t y) {
      const int64_t start = top < 0 ? 0 : top, end = top + p.pool.kernel[0];
      max_pool_row<C>(in, stem.conv_row, p.out.c, (end < stem.conv_height ? end : stem.conv_height) - start,
                      stem.conv_width, p.out.c, p.pool.kernel[1], p.pool.stride[1], p.pool.padding[1], p.out.w,
                      at(p.out.data, p.type, n * p.out.image + y * p.out.row()), p.type, p.out.pixel);
    });
  }

  void run() const {
    for_tasks(p.parallel, stem.tasks, [&](int64_t task) {
      Arena arena(static_cast<char*>(p.workspace) + task * stem.task_bytes());
      const auto s = stem.scratch(arena);
      const Share part = share(p.x.n * p.out.h, task, stem.tasks);
      for (int64_t row = part.first, step; row < part.last; row += step) {
        const int64_t n = row / p.out.h, y = row % p.out.h;
        step = part.last - row < p.out.h - y ? part.last - row : p.out.h - y;
        if (p.pooled) {
          pooled(n, y, y + step, s);
          continue;
        }
        if (step > stem.rows) step = stem.rows;
        stem.convolve(n, y, step, s.input, at(p.out.data, p.type, n * p.out.image + y * p.out.row()), p.type,
                      p.out.row(), p.out.pixel);
      }
    });
  }
};

}  // namespace

LIGHTOPS_CPU_OP_PAIRS(stem, StemParams)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
