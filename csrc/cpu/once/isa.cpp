// Which instruction set runs: by name, without the kernels, so that `_C` can tell without carrying them.
#include <cstdlib>
#include <cstring>

#include "lightops/dispatch.h"

// The build names the instruction sets it compiled, best first.
#ifndef LIGHTOPS_FOR_EACH_ISA
#error "define LIGHTOPS_FOR_EACH_ISA(X), for example -D'LIGHTOPS_FOR_EACH_ISA(X)=X(v4) X(v3) X(baseline)'"
#endif

namespace lightops {
namespace {

#define LIGHTOPS_NAME(isa) #isa,
const char* const kBuilt[] = {LIGHTOPS_FOR_EACH_ISA(LIGHTOPS_NAME)};
constexpr int kBuiltCount = sizeof kBuilt / sizeof kBuilt[0];

int find(const char* isa) {
  for (int i = 0; i < kBuiltCount; ++i)
    if (!strcmp(kBuilt[i], isa)) return i;
  return -1;
}

struct Choice {
  int index = 0;
  const char* reason = "";

  Choice() {
    const char* wanted = getenv("LIGHTOPS_CPU_ISA");
    const bool automatic = !wanted || !*wanted || !strcmp(wanted, "auto");
    if (!automatic && find(wanted) >= 0 && cpu_supports(wanted)) {
      index = find(wanted);
      reason = "LIGHTOPS_CPU_ISA";
      return;
    }
    while (index < kBuiltCount - 1 && !cpu_supports(kBuilt[index])) ++index;
    reason = automatic ? "the widest that this processor supports"
             : find(wanted) < 0
                 ? "LIGHTOPS_CPU_ISA names an instruction set that is not built; took the widest supported"
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
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi2");
  if (!strcmp(isa, "v3"))
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  return !strcmp(isa, "baseline");
#elif defined(__aarch64__)
  return !strcmp(isa, "neon");
#else
  return !strcmp(isa, "baseline");
#endif
}

int isa_index() { return choice().index; }
const char* isa_name() { return kBuilt[choice().index]; }
const char* isa_reason() { return choice().reason; }
bool isa_reads_pairs() { return !strcmp(isa_name(), "v4bf16"); }
int isa_count_built() { return kBuiltCount; }
const char* isa_built(int index) { return index >= 0 && index < kBuiltCount ? kBuilt[index] : ""; }

bool isa_select(const char* isa) {
  const int index = find(isa);
  if (index < 0 || !cpu_supports(isa)) return false;
  choice().index = index;
  choice().reason = "selected by the caller";
  return true;
}

}  // namespace lightops

// The package's tests and benchmarks switch instruction sets inside one process through this symbol.
extern "C" __attribute__((visibility("default"))) bool lightops_select_isa(const char* isa) {
  return lightops::isa_select(isa);
}
