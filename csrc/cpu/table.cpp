#include "kernels.h"

namespace lightops {
namespace LIGHTOPS_ISA {

#define LIGHTOPS_DECLARE(op, Params)       \
  int64_t op##_workspace(const Params& p); \
  Status op##_cpu(const Params& p);
LIGHTOPS_FOR_EACH_OP(LIGHTOPS_DECLARE)

#define LIGHTOPS_ENTRY(op, Params) op##_workspace, op##_cpu,
extern const Kernels kKernels = {LIGHTOPS_FOR_EACH_OP(LIGHTOPS_ENTRY)};

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
