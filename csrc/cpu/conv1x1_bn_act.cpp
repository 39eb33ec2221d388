#include "lightops/conv1x1_bn_act.h"

#include "engine/entry.h"
#include "engine/pointwise.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

template <class E> struct Body {
  using C = Compute<E>;

  const Conv1x1BnActParams& p;
  int64_t tasks = p.parallel.threads;
  // Images that follow each other without a gap are one image: batches of small maps fill whole tiles.
  bool one_image =
      p.x.image == p.x.h * p.x.row() && (!p.residual.data || p.residual.image == p.residual.h * p.residual.row());
  int64_t images = one_image ? 1 : p.x.n;
  int64_t pixels = (one_image ? p.x.n : 1) * p.x.h * p.x.w;

  explicit Body(const Conv1x1BnActParams& params) : p(params) {}

  int64_t scratch_bytes() const {
    Arena arena;
    arena.take<E>(pointwise_scratch<E>(p.x.c, 1));
    return apart(arena.used(), tasks);
  }
  int64_t workspace() const { return tasks * scratch_bytes(); }

  void run() {
    const int64_t panels = ceil_div(p.out.c, kPanel);
    const bool by_panel = share_panels(panels, tasks, p.x.c * p.out.c, pixels * images * (p.x.c + p.out.c));
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share part = share(pixels, by_panel ? 0 : task, by_panel ? 1 : tasks);
      const Share panel = share(panels, by_panel ? task : 0, by_panel ? tasks : 1);
      for (int64_t n = 0; n < images; ++n) {
        Pointwise<E> w;
        w.x = at(p.x.data, p.type, n * p.x.image + part.first * p.x.pixel);
        w.type = w.out_type = p.type;
        w.width = part.size();
        w.x_row = part.size() * p.x.pixel;
        w.x_pixel = p.x.pixel;
        w.channels = p.x.c;
        w.weights = static_cast<const E*>(p.weight);
        w.bias = static_cast<const C*>(p.bias);
        w.outputs = p.out.c;
        w.act = p.act;
        w.out = at(p.out.data, p.type, n * p.out.image + part.first * p.out.pixel);
        w.out_row = part.size() * p.out.pixel;
        w.out_pixel = p.out.pixel;
        if (p.residual.data) {
          w.residual = at(p.residual.data, p.type, n * p.residual.image + part.first * p.residual.pixel);
          w.residual_row = part.size() * p.residual.pixel;
          w.residual_pixel = p.residual.pixel;
        }
        w.scratch = reinterpret_cast<E*>(static_cast<char*>(p.workspace) + task * scratch_bytes());
        pointwise(w, panel.first, panel.last);
      }
    });
  }
};

}  // namespace

LIGHTOPS_CPU_OP_PAIRS(conv1x1_bn_act, Conv1x1BnActParams)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
