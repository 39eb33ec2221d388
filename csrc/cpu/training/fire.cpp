#include "lightops/training/fire.h"

#include "engine/entry.h"
#include "engine/panels.h"
#include "lightops/fire.h"

namespace lightops {
namespace LIGHTOPS_ISA {

int64_t fire_workspace(const FireParams& p);
Status fire_cpu(const FireParams& p);

namespace {

// The inference kernel on weights packed here: nothing of Fire waits on statistics of the batch.
template <class C> struct Body {
  const FireTrainParams& p;
  int64_t squeeze = p.squeeze, expand3 = p.out.c - p.expand1;

  explicit Body(const FireTrainParams& params) : p(params) {}

  struct Packed {
    C *ws, *w1, *w3;
    int64_t bytes;
  };
  Packed packed() const {
    Arena arena(p.workspace);
    Packed s;
    s.ws = arena.take<C>(panels1x1_elements(squeeze, p.x.c));
    s.w1 = arena.take<C>(panels1x1_elements(p.expand1, squeeze));
    s.w3 = arena.take<C>(panels3x3_elements(expand3, squeeze, p.algo));
    s.bytes = arena.used();
    return s;
  }
  FireParams inference(const Packed& w) const {
    FireParams f;
    f.x = p.x;
    f.out = p.out;
    f.type = p.type;
    f.squeeze = w.ws;
    f.squeeze_bias = p.bs;
    f.squeeze_channels = squeeze;
    f.expand1 = w.w1;
    f.expand1_bias = p.b1;
    f.expand1_channels = p.expand1;
    f.expand3 = w.w3;
    f.expand3_bias = p.b3;
    f.expand3_channels = expand3;
    f.algo = p.algo;
    f.parallel = p.parallel;
    f.workspace = static_cast<char*>(p.workspace) + w.bytes;
    return f;
  }
  int64_t workspace() const {
    const Packed w = packed();
    return w.bytes + LIGHTOPS_ISA::fire_workspace(inference(w));
  }

  void run() const {
    const Packed w = packed();
    const int64_t tasks = p.parallel.threads;
    for_tasks(p.parallel, tasks, [&](int64_t task) {
      const Share wide = share(p.x.c, task, tasks, 8), narrow = share(squeeze, task, tasks, 8);
      pack_panels1x1(weight_view<C>(p.ws, squeeze, p.x.c), wide.first, wide.last, w.ws);
      pack_panels1x1(weight_view<C>(p.w1, p.expand1, squeeze), narrow.first, narrow.last, w.w1);
      pack_panels3x3(weight_view<C>(p.w3, expand3, squeeze), p.algo, narrow.first, narrow.last, w.w3);
    });
    LIGHTOPS_ISA::fire_cpu(inference(w));
  }
};

}  // namespace

LIGHTOPS_CPU_OP(fire_train, FireTrainParams)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
