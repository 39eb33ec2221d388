// The noise of dropout as PyTorch draws it on the CPU, from the same generator: out[i] = value where the i-th number of
// [0, 1) in double is below `keep`, else 0. A number takes 53 bits of two draws of the generator, a Mersenne Twister
// (Matsumoto and Nishimura 1998).
#pragma once

#include "lightops/common.h"

namespace lightops {

struct DropoutNoiseParams {
  void* out = nullptr;  // [count] of `type`
  DType type = DType::f32;
  int64_t count = 0;
  double keep = 1, value = 1;
  void* state = nullptr;  // of the generator, as torch.Generator.get_state() lays it out; moved on by 2 * count draws
  void* workspace = nullptr;
  Parallel parallel;
};

// Bytes of the generator's state that are read and written.
constexpr int64_t kGeneratorBytes = 24 + 624 * 8;

int64_t dropout_noise_workspace(const DropoutNoiseParams& p);
Status dropout_noise_cpu(const DropoutNoiseParams& p);

}  // namespace lightops
