#include "lightops/dispatch.h"
#include "kernels.h"

namespace lightops {

#define LIGHTOPS_DECLARE_ISA(isa) \
  namespace isa {                 \
  extern const Kernels kKernels;  \
  }
LIGHTOPS_FOR_EACH_ISA(LIGHTOPS_DECLARE_ISA)

namespace {

#define LIGHTOPS_TABLE(isa) &isa::kKernels,
const Kernels* const kTables[] = {LIGHTOPS_FOR_EACH_ISA(LIGHTOPS_TABLE)};  // in the order of isa_built()

}  // namespace

#define LIGHTOPS_FORWARD(op, Params)                                                          \
  int64_t op##_workspace(const Params& p) { return kTables[isa_index()]->op##_workspace(p); } \
  Status op##_cpu(const Params& p) { return kTables[isa_index()]->op##_cpu(p); }
LIGHTOPS_FOR_EACH_OP(LIGHTOPS_FORWARD)

}  // namespace lightops
