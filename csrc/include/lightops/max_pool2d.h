// Max-pool: out[n, y, x, c] = max of x[n, i, j, c] over the window's pixels (i, j) that lie inside the map.
#pragma once

#include "lightops/common.h"

namespace lightops {

struct MaxPool2dParams {
  Nhwc x;                          // [N, H, W, C]
  Nhwc out;                        // [N, H', W', C]
  DType type = DType::f32;
  Window window;                   // dilation 1; windows may overhang (ceil mode): what lies outside does not count
  void* workspace = nullptr;
  Parallel parallel;
};

int64_t max_pool2d_workspace(const MaxPool2dParams& p);
Status max_pool2d_cpu(const MaxPool2dParams& p);

}  // namespace lightops
