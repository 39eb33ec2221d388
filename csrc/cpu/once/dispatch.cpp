#include "lightops/dispatch.h"

#include <cstdlib>
#include <cstring>

#include "lightops/bn_relu_conv2d.h"
#include "lightops/conv1x1_bn_act.h"
#include "lightops/dense_block.h"
#include "lightops/depthwise_pointwise.h"
#include "lightops/fire.h"
#include "lightops/head.h"
#include "lightops/inverted_residual.h"
#include "lightops/stem.h"
#include "lightops/transition.h"

#define LIGHTOPS_FOR_EACH_OP(X)                    \
  X(bn_relu_conv2d, BnReluConv2dParams)            \
  X(conv1x1_bn_act, Conv1x1BnActParams)            \
  X(dense_block, DenseBlockParams)                 \
  X(depthwise_pointwise, DepthwisePointwiseParams) \
  X(fire, FireParams)                              \
  X(head, HeadParams)                              \
  X(inverted_residual, InvertedResidualParams)     \
  X(stem, StemParams)                              \
  X(transition, TransitionParams)

#if defined(__x86_64__)
#define LIGHTOPS_FOR_EACH_ISA(X) X(v4) X(v3) X(baseline)
#elif defined(__aarch64__)
#define LIGHTOPS_FOR_EACH_ISA(X) X(neon)
#else
#define LIGHTOPS_FOR_EACH_ISA(X) X(baseline)
#endif

namespace lightops {

#define LIGHTOPS_DECLARE_OP(op, Params)      \
  int64_t op##_workspace(const Params& p);   \
  Status op##_cpu(const Params& p);
#define LIGHTOPS_DECLARE_ISA(isa) namespace isa { LIGHTOPS_FOR_EACH_OP(LIGHTOPS_DECLARE_OP) }
LIGHTOPS_FOR_EACH_ISA(LIGHTOPS_DECLARE_ISA)

namespace {

struct Kernels {
  const char* isa;
#define LIGHTOPS_FIELD(op, Params)              \
  int64_t (*op##_workspace)(const Params&);     \
  Status (*op##_cpu)(const Params&);
  LIGHTOPS_FOR_EACH_OP(LIGHTOPS_FIELD)
};

#define LIGHTOPS_V4(op, Params) v4::op##_workspace, v4::op##_cpu,
#define LIGHTOPS_V3(op, Params) v3::op##_workspace, v3::op##_cpu,
#define LIGHTOPS_BASELINE(op, Params) baseline::op##_workspace, baseline::op##_cpu,
#define LIGHTOPS_NEON(op, Params) neon::op##_workspace, neon::op##_cpu,

// Best first.
const Kernels kBuilt[] = {
#if defined(__x86_64__)
    {"v4", LIGHTOPS_FOR_EACH_OP(LIGHTOPS_V4)},
    {"v3", LIGHTOPS_FOR_EACH_OP(LIGHTOPS_V3)},
#endif
#if defined(__aarch64__)
    {"neon", LIGHTOPS_FOR_EACH_OP(LIGHTOPS_NEON)},
#else
    {"baseline", LIGHTOPS_FOR_EACH_OP(LIGHTOPS_BASELINE)},
#endif
};
constexpr int kBuiltCount = sizeof kBuilt / sizeof kBuilt[0];

const Kernels* find(const char* isa) {
  for (const Kernels& k : kBuilt)
    if (!strcmp(k.isa, isa)) return &k;
  return nullptr;
}

struct Choice {
  const Kernels* kernels = nullptr;
  const char* reason = "";

  Choice() {
    const char* wanted = getenv("LIGHTOPS_CPU_ISA");
    const bool automatic = !wanted || !*wanted || !strcmp(wanted, "auto");
    if (!automatic && find(wanted) && cpu_supports(wanted)) {
      kernels = find(wanted);
      reason = "LIGHTOPS_CPU_ISA";
      return;
    }
    for (const Kernels& k : kBuilt) {
      if (!cpu_supports(k.isa)) continue;
      kernels = &k;
      break;
    }
    reason = automatic        ? "the widest that this processor supports"
             : !find(wanted)  ? "LIGHTOPS_CPU_ISA names an instruction set that is not built; took the widest supported"
                              : "this processor lacks the instruction set in LIGHTOPS_CPU_ISA; took the widest supported";
  }
};

Choice& choice() {
  static Choice c;
  return c;
}

}  // namespace

bool cpu_supports(const char* isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!strcmp(isa, "v4"))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi2");
  if (!strcmp(isa, "v3"))
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  return !strcmp(isa, "baseline");
#elif defined(__aarch64__)
  return !strcmp(isa, "neon");
#else
  return !strcmp(isa, "baseline");
#endif
}

const char* isa_name() { return choice().kernels->isa; }
const char* isa_reason() { return choice().reason; }
int isa_count_built() { return kBuiltCount; }
const char* isa_built(int index) { return index >= 0 && index < kBuiltCount ? kBuilt[index].isa : ""; }

bool isa_select(const char* isa) {
  const Kernels* k = find(isa);
  if (!k || !cpu_supports(isa)) return false;
  choice().kernels = k;
  choice().reason = "selected by the caller";
  return true;
}

#define LIGHTOPS_FORWARD(op, Params)                                                            \
  int64_t op##_workspace(const Params& p) { return choice().kernels->op##_workspace(p); }       \
  Status op##_cpu(const Params& p) { return choice().kernels->op##_cpu(p); }
LIGHTOPS_FOR_EACH_OP(LIGHTOPS_FORWARD)

}  // namespace lightops
