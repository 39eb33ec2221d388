// A convolution's weight as the training kernels take it: unpacked, because it changes at every step.
#pragma once

#include "lightops/common.h"

namespace lightops {

// [O, I, kh, kw] by strides, in the compute type (float64 for float64, else float32).
struct TrainWeight {
  void* data = nullptr;
  int64_t stride[4] = {0, 0, 0, 0};
};

}  // namespace lightops
