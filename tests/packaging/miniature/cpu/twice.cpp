#include <cstdint>

#include "engine/factor.h"

namespace lightops {
namespace LIGHTOPS_ISA {

void twice(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] *= kFactor;
}

}  // namespace LIGHTOPS_ISA
}  // namespace lightops
