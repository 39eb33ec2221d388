// Batch normalisation as the training kernels read it: z = (x - mean) / sqrt(var + eps) * gamma + beta, recomputed from
// the raw tensor x wherever it is needed and never stored.
#pragma once

#include "lightops/common.h"

namespace lightops {

// Vectors of [C] in the compute type (float64 for float64, else float32).
struct Norm {
  const void* mean = nullptr;  // null: no normalisation, z = x
  const void* var = nullptr;  // biased variance (or a running one)
  const void* gamma = nullptr;  // null: 1
  const void* beta = nullptr;  // null: 0
  double eps = 0;
  bool batch = false;  // backward: mean and var are functions of x (training), not constants (frozen)
};

}  // namespace lightops
