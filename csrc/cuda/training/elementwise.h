// Small passes over tensors that no product takes along.
#pragma once

#include "lightops/cuda.h"

namespace lightops::cuda {

// out = x * mask, rounded once; without a mask a copy. `out` may be x.
Result run_multiply(const Nhwc& x, const Nhwc& mask, const Nhwc& out, DType type, StreamHandle stream);

Result run_zero(float* to, int64_t elements, StreamHandle stream);

}  // namespace lightops::cuda
