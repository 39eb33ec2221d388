// A training weight into the form the implicit GEMM reads, on the device: weights change at every step.
#pragma once

#include <vector>

#include "lightops/cuda.h"
#include "lightops/training/weight.h"

namespace lightops::cuda {

enum class Packing : int {
  forward,         // [taps][O][row over I]
  input_gradient,  // [taps, last first][I][row over O]: a convolution of dy with it is the input gradient at stride 1
  gathered,  // [O][row over (ky, kx, i)]: the stem's
};

// Rows are whole 16-byte chunks, zero filled.
struct PackProblem {
  TrainWeight weight;  // [O, I, kh, kw] by strides in elements, of `type`
  int64_t out = 0, in = 0;
  int64_t kernel[2] = {1, 1};
  DType type = DType::f32;
  Packing packing = Packing::forward;
};

int64_t packed_bytes(const PackProblem& p);

struct PackJob {
  PackProblem problem;
  void* packed;
};
// Weights of one type, packed by one launch (for every 32 of them).
Result run_packs(const std::vector<PackJob>& jobs, StreamHandle stream);

// A vector of `type` as float32: biases.
Result run_widen(const void* from, DType type, int64_t elements, float* to, StreamHandle stream);

}  // namespace lightops::cuda
