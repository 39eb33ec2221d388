#include "lightops/dispatch.h"

#include <cstring>

#include "lightops/pack.h"

namespace lightops {

#define LIGHTOPS_DECLARE(isa)  \
  namespace isa {              \
  void twice(float*, int64_t); \
  }
LIGHTOPS_FOR_EACH_ISA(LIGHTOPS_DECLARE)

namespace {

struct Entry {
  const char* name;
  void (*twice)(float*, int64_t);
};

#define LIGHTOPS_ENTRY(isa) {#isa, isa::twice},
constexpr Entry kBuilt[] = {LIGHTOPS_FOR_EACH_ISA(LIGHTOPS_ENTRY)};
constexpr int kCount = sizeof(kBuilt) / sizeof(kBuilt[0]);
const Entry& kPlainest = kBuilt[kCount - 1];

}  // namespace

const char* isa_name() { return kPlainest.name; }
const char* isa_reason() { return "the miniature always takes the plainest"; }
int isa_count_built() { return kCount; }
const char* isa_built(int index) { return kBuilt[index].name; }
bool cpu_supports(const char* isa) { return std::strcmp(isa, kPlainest.name) == 0; }
void twice(float* x, int64_t n) { kPlainest.twice(x, n); }
bool isa_reads_pairs() { return false; }
int64_t packed_numel(int64_t out, int64_t in, int64_t kh, int64_t kw, int, bool) { return out * in * kh * kw; }

}  // namespace lightops
