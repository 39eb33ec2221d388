#include "lightops/max_pool2d.h"

#include "engine/entry.h"
#include "engine/max_pool.h"

namespace lightops {
namespace LIGHTOPS_ISA {
namespace {

template <class C> struct Body {
  const MaxPool2dParams& p;
  MaxPool<C, MaxPool2dParams> pool{p, {}, true};

  explicit Body(const MaxPool2dParams& params) : p(params) {}
  int64_t workspace() const { return pool.workspace(); }
  void run() const { pool.run(p.workspace); }
};

}  // namespace

LIGHTOPS_CPU_OP(max_pool2d, MaxPool2dParams)

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
