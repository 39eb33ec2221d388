// The layers of a dense block in training as forward and backward see them.
#pragma once

#include "lightops/training/cuda.h"
#include "training/layer.h"

namespace lightops::cuda {

struct DenseStep {
  int64_t index;
  int64_t first, depth;  // channel of the slice; channels that the last convolution reads
  Nhwc prefix, slice;    // of the buffer
  Nhwc middle;           // the layer's 1x1 output before its norm; null data: no bottleneck
  const DenseTrainLayer* layer;
  float *middle_mean, *middle_variance;
};

inline DenseStep dense_step(const DenseBlockTrainParams& p, int64_t index) {
  const int bytes = element_bytes(p.type);
  DenseStep s;
  s.index = index;
  s.first = p.in_channels + index * p.growth;
  s.depth = p.bottleneck ? p.bottleneck : s.first;
  s.prefix = channel_slice(p.buffer, 0, s.first, bytes);
  s.slice = channel_slice(p.buffer, s.first, p.growth, bytes);
  s.layer = p.layer ? &p.layer[index] : nullptr;
  const int64_t map = p.buffer.n * p.buffer.h * p.buffer.w * p.bottleneck;
  unsigned char* const middle = static_cast<unsigned char*>(p.middle) + index * map * bytes;
  s.middle = map_like(p.buffer, p.bottleneck ? middle : nullptr, p.bottleneck, p.bottleneck);
  s.middle_mean = static_cast<float*>(p.middle_mean) + index * p.bottleneck;
  s.middle_variance = static_cast<float*>(p.middle_variance) + index * p.bottleneck;
  return s;
}

}  // namespace lightops::cuda
