#include "lightops/dispatch.h"

#include <cstdlib>
#include <cstring>

#include "kernels.h"

// The build names the instruction sets it compiled, best first.
#ifndef LIGHTOPS_FOR_EACH_ISA
#error "define LIGHTOPS_FOR_EACH_ISA(X), for example -D'LIGHTOPS_FOR_EACH_ISA(X)=X(v4) X(v3) X(baseline)'"
#endif

namespace lightops {

#define LIGHTOPS_DECLARE_ISA(isa) namespace isa { extern const Kernels kKernels; }
LIGHTOPS_FOR_EACH_ISA(LIGHTOPS_DECLARE_ISA)

namespace {

#define LIGHTOPS_TABLE(isa) &isa::kKernels,
const Kernels* const kBuilt[] = {LIGHTOPS_FOR_EACH_ISA(LIGHTOPS_TABLE)};
constexpr int kBuiltCount = sizeof kBuilt / sizeof kBuilt[0];

const Kernels* find(const char* isa) {
  for (const Kernels* k : kBuilt)
    if (!strcmp(k->isa, isa)) return k;
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
    for (const Kernels* k : kBuilt) {
      if (!cpu_supports(k->isa)) continue;
      kernels = k;
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
  if (!strcmp(isa, "v4bf16")) return cpu_supports("v4") && __builtin_cpu_supports("avx512bf16");
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
bool isa_reads_pairs() { return choice().kernels->pairs; }
int isa_count_built() { return kBuiltCount; }
const char* isa_built(int index) { return index >= 0 && index < kBuiltCount ? kBuilt[index]->isa : ""; }

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

// The package's tests and benchmarks switch instruction sets inside one process through this symbol.
extern "C" __attribute__((visibility("default"))) bool lightops_select_isa(const char* isa) {
  return lightops::isa_select(isa);
}
