#include "lightops/transition.h"

#include "engine/entry.h"
#include "engine/gemm.h"
#include "engine/rows.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

// A strip of pooled, activated rows is the A operand of the 1x1 product. One small image with large weights is pooled
// together and its outputs shared by panels.
template <class E> struct Body {
  using C = Compute<E>;

  const TransitionParams& p;
  int64_t tasks = p.parallel.threads;
  int64_t panels = ceil_div(p.out.c, kPanel);
  int64_t row_elements = p.out.w * p.x.c;
  bool together;
  int64_t rows;

  explicit Body(const TransitionParams& params) : p(params) {
    together = too_few_rows(p.x.n, p.out.h, tasks) && panels >= tasks;
    rows = kScratchBytes / int64_t(sizeof(E)) / row_elements;
    if (rows < 1) rows = 1;
    if (rows > p.out.h || together) rows = p.out.h;
  }

  int64_t tile_bytes() const {
    Arena arena;
    arena.take<E>(rows * row_elements);
    return together ? arena.used() : apart(arena.used(), tasks);
  }
  int64_t workspace() const { return (together ? 1 : tasks) * tile_bytes(); }

  void pool(int64_t n, int64_t y, int64_t count, E* tile) const {
    const Prologue<C> prologue{static_cast<const C*>(p.scale), static_cast<const C*>(p.shift), Act::relu};
    for (int64_t i = 0; i < count; ++i) {
      const char* top = at(p.x.data, p.type, n * p.x.image + 2 * (y + i) * p.x.row());
      load_pooled_row<E>(top, at(top, p.type, p.x.row()), p.type, p.x.pixel, p.out.w, p.x.c, prologue,
                         tile + i * row_elements);
    }
  }

  void product(int64_t n, int64_t y, int64_t count, const E* tile, Share panel) const {
    Gemm<E> g;
    g.outer = count;
    g.inner = p.out.w;
    g.a = tile;
    g.a_outer = row_elements;
    g.a_inner = g.length = p.x.c;
    g.b = static_cast<const E*>(p.weight);
    g.outputs = p.out.c;
    g.bias = static_cast<const C*>(p.bias);
    g.out = at(p.out.data, p.type, n * p.out.image + y * p.out.row());
    g.out_type = p.type;
    g.out_outer = p.out.row();
    g.out_inner = p.out.pixel;
    gemm(g, panel.first, panel.last);
  }

  void run() const {
    if (together) {
      E* tile = static_cast<E*>(p.workspace);
      for (int64_t n = 0; n < p.x.n; ++n) {
        for_tasks(p.parallel, tasks, [&](int64_t task) {
          const Share part = share(p.out.h, task, tasks);
          pool(n, part.first, part.size(), tile + part.first * row_elements);
        });
        for_tasks(p.parallel, tasks, [&](int64_t task) { product(n, 0, p.out.h, tile, share(panels, task, tasks)); });
      }
      return;
    }
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      E* tile = reinterpret_cast<E*>(static_cast<char*>(p.workspace) + task * tile_bytes());
      const Share part = share(p.x.n * p.out.h, task, tasks);
      for (int64_t row = part.first, step; row < part.last; row += step) {
        const int64_t n = row / p.out.h, y = row % p.out.h;
        step = rows < part.last - row ? rows : part.last - row;
        if (step > p.out.h - y) step = p.out.h - y;
        pool(n, y, step, tile);
        product(n, y, step, tile, {0, panels});
      }
    });
  }
};

}  // namespace

LIGHTOPS_CPU_OP_PAIRS(transition, TransitionParams)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
